"""Temporal localisation: how well proposed segments find the forged ones, over all files of a set.

A proposal is (confidence, start, end), a label (start, end) in seconds. Two forms stand next to each other:

- `official`: the challenge's own program (avdeepfake1m; ControlNet/AV-Deepfake1M e132970, src/loc_1d.rs), in
  float32. A label is found where IoU > t; proposals of a file count in the order in which they are given;
  the step of recall of the very first proposal is left out of AP, so a single perfect proposal scores 0.
- `correct`: IoU >= t, proposals by falling confidence, every step counted.

Both: within a file each label takes the first proposal that reaches IoU t and is not taken yet (a true
positive; the same pairs as when each proposal takes the first label that is left). AP@t is the area under
precision over recall of all proposals by falling confidence, precision made non-increasing. AR@n is the share
of labels found by the first n proposals of their file, a mean over ten t. Ties keep the order of input.
A file without proposals finds nothing: the official program stops there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from utils.errors import DatasetError
from utils.evaluation.bootstrap import PersonResamples, or_reason
from utils.evaluation.bounds import Persons
from utils.evaluation.metrics import Bools, Floats, Rows

AP_IOUS = (0.5, 0.75, 0.9, 0.95)
AR_IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
AR_COUNTS = (100, 50, 30, 20, 10, 5)
SCORE_COUNTS = (50, 30, 20, 10, 5)  # of AR_COUNTS: those of the challenge's score
NUM_MISSES, NUM_SHOWN = 12, 5  # files on a page, and proposals of each
ROUNDING = 1e-9  # IoU that `correct` forgives
FORMS = ("official", "correct")
Spans = npt.NDArray[np.floating[Any]]  # (n, 2) start and end in seconds


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What AP and AR are computed at."""

    ap_ious: tuple[float, ...] = AP_IOUS
    ar_ious: tuple[float, ...] = AR_IOUS
    ar_counts: tuple[int, ...] = AR_COUNTS


@dataclass(frozen=True, kw_only=True)
class LocatedFiles:
    """Labels and proposals of F files, in the order of the files."""

    names: tuple[str, ...]  # F
    labels: Floats  # (L, 2) seconds
    label_file: Rows  # (L,) number of each label's file
    proposals: Floats  # (P, 3) confidence, and start and end in units of 1 / fps
    proposal_file: Rows  # (P,)
    fps: float  # units of a proposal's ends in a second; 1: they are seconds

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        labels: Sequence[Sequence[Sequence[float]]],
        proposals: Sequence[Any],
        fps: float = 1.0,
    ) -> LocatedFiles:
        """From F names, F lists of (start, end) and F lists or arrays of (confidence, start, end).

        Raises DatasetError, naming the file, for rows of another length and numbers that are not finite.
        """
        if not fps > 0:
            raise DatasetError(f"proposals at {fps} units per second")
        tables = {"segments": (2, labels), "proposals": (3, proposals)}
        flat: dict[str, tuple[Floats, Rows]] = {}
        for what, (width, rows_of) in tables.items():
            pairs = zip(names, rows_of, strict=True)
            parts = [_table(rows, width, f"{name}: {what}") for name, rows in pairs]
            file_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            flat[what] = np.concatenate([np.zeros((0, width)), *parts]), file_of
        (spans, label_file), (rows, proposal_file) = flat["segments"], flat["proposals"]
        return cls(
            names=tuple(names),
            labels=spans,
            label_file=label_file,
            proposals=rows,
            proposal_file=proposal_file,
            fps=fps,
        )


def _table(rows: Any, width: int, what: str) -> Floats:
    """(n, width) of rows of numbers."""
    if not len(rows):
        return np.zeros((0, width))
    try:
        table = np.asarray(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{what} are not rows of numbers ({error})") from error
    if table.ndim != 2 or table.shape[1] != width:
        raise DatasetError(f"{what} of shape {table.shape}, expected rows of {width} numbers")
    if not np.isfinite(table).all():
        raise DatasetError(f"{what} with a number that is not finite")
    return table


def _ious(proposed: Spans, labels: Spans) -> Spans:
    """(n,) IoU of n pairs, as the official program computes it; 0 of a pair without length."""
    inner = np.minimum(proposed[:, 1], labels[:, 1]) - np.maximum(proposed[:, 0], labels[:, 0])
    outer = np.maximum(proposed[:, 1], labels[:, 1]) - np.minimum(proposed[:, 0], labels[:, 0])
    found: Spans = np.divide(np.maximum(inner, 0), outer, out=np.zeros_like(outer), where=outer > 0)
    return found


class Matches:
    """Which proposals are true positives and which labels are found, in one of the FORMS."""

    def __init__(self, files: LocatedFiles, form: str, at: Thresholds) -> None:
        if not len(files.labels):
            raise DatasetError("no file has a forged segment: there is nothing to find")
        self.is_official, self.at, self.num_labels = form == "official", at, len(files.labels)
        dtype: Any = np.float32 if self.is_official else np.float64
        rows: Spans = files.proposals.astype(dtype)
        self.file_of = files.proposal_file
        if not self.is_official:
            order = np.lexsort((-rows[:, 0], self.file_of))  # stable; the official program does not sort
            rows = rows[order]  # the files stay where they are
        self.confidence, spans = rows[:, 0], rows[:, 1:] / dtype(files.fps)
        # (len(ap_ious), P), and the best IoU of each label among the first n proposals: (len(ar_counts), L)
        self.is_true = np.zeros((len(at.ap_ious), len(rows)), bool)
        self.best = np.zeros((len(at.ar_counts), self.num_labels), dtype)
        self._match(spans, files.labels.astype(dtype), files.label_file)

    def _match(self, spans: Spans, labels: Spans, label_file: Rows) -> None:
        num_files = 1 + max(label_file.max(), self.file_of.max(initial=0))
        labels_of = np.bincount(label_file, minlength=num_files)
        proposals_of = np.bincount(self.file_of, minlength=num_files)
        first_label = np.cumsum(labels_of) - labels_of
        rank = np.arange(len(spans)) - (np.cumsum(proposals_of) - proposals_of)[self.file_of]
        # one label of every file at a time
        for number in range(labels_of.max()):
            rows = np.flatnonzero(labels_of[self.file_of] > number)
            if not len(rows):
                continue
            label = first_label[self.file_of[rows]] + number  # not falling
            ious = _ious(spans[rows], labels[label])
            starts = np.flatnonzero(_is_new(label))
            for place, count in enumerate(self.at.ar_counts):
                early = np.where(rank[rows] < count, ious, 0)
                self.best[place, label[starts]] = np.maximum.reduceat(early, starts)
            for place, threshold in enumerate(self.at.ap_ious):
                free = np.flatnonzero(self.reaches(ious, threshold) & ~self.is_true[place, rows])
                self.is_true[place, rows[free[_is_new(label[free])]]] = True

    def reaches(self, ious: Spans, threshold: float) -> Bools:
        """Whether each IoU is enough."""
        if self.is_official:
            return np.asarray(ious > np.float32(threshold))
        return np.asarray(ious >= threshold - ROUNDING)

    def found(self) -> Bools:
        """(len(ar_ious), len(ar_counts), L): whether a label is found by the first n proposals."""
        return np.stack([self.reaches(self.best, threshold) for threshold in self.at.ar_ious])

    def by_confidence(self) -> Rows:
        """(P,) proposals of all files by falling confidence."""
        return np.argsort(-self.confidence, kind="stable")

    def metrics(self) -> dict[str, Any]:
        """{"ap": {t: value}, "ar": {n: value}, "score": value}; no score without the challenge's t and n."""
        order = self.by_confidence()
        ap = [self._average_precision(is_true[order]) for is_true in self.is_true]
        ar = self.found().mean(axis=2).mean(axis=0).tolist()
        return _named(self.at, ap, ar)

    def _average_precision(self, is_true: Bools) -> float:
        """AP of (P,) proposals by falling confidence, from the true ones, where precision is highest."""
        places = np.flatnonzero(is_true)
        precision = (np.arange(len(places)) + 1) / (places + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        if self.is_official:
            envelope = envelope[places > 0]
        return float(envelope.sum() / self.num_labels)


def _is_new(values: Rows) -> Bools:
    """Whether each of some values that do not fall is the first of its kind."""
    return np.diff(values, prepend=-1) != 0


def _named(at: Thresholds, ap: Sequence[Any], ar: Sequence[Any]) -> dict[str, Any]:
    """AP and AR by their thresholds, and the challenge's score of them: numbers or arrays."""
    named: dict[str, Any] = {
        "ap": dict(zip(map(str, at.ap_ious), ap, strict=True)),
        "ar": dict(zip(map(str, at.ar_counts), ar, strict=True)),
    }
    parts = [[named["ap"].get(str(t)) for t in AP_IOUS], [named["ar"].get(str(n)) for n in SCORE_COUNTS]]
    if all(value is not None for part in parts for value in part):
        named["score"] = sum(sum(part) / len(part) / 2 for part in parts)
    return named


def localisation_metrics(files: LocatedFiles, form: str, at: Thresholds | None = None) -> dict[str, Any]:
    """{"ap": {"0.5": AP@0.5, ...}, "ar": {"100": AR@100, ...}, "score": the challenge's} in one of the FORMS.

    Raises DatasetError if no file has a label.
    """
    return Matches(files, form, at or Thresholds()).metrics()


class WeightedMatches:
    """The correct metrics under weights of persons. person_of: (F,) number of each file's person."""

    def __init__(self, files: LocatedFiles, person_of: Rows) -> None:
        self.at = Thresholds()
        matches, num_persons = Matches(files, "correct", self.at), int(person_of.max()) + 1
        order = matches.by_confidence()
        persons = person_of[files.proposal_file[order]]
        is_true = matches.is_true[:, order]
        self.places = np.flatnonzero(is_true.any(axis=0))  # J, true at some threshold
        self.persons = persons[self.places]
        self.is_true = is_true[:, self.places]
        # (J, persons): how many proposals of a person lie after the place before and up to this one
        until = persons[: self.places[-1] + 1] if len(self.places) else persons[:0]
        step = np.searchsorted(self.places, np.arange(len(until)))
        shape = len(self.places), num_persons
        self.new_proposals = csr_array((np.ones(len(until)), (step, until)), shape=shape)
        label_persons = person_of[files.label_file]
        self.labels = np.bincount(label_persons, minlength=num_persons).astype(np.float64)
        found = matches.found().mean(axis=0)  # (counts, L): share of the ten t
        self.found = np.stack([np.bincount(label_persons, row, minlength=num_persons) for row in found])

    def metrics(self, weights: Floats) -> dict[str, Any]:
        """As `localisation_metrics`, each value (b,). weights: (b, persons), above 0 for some label."""
        num_labels = weights @ self.labels
        proposals = np.cumsum(self.new_proposals @ weights.T, axis=0)  # (J, b)
        own = weights.T[self.persons]
        ap = []
        for is_true in self.is_true:
            steps = own[is_true]
            below = proposals[is_true]
            precision = np.divide(np.cumsum(steps, axis=0), below, out=np.zeros_like(below), where=below > 0)
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            ap.append(np.einsum("jb,jb->b", envelope, steps) / num_labels)
        return _named(self.at, ap, list(self.found @ weights.T / num_labels))


def localisation_intervals(files: LocatedFiles, persons: Persons, what: str) -> dict[str, Any]:
    """95 % intervals of the correct metrics, by bootstrap over the persons of the F files.

    Persons with forged files are drawn apart from those without, so that every resample has labels. Raises
    NoStatisticError if either kind is of one person only.
    """
    resamples = _resamples(files, persons, what)
    named: dict[str, Any] = {"ap": {}, "ar": {}}
    for (key, *name), values in _on_resamples(files, resamples).items():
        if name:
            named[key][name[0]] = resamples.interval(values)
        else:
            named[key] = resamples.interval(values)
    return named


def _resamples(files: LocatedFiles, persons: Persons, what: str) -> PersonResamples:
    has_labels = np.bincount(files.label_file, minlength=len(files.names)) > 0
    return PersonResamples(has_labels.astype(np.int64), persons, what, may_lack_reals=True)


def _on_resamples(files: LocatedFiles, resamples: PersonResamples) -> dict[tuple[str, ...], Floats]:
    """The correct metrics on every resample: ("ap", t), ("ar", n) and ("score",) -> (resamples,)."""
    weighted = WeightedMatches(files, resamples.person_of)
    blocks = [weighted.metrics(counts) for counts in resamples.blocks()]
    named: dict[tuple[str, ...], Floats] = {
        (key, name): np.concatenate([block[key][name] for block in blocks])
        for key in ("ap", "ar")
        for name in blocks[0][key]
    }
    named["score",] = np.concatenate([block["score"] for block in blocks])
    return named


def localisation_difference(
    pair: tuple[LocatedFiles, LocatedFiles], persons: Persons, what: str
) -> dict[str, Any]:
    """Two detectors on the same F files: {"ap_0.5": {"a", "b", "difference", "interval"}, ..., "score": ...}.

    The correct form, first minus second; 95 % intervals over the persons of the files, paired: both are seen
    on the same resamples. Raises DatasetError if files or labels differ, or no file has a label, and
    NoStatisticError as `localisation_intervals`.
    """
    a, b = pair
    if a.names != b.names or not np.array_equal(a.label_file, b.label_file):
        raise DatasetError(f"{what}: the two do not have the same files with the same forged segments")
    if not np.allclose(a.labels, b.labels):
        raise DatasetError(f"{what}: the two do not have the same forged segments")
    values = [localisation_metrics(files, "correct") for files in pair]
    resamples = _resamples(a, persons, what)
    draws = [_on_resamples(files, resamples) for files in pair]
    found = {}
    for path in draws[0]:
        first, second = (v[path[0]][path[1]] if len(path) > 1 else v[path[0]] for v in values)
        interval = resamples.interval(draws[0][path] - draws[1][path])
        row = {"a": first, "b": second, "difference": first - second, "interval": list(interval)}
        found["_".join(path)] = row
    return found


def worst_misses(files: LocatedFiles) -> list[dict[str, Any]]:
    """Up to NUM_MISSES files of which the segments are found worst, for a page: the worst first.

    "overlap": mean over a file's segments of the largest IoU with one of its NUM_SHOWN best proposals.
    """
    best = Matches(files, "correct", Thresholds(ar_counts=(NUM_SHOWN,))).best[0]
    counts = np.bincount(files.label_file, minlength=len(files.names))
    overlaps = np.bincount(files.label_file, best, minlength=len(files.names)) / np.maximum(counts, 1)
    order = [row for row in np.argsort(overlaps, kind="stable").tolist() if counts[row]]
    misses = []
    for row in order[:NUM_MISSES]:
        proposals = files.proposals[files.proposal_file == row]
        shown = proposals[np.argsort(-proposals[:, 0], kind="stable")[:NUM_SHOWN]]
        misses.append(
            {
                "clip_id": files.names[row],
                "overlap": float(overlaps[row]),
                "segments": files.labels[files.label_file == row].tolist(),
                "proposals": shown.round(4).tolist(),
            }
        )
    return misses


def localisation_results(files: LocatedFiles, persons: Persons, what: str) -> dict[str, Any]:
    """Both forms, intervals of the correct one, counts and worst misses, for test_metrics.json.

    persons: F names. Intervals that the data do not allow are {"reason": why}; so are all numbers where no
    file has a label.
    """
    counts: Mapping[str, int] = {
        "num_files": len(files.names),
        "num_files_with_segments": len(set(files.label_file.tolist())),
        "num_files_without_proposals": len(files.names) - len(set(files.proposal_file.tolist())),
        "num_segments": len(files.labels),
        "num_proposals": len(files.proposals),
    }
    if not len(files.labels):
        return {**counts, "reason": f"{what} has no forged segment"}
    forms = {form: localisation_metrics(files, form) for form in FORMS}
    intervals = or_reason(localisation_intervals, files, persons, what)
    return {**counts, **forms, "intervals": intervals, "worst": worst_misses(files)}
