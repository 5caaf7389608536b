"""From logits to verdicts: temperature, threshold and undecided band, all fitted on validation clips.

There are two thresholds. Above the first a clip is *accused*: at most a chosen share of the validation reals
is (the false-positive rate). Below the second a clip is *acquitted*: at most the same share of the validation
fakes is. Accused and not acquitted is "fake"; acquitted and not accused is "real". All else is "undecided":
neither, where the classes overlap, or both, where they are so far apart that no validation clip scored there.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit

from utils.clip_type import Clip
from utils.errors import CheckpointError
from utils.evaluation.bounds import Persons, threshold_above
from utils.evaluation.cross_fit import CrossFit
from utils.evaluation.metrics import (
    Floats,
    Labels,
    expected_calibration_error,
    require_both_classes,
    require_finite_scores,
)
from utils.evaluation.scoring import ClipScores
from utils.evaluation.units import UNKNOWN, is_kind, kinds_of
from utils.names import brief

REAL, FAKE, UNDECIDED = "real", "fake", "undecided"
NOT_CROSS_FITTED = "the scores of the run's epochs were not kept for it"
TEMPERATURE_BOUNDS = (0.01, 100.0)


def fit_temperature(labels: Labels, logits: Floats) -> float:
    """The temperature T > 0 that minimises the negative log-likelihood of sigmoid(logit / T).

    labels, logits: (n,), both classes. The targets are Platt's (1999), (n_fake + 1) / (n_fake + 2) and
    1 / (n_real + 2) instead of 1 and 0; with 1 and 0, perfectly separated classes would give T = 0. If all
    logits are 0, T is 1.
    """
    if not logits.any():
        return 1.0
    fake = labels == 1
    targets = np.where(fake, (fake.sum() + 1) / (fake.sum() + 2), 1 / ((~fake).sum() + 2))

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))

    # convex in 1 / T, so there is a single minimum in log T
    bounds = tuple(math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))


@dataclass(frozen=True, kw_only=True)
class HeadDecision:
    """How to read the logits of one head: P(fake) = sigmoid(logit / temperature), and two thresholds."""

    temperature: float
    threshold: float  # logit; above it a clip is accused
    acquittal_threshold: float  # logit; below it a clip is acquitted
    num_reals: int  # validation clips that the numbers are fitted on
    num_fakes: int
    num_reals_accused: int
    num_fakes_acquitted: int
    # 95 % upper bounds of the rates on clips of new persons; far above `rate` if fitted on few persons
    false_positive_bound: float
    false_negative_bound: float
    # whose clips these are; 0: a checkpoint from before, whose bounds take clips for independent
    num_real_persons: int = 0
    num_fake_persons: int = 0

    def prob(self, logits: Floats) -> Floats:
        """Calibrated P(fake) of logits."""
        probs: Floats = expit(np.asarray(logits, float) / self.temperature)
        return probs

    def verdicts(self, logits: Floats) -> npt.NDArray[np.str_]:
        """ "real", "fake" or "undecided" for each of (n,) logits. Raises ValueError for NaN."""
        logits = np.asarray(logits, float)
        if np.isnan(logits).any():
            raise ValueError("a logit is NaN: no verdict")
        accused, acquitted = logits > self.threshold, logits < self.acquittal_threshold
        return np.select([accused & ~acquitted, acquitted & ~accused], [FAKE, REAL], UNDECIDED)

    def verdict(self, logit: float) -> str:
        """ "real", "fake" or "undecided" for one logit."""
        return str(self.verdicts(np.array([logit]))[0])


def fit_head(labels: Labels, logits: Floats, persons: Persons, rate: float, what: str) -> HeadDecision:
    """Fit temperature and thresholds of one head on (n,) validation labels and logits.

    persons: who is in each of the n clips. Raises DatasetError, naming `what`, if a class is missing or a
    logit is not finite.
    """
    require_both_classes(labels, what)
    require_finite_scores(logits, what)
    names = np.asarray(persons, str)
    reals, fakes = logits[labels == 0], logits[labels == 1]
    of_reals, of_fakes = names[labels == 0], names[labels == 1]
    threshold, num_accused, false_positive_bound = threshold_above(reals, rate, of_reals)
    mirrored, num_acquitted, false_negative_bound = threshold_above(-fakes, rate, of_fakes)
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
        num_real_persons=len(np.unique(of_reals)),
        num_fake_persons=len(np.unique(of_fakes)),
    )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Turns a detector's logits into verdicts; stored in the checkpoint."""

    rate: float  # target share of validation reals wrongly accused, and of fakes wrongly acquitted
    clip: HeadDecision
    video: HeadDecision | None = None  # None: no such head, or validation clips of one class only
    audio: HeadDecision | None = None
    # what the persons of the validation reals are (see utils/evaluation/units.py)
    identity_is: str = UNKNOWN
    # epoch and threshold chosen again without some of the persons; a text: why that is not known
    cross_fit: CrossFit | str = NOT_CROSS_FITTED

    def verdict(self, logit: float, *, off_domain: Sequence[str] = ()) -> str:
        """ "real", "fake" or "undecided".

        `off_domain`: reasons why the input is unlike the training data (a face too small, too few frames, no
        speech). With any of them the verdict is "undecided".
        """
        return UNDECIDED if off_domain else self.clip.verdict(logit)

    def modality_verdicts(
        self, video_logit: float | None, audio_logit: float | None, *, off_domain: Sequence[str] = ()
    ) -> dict[str, str]:
        """{"video": verdict, "audio": verdict}, of those modalities that have a logit and a fitted head.

        "undecided" if there are reasons `off_domain`, as in `verdict`.
        """
        heads = {"video": (self.video, video_logit), "audio": (self.audio, audio_logit)}
        return {
            name: UNDECIDED if off_domain else head.verdict(logit)
            for name, (head, logit) in heads.items()
            if head is not None and logit is not None
        }

    def as_plain(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Decision:
        """The inverse of as_plain(). Raises CheckpointError if a value is missing, extra or not a number."""
        try:
            if values.keys() - {"identity_is", "cross_fit"} != {"rate", "clip", "video", "audio"}:
                raise CheckpointError(f"the stored decision has the fields {', '.join(values)}")
            video, audio = (
                None if values[name] is None else _head_from_plain(values[name])
                for name in ("video", "audio")
            )
            clip = _head_from_plain(values["clip"])
            identity_is = values.get("identity_is", UNKNOWN)
            if not is_kind(identity_is):
                raise CheckpointError(f"the stored decision has persons that are {brief(identity_is)}")
            return cls(
                rate=_finite(values["rate"]),
                clip=clip,
                video=video,
                audio=audio,
                identity_is=identity_is,
                cross_fit=_cross_fit_from_plain(values.get("cross_fit", NOT_CROSS_FITTED)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the stored decision is incomplete or damaged ({error!r})") from error


def _finite(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not -sys.float_info.max <= value <= sys.float_info.max:  # False for NaN
        raise CheckpointError(f"the stored decision has {brief(value)} instead of a number")
    return value


def _head_from_plain(values: Mapping[str, Any]) -> HeadDecision:
    head = HeadDecision(**{name: _finite(value) for name, value in values.items()})
    if head.temperature <= 0:
        raise CheckpointError(f"the stored decision has a temperature of {head.temperature}")
    return head


def _cross_fit_from_plain(values: Any) -> CrossFit | str:
    if isinstance(values, str):
        return values[:200]
    return CrossFit(**{name: _finite(value) for name, value in values.items()})


def decision_of_scores(clips: Sequence[Clip], scores: ClipScores, rate: float, what: str) -> Decision:
    """Fit the decision on the scores of validation clips and their known modality labels.

    A modality that the method has no head for, or whose known clips are of one class, has no decision. Raises
    DatasetError, naming `what`, if all clips are of one class.
    """
    ordered = scores.in_order(clips)
    persons = np.array([clip.identity for clip in ordered])
    heads = {"clip": fit_head(scores.labels, scores.logits, persons, rate, what)}
    for name, logits in (("video", scores.video_logits), ("audio", scores.audio_logits)):
        # None (unknown) becomes NaN
        labels = np.array([getattr(clip, f"{name}_label") for clip in ordered], float)
        known = ~np.isnan(labels)
        if logits is not None and len(np.unique(labels[known])) == 2:
            heads[name] = fit_head(labels[known], logits[known], persons[known], rate, f"{what}, {name}")
    identity_is = kinds_of(ordered[row] for row in np.flatnonzero(scores.labels == 0))
    clip, video, audio = heads["clip"], heads.get("video"), heads.get("audio")
    return Decision(rate=rate, clip=clip, video=video, audio=audio, identity_is=identity_is)


def decision_results(decision: Decision, labels: Labels, logits: Floats, persons: Persons) -> dict[str, Any]:
    """The stored decision applied to (n,) labels and logits of `persons`, for test_metrics.json.

    Confusion and rates at the threshold, verdicts with the undecided band, calibration before and after; None
    for what needs both classes, if there is only one.
    """
    head, fake = decision.clip, labels == 1
    accused, verdicts = logits > head.threshold, head.verdicts(logits)
    counts = {
        name: {verdict: int((verdicts[chosen] == verdict).sum()) for verdict in (REAL, FAKE, UNDECIDED)}
        for name, chosen in (("real", ~fake), ("fake", fake))
    }
    false_positive_rate = float(accused[~fake].mean()) if not fake.all() else None
    false_negative_rate = float((~accused[fake]).mean()) if fake.any() else None
    is_mixed = false_positive_rate is not None and false_negative_rate is not None
    decided = verdicts != UNDECIDED
    right = verdicts == np.where(fake, FAKE, REAL)
    return {
        "stored": decision.as_plain(),
        "num_real_persons": len(np.unique(np.asarray(persons, str)[~fake])),
        "at_threshold": {
            "true_positives": int((accused & fake).sum()),
            "false_negatives": int((~accused & fake).sum()),
            "false_positives": int((accused & ~fake).sum()),
            "true_negatives": int((~accused & ~fake).sum()),
            "false_positive_rate": false_positive_rate,
            "false_negative_rate": false_negative_rate,
            "accuracy": float((accused == fake).mean()),
            "balanced_accuracy": float((accused[fake].mean() + (~accused[~fake]).mean()) / 2)
            if is_mixed
            else None,
        },
        "verdicts": counts,  # of the reals and of the fakes
        "undecided_share": float((~decided).mean()),
        "accuracy_of_decided": float(right[decided].mean()) if decided.any() else None,
        "ece_before": expected_calibration_error(labels, expit(logits)) if is_mixed else None,
        "ece_after": expected_calibration_error(labels, head.prob(logits)) if is_mixed else None,
    }
