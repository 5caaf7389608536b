"""Logits over time become segments with confidences, by rules that validation clips have chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from utils.errors import CheckpointError
from utils.evaluation.localisation import LocatedFiles, localisation_metrics
from utils.evaluation.metrics import Bools, Floats, Rows
from utils.evaluation.timelines import POOLS, STREAMS, ClipTimeline
from utils.names import brief

# next to predictions.csv: what a detector found, and the truth (loaders/batches/sliding.py writes both)
SEGMENTS_NAME, TRUTHS_NAME = "segments.json", "true_segments.json"
NUM_LEVELS = 24
MAX_PROPOSALS = 100
MAX_STRIDE_S = 3600.0
MIN_SCALE = 1e-3  # of logits that tell nothing, or the opposite
# what is tried on validation clips, one parameter after the other, beginning with the first values
CHOICES: dict[str, tuple[float, ...]] = {
    "sigma": (0.3, 0.1, 0.6),
    "contrast": (1.0, 0.0),
    "grow_s": (0.0, 0.1, 0.2),
    "merge_s": (0.0, 0.1, 0.3),
}


def _runs_above(values: Floats, levels: Sequence[float], gap: float) -> npt.NDArray[np.int64]:
    """(n, 2) start and end of runs of (T,) values at or above a level; gaps up to `gap` steps are closed."""
    above = np.pad(values >= np.asarray(levels)[:, None], ((0, 0), (1, 1))).astype(np.int8)
    edges = np.diff(above, axis=1)
    (level, start), (_, end) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    if not len(start):
        return np.zeros((0, 2), np.int64)
    is_apart = (level[1:] != level[:-1]) | (start[1:] - end[:-1] > gap)
    return np.unique(
        np.stack([start[np.append(True, is_apart)], end[np.append(is_apart, True)]], axis=1), axis=0
    )


def soft_nms(spans: Floats, confidence: Floats, sigma: float) -> tuple[Rows, Floats]:
    """Rows of the best spans, at most MAX_PROPOSALS, and their confidences, by falling confidence.

    spans: (n, 2) start and end. A confidence is lowered by exp(-IoU^2 / sigma) for every better span that it
    overlaps: soft-NMS (Bodla et al., 2017) with Gaussian weights.
    """
    left, rows, found = confidence.copy(), list[int](), list[float]()
    while len(rows) < min(len(left), MAX_PROPOSALS):
        best = int(np.argmax(left))
        rows.append(best)
        found.append(float(left[best]))
        (start, end), (starts, ends) = spans[best], spans.T
        inner = np.maximum(np.minimum(ends, end) - np.maximum(starts, start), 0)
        iou = inner / np.maximum(np.maximum(ends, end) - np.minimum(starts, start), 1e-12)
        left *= np.exp(-(iou**2) / sigma)
        left[best] = -np.inf
    return np.array(rows, np.intp), np.array(found)


@dataclass(frozen=True, kw_only=True)
class SegmentRule:
    """How (T,) logits become segments.

    Candidates are the runs of steps at or above each of the levels. The confidence of one is the mean P(step
    is forged) in it, times 1 minus `contrast` times the larger of those next to it, on either side half as
    long; soft non-maximum suppression lowers it for candidates that overlap better ones.
    """

    pool: str  # of POOLS
    scale: float  # P(step is forged) = sigmoid(scale * logit + offset)
    offset: float
    levels: tuple[float, ...]  # logits
    sigma: float  # of soft_nms
    contrast: float
    grow_s: float  # by which a run is made longer at either end
    merge_s: float  # gaps up to it are closed

    def propose(self, logits: Floats, step_s: float) -> Floats:
        """(n, 3) confidence, start and end in seconds from (T,) logits, by falling confidence."""
        num_steps = len(logits)
        runs = _runs_above(logits, self.levels, self.merge_s / step_s)
        sums = np.concatenate([[0.0], np.cumsum(expit(self.scale * logits + self.offset))])

        def mean(start: Any, end: Any) -> Floats:
            start, end = np.clip(start, 0, num_steps), np.clip(end, 0, num_steps)
            return np.asarray((sums[end] - sums[start]) / np.maximum(end - start, 1))

        start, end = runs.T
        margin = np.maximum(1, (end - start) // 2)
        around = np.maximum(mean(start - margin, start), mean(end, end + margin))
        grow = self.grow_s / step_s
        spans = np.stack([np.maximum(start - grow, 0), np.minimum(end + grow, num_steps)], axis=1) * step_s
        rows, found = soft_nms(spans, mean(start, end) * (1 - self.contrast * around), self.sigma)
        return np.column_stack([found, spans[rows]])


def step_labels(segments: Sequence[tuple[float, float]], num_steps: int, step_s: float) -> Bools:
    """(T,) whether the middle of each step lies in a segment (start, end), in seconds."""
    times = (np.arange(num_steps) + 0.5) * step_s
    inside = [(start <= times) & (times < end) for start, end in segments]
    return np.any(inside, axis=0) if inside else np.zeros(num_steps, bool)


def _first_rule(logits: Sequence[Floats], labels: Sequence[Bools], pool: str) -> SegmentRule:
    """Scale and offset fitted, levels spread over the logits, the rest as CHOICES begin."""
    values, forged = np.concatenate(logits), np.concatenate(labels)
    scale, offset = MIN_SCALE, 0.0
    if 0 < forged.sum() < len(forged):
        fitted = LogisticRegression().fit(values[:, None], forged)
        scale, offset = max(float(fitted.coef_[0, 0]), MIN_SCALE), float(fitted.intercept_[0])
    # of steps of both kinds alike: most steps are genuine, but the ends of forged runs lie between the two
    weights = np.where(forged, 1 / max(forged.sum(), 1), 1 / max((~forged).sum(), 1))
    order = np.argsort(values)
    shares = np.cumsum(weights[order]) / weights.sum()
    places = np.searchsorted(shares, (np.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS)
    levels = np.unique(values[order][np.minimum(places, len(values) - 1)])
    first = {name: choices[0] for name, choices in CHOICES.items()}
    return SegmentRule(pool=pool, scale=scale, offset=offset, levels=tuple(levels.tolist()), **first)


def fit_rule(
    timelines: Sequence[ClipTimeline], truths: Sequence[Sequence[tuple[float, float]]], stream: str
) -> tuple[SegmentRule, float]:
    """The rule with the highest challenge score (correct form) on clips, and that score.

    truths: the true segments of each clip in seconds, at least one in all of them. Pools are tried with all
    else fixed, then one parameter after the other (CHOICES).
    """
    names = [str(number) for number in range(len(timelines))]

    def score(rule: SegmentRule, logits: Sequence[Floats]) -> float:
        proposals = [rule.propose(row, line.step_s) for row, line in zip(logits, timelines, strict=True)]
        return float(localisation_metrics(LocatedFiles.of(names, truths, proposals), "correct")["score"])

    labels = [
        step_labels(truth, line.num_steps, line.step_s) for truth, line in zip(truths, timelines, strict=True)
    ]
    found: list[tuple[float, SegmentRule]] = []
    for pool in POOLS:
        logits = [line.pooled(stream, pool) for line in timelines]
        rule = _first_rule(logits, labels, pool)
        best = score(rule, logits)
        for name, choices in CHOICES.items():
            for value in choices[1:]:
                changed: dict[str, Any] = {name: value}
                other = dataclasses.replace(rule, **changed)
                if (reached := score(other, logits)) > best:
                    best, rule = reached, other
        found.append((best, rule))
    best, rule = max(found, key=lambda pair: pair[0])
    return rule, best


@dataclass(frozen=True, kw_only=True)
class Localiser:
    """The rules of a checkpoint, by stream, and what they were chosen on."""

    stride_s: float  # from one window to the next
    rules: Mapping[str, SegmentRule]
    num_clips: int  # validation clips
    scores: Mapping[str, float]  # stream -> challenge score (correct form) on them

    def propose(self, timeline: ClipTimeline) -> dict[str, Floats]:
        """Stream -> (n, 3) confidence, start and end in seconds."""
        return {
            stream: rule.propose(timeline.pooled(stream, rule.pool), timeline.step_s)
            for stream, rule in self.rules.items()
            if timeline.has(stream)
        }

    def as_plain(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, values: Any) -> Localiser:
        """The inverse of as_plain(). Raises CheckpointError if a value is missing, extra or out of range."""
        try:
            rules = {str(name): _rule_from_plain(rule) for name, rule in values["rules"].items()}
            others = {name: value for name, value in values.items() if name != "rules"}
            if not rules or not set(rules) <= set(STREAMS):
                raise CheckpointError(f"the stored localiser has rules for {brief(list(rules))}")
            if not 0 < _number(values["stride_s"]) < MAX_STRIDE_S:
                raise CheckpointError(f"the stored localiser has a stride of {brief(values['stride_s'])}")
            for value in (values["num_clips"], *values["scores"].values()):
                _number(value)
            return cls(rules=rules, **others)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the stored localiser is incomplete or damaged ({error!r})") from error


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise CheckpointError(f"the stored localiser has {brief(value)} instead of a number")
    return value


def _rule_from_plain(values: Mapping[str, Any]) -> SegmentRule:
    numbers = {name: _number(value) for name, value in values.items() if name not in ("pool", "levels")}
    levels = tuple(map(_number, values["levels"]))
    if values["pool"] not in POOLS or numbers["sigma"] <= 0 or len(levels) > NUM_LEVELS:
        raise CheckpointError(f"the stored localiser has the rule {brief(values)}")
    return SegmentRule(pool=values["pool"], levels=levels, **numbers)
