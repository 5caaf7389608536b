"""From a logit to a word: temperature, threshold and undecided band, all fitted on validation clips.

Two thresholds stand on the validation scores: above the first a clip is *accused*, and at most a chosen share
of the reals is (the false-positive rate); below the second it is *acquitted*, and at most the same share of
the fakes is. A clip that is accused and not acquitted is "fake", one that is acquitted and not accused is
"real". All others are "undecided": neither, where the classes overlap, or both, where they lie so far apart
that no validation clip had such a score.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.special import logit as logit_of
from scipy.stats import beta

from utils.errors import CheckpointError, DatasetError
from utils.evaluation.metrics import expected_calibration_error, require_both_classes
from utils.evaluation.scoring import ClipScores
from utils.names import brief
from utils.types import Clip

REAL, FAKE, UNDECIDED = "real", "fake", "undecided"
TEMPERATURE_BOUNDS = (0.01, 100.0)


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature T > 0 with which sigmoid(logit / T) has the smallest negative log-likelihood.

    labels, logits: (n,), both classes. The targets are Platt's (1999), (n_fake + 1) / (n_fake + 2) and
    1 / (n_real + 2) instead of 1 and 0: on classes that no clip is on the wrong side of, the likelihood alone
    would ask for T = 0. Logits that are all 0 say nothing of T, which stays 1.
    """
    if not logits.any():
        return 1.0
    fake = labels == 1
    targets = np.where(fake, (fake.sum() + 1) / (fake.sum() + 2), 1 / ((~fake).sum() + 2))

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))

    # convex in 1 / T, hence with a single minimum in log T
    bounds = tuple(math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))


def threshold_above(logits: np.ndarray, rate: float) -> tuple[float, int, float]:
    """The lowest threshold that at most the share `rate` of (n,) logits lies above, how many do, and the
    upper 95 % bound of the share of new logits that will.

    With few logits none may lie above, and the threshold is the largest of them. The bound is exact for
    independent clips: the share of a population that lies above the (k + 1)-th largest of n values is
    Beta(k + 1, n - k) distributed. It is 1 - 0.05^(1/n) for k = 0, e.g. 0.26 for 10 reals, 0.01 for 299.
    """
    # the tolerance is for products such as 0.29 * 100 = 28.999...
    allowed = min(math.floor(rate * len(logits) + 1e-9), len(logits) - 1)
    threshold = float(np.sort(logits)[len(logits) - 1 - allowed])
    bound = float(beta.ppf(0.95, allowed + 1, len(logits) - allowed))
    return threshold, int((logits > threshold).sum()), bound


@dataclass(frozen=True, kw_only=True)
class HeadDecision:
    """How the logits of one head are read: P(fake) = sigmoid(logit / temperature), and two thresholds."""

    temperature: float
    threshold: float  # logit; above it a clip is accused
    acquittal_threshold: float  # logit; below it a clip is acquitted
    num_reals: int  # validation clips that the numbers stand on
    num_fakes: int
    num_reals_accused: int
    num_fakes_acquitted: int
    false_positive_bound: float  # 95 % upper bounds of the rates on new clips, far above `rate` on few clips
    false_negative_bound: float

    def prob(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated P(fake) of logits."""
        return expit(np.asarray(logits, float) / self.temperature)

    @property
    def undecided_band(self) -> tuple[float, float]:
        """The logits between which a clip is undecided."""
        low, high = sorted((self.acquittal_threshold, self.threshold))
        return low, high

    def verdicts(self, logits: np.ndarray) -> np.ndarray:
        """ "real", "fake" or "undecided" for each of (n,) logits. Raises ValueError for NaN."""
        logits = np.asarray(logits, float)
        if np.isnan(logits).any():
            raise ValueError("there is no verdict on a logit that is NaN")
        accused, acquitted = logits > self.threshold, logits < self.acquittal_threshold
        return np.select([accused & ~acquitted, acquitted & ~accused], [FAKE, REAL], UNDECIDED)

    def verdict(self, logit: float | None = None, *, prob: float | None = None) -> str:
        """ "real", "fake" or "undecided" for a logit, or for a calibrated P(fake) as `prob()` gives it."""
        if (logit is None) == (prob is None):
            raise ValueError("verdict takes a logit or a prob")
        value = self.temperature * logit_of(prob) if logit is None else logit
        return str(self.verdicts(np.array([value]))[0])


def fit_head(labels: np.ndarray, logits: np.ndarray, rate: float, what: str) -> HeadDecision:
    """Temperature and thresholds of one head from (n,) validation labels and logits.

    Raises DatasetError on one class only, or logits that are not finite.
    """
    require_both_classes(labels, what)
    if not np.isfinite(logits).all():
        raise DatasetError(f"{what}: {int((~np.isfinite(logits)).sum())} scores are not finite")
    reals, fakes = logits[labels == 0], logits[labels == 1]
    threshold, num_accused, false_positive_bound = threshold_above(reals, rate)
    mirrored, num_acquitted, false_negative_bound = threshold_above(-fakes, rate)
    return HeadDecision(
        temperature=fit_temperature(labels, logits),
        threshold=threshold,
        acquittal_threshold=-mirrored,
        num_reals=len(reals),
        num_fakes=len(fakes),
        num_reals_accused=num_accused,
        num_fakes_acquitted=num_acquitted,
        false_positive_bound=false_positive_bound,
        false_negative_bound=false_negative_bound,
    )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All that turns a detector's logits into verdicts; stored in the checkpoint."""

    rate: float  # the share of reals, and of fakes, that may be wrongly accused, or acquitted
    clip: HeadDecision
    video: HeadDecision | None = None  # None: the method, or validation, says nothing of the modality
    audio: HeadDecision | None = None

    def verdict(
        self, logit: float | None = None, *, prob: float | None = None, off_domain: Sequence[str] = ()
    ) -> str:
        """ "real", "fake" or "undecided". With any reason in `off_domain` (a face too small, too few frames,
        no speech) the detector has not learnt from such input, and the verdict is "undecided".
        """
        return UNDECIDED if off_domain else self.clip.verdict(logit, prob=prob)

    def modality_verdicts(self, video_logit: float | None, audio_logit: float | None) -> dict[str, str]:
        """{"video": verdict, "audio": verdict} of the modalities that have a logit and a fitted head."""
        heads = {"video": (self.video, video_logit), "audio": (self.audio, audio_logit)}
        return {
            name: head.verdict(logit)
            for name, (head, logit) in heads.items()
            if head is not None and logit is not None
        }

    def fake_modalities(self, video_logit: float | None, audio_logit: float | None) -> tuple[str, ...]:
        """Which of "video" and "audio" are fake."""
        verdicts = self.modality_verdicts(video_logit, audio_logit)
        return tuple(name for name, verdict in verdicts.items() if verdict == FAKE)

    def as_plain(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Decision:
        """The inverse of as_plain(). Raises CheckpointError if anything is missing, unknown or no number."""
        try:
            heads = {
                name: None if values[name] is None else _head_from_plain(values[name])
                for name in ("clip", "video", "audio")
            }
            if heads["clip"] is None or values.keys() != {"rate", *heads}:
                raise CheckpointError(f"the stored decision has {', '.join(values)}")
            return cls(rate=_finite(values["rate"]), **heads)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the stored decision is incomplete or damaged ({error!r})") from error


def _finite(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not -sys.float_info.max <= value <= sys.float_info.max:  # NaN is in no interval
        raise CheckpointError(f"the stored decision holds {brief(value)} where a number should be")
    return value


def _head_from_plain(values: Mapping[str, Any]) -> HeadDecision:
    head = HeadDecision(**{name: _finite(value) for name, value in values.items()})
    if head.temperature <= 0:
        raise CheckpointError(f"the stored decision has a temperature of {head.temperature}")
    return head


def fit_decision(
    labels: np.ndarray,
    logits: np.ndarray,
    rate: float,
    what: str,
    *,
    modalities: Mapping[str, tuple[np.ndarray, np.ndarray | None]] | None = None,
) -> Decision:
    """Fit the decision on validation clips.

    labels, logits: (n,). modalities: {"video": (labels, logits), "audio": ...}, NaN labels = unknown, no
    logits = the method has no such head. A modality whose known clips are of one class stays None, since
    nothing can be learnt of it. Raises DatasetError, naming `what`, if the clips themselves are of one class.
    """
    heads = {}
    for name, (modality_labels, modality_logits) in (modalities or {}).items():
        known = ~np.isnan(modality_labels)
        if modality_logits is None or len(np.unique(modality_labels[known])) < 2:
            continue
        heads[name] = fit_head(modality_labels[known], modality_logits[known], rate, f"{what}, {name}")
    return Decision(rate=rate, clip=fit_head(labels, logits, rate, what), **heads)


def decision_of_scores(clips: Sequence[Clip], scores: ClipScores, rate: float, what: str) -> Decision:
    """Fit the decision on the scores of validation clips, and on what is known of their modalities."""
    by_id = {clip.clip_id: clip for clip in clips}
    labels = {
        name: np.array([getattr(by_id[clip_id], f"{name}_label") for clip_id in scores.clip_ids], float)
        for name in ("video", "audio")  # None, which is unknown, becomes NaN
    }
    modalities = {
        "video": (labels["video"], scores.video_logits),
        "audio": (labels["audio"], scores.audio_logits),
    }
    return fit_decision(scores.labels, scores.logits, rate, what, modalities=modalities)


def decision_results(decision: Decision, labels: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """What test_metrics.json says of the stored decision on (n,) labels and logits of both classes: confusion
    and rates at the threshold, verdicts with the undecided band, calibration before and after.
    """
    head, fake = decision.clip, labels == 1
    accused, verdicts = logits > head.threshold, head.verdicts(logits)
    counts = {
        name: {verdict: int((verdicts[chosen] == verdict).sum()) for verdict in (REAL, FAKE, UNDECIDED)}
        for name, chosen in (("real", ~fake), ("fake", fake))
    }
    decided = verdicts != UNDECIDED
    right = verdicts == np.where(fake, FAKE, REAL)
    return {
        "stored": decision.as_plain(),
        "at_threshold": {
            "true_positives": int((accused & fake).sum()),
            "false_negatives": int((~accused & fake).sum()),
            "false_positives": int((accused & ~fake).sum()),
            "true_negatives": int((~accused & ~fake).sum()),
            "false_positive_rate": float(accused[~fake].mean()),
            "false_negative_rate": float((~accused[fake]).mean()),
            "accuracy": float((accused == fake).mean()),
            "balanced_accuracy": float((accused[fake].mean() + (~accused[~fake]).mean()) / 2),
        },
        "verdicts": counts,  # of the reals and of the fakes
        "undecided_share": float((~decided).mean()),
        "accuracy_of_decided": float(right[decided].mean()) if decided.any() else None,
        "ece_before": expected_calibration_error(labels, expit(logits)),
        "ece_after": expected_calibration_error(labels, head.prob(logits)),
    }
