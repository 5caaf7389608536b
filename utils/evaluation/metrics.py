"""Metrics of a binary detector. 1 = fake is the positive class; scores are logits or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from utils.errors import DatasetError

Labels = npt.NDArray[np.number[Any]]  # (n,) 1 = fake, 0 = real, integers or floats
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]  # indices into arrays of clips


def lacks_a_class(labels: Labels, what: str) -> str:
    """Why AUC and EER are undefined: `labels` holds only reals or only fakes; "" if it holds both.

    "" too for the places of emotions: how many of these there are is checked where they are counted.
    """
    num_fake = int((labels == 1).sum())
    if 0 < num_fake < len(labels) or (labels > 1).any():
        return ""
    return f"{what} has {num_fake} fake and {len(labels) - num_fake} real clips: AUC, AP and EER need both"


def require_both_classes(labels: Labels, what: str) -> None:
    """Raise DatasetError unless `labels` holds reals and fakes."""
    if (labels > 1).any():
        raise DatasetError(f"{what} has emotions for labels, but real and fake are needed here")
    if reason := lacks_a_class(labels, what):
        raise DatasetError(reason)


def against_the_reals(kinds: Sequence[str] | npt.NDArray[np.str_], labels: Labels) -> dict[str, Rows]:
    """{kind: rows} of the fakes of each kind, each with all reals. kinds, labels: (n,)."""
    names, fake = np.asarray(kinds, str), labels == 1
    return {str(name): np.flatnonzero(~fake | (names == name)) for name in np.unique(names[fake])}


def require_finite_scores(scores: Floats, what: str) -> None:
    """Raise DatasetError, naming `what`, if a score is NaN or infinite."""
    if not np.isfinite(scores).all():
        raise DatasetError(f"{what}: {int((~np.isfinite(scores)).sum())} scores are not finite")


def area_under_roc(labels: Labels, scores: Floats) -> float:
    """AUC: share of (fake, real) pairs in which the fake has the higher score; a tie counts one half.

    labels, scores: (n,), both classes, finite. For the AUC under clip weights see bootstrap.WeightedRoc.
    """
    return float(roc_auc_score(labels, scores))


def equal_error_rate(labels: Labels, scores: Floats) -> float:
    """EER: where false-positive and false-negative rate are equal, linear between the points of the ROC."""
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = false_positive - (1 - true_positive)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    if gap[after] == 0 or after == 0:
        return float(false_positive[after])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(false_positive[after - 1] + share * (false_positive[after] - false_positive[after - 1]))


def true_positive_rate_at(labels: Labels, scores: Floats, false_positive_rate: float) -> float:
    """Largest share of fakes above a threshold that at most `false_positive_rate` of the reals are above."""
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(true_positive[false_positive <= false_positive_rate].max())


def expected_calibration_error(labels: Labels, probs: Floats, num_bins: int = 15) -> float:
    """ECE: mean distance, over clips, of P(fake) from the share of fakes in its bin; equal bins on [0, 1].

    labels, probs: (n,). Raises DatasetError if `probs` is empty or has values outside [0, 1].
    """
    if len(probs) == 0 or not ((probs >= 0) & (probs <= 1)).all():
        raise DatasetError(f"calibration needs probabilities in [0, 1], one for each of {len(probs)} clips")
    fake_share, mean_prob = calibration_curve(labels == 1, probs, n_bins=num_bins, strategy="uniform")
    edges = np.linspace(0, 1, num_bins + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], probs), minlength=num_bins)
    # calibration_curve leaves out empty bins
    return float(np.abs(fake_share - mean_prob) @ counts[counts > 0] / len(probs))


@dataclass(frozen=True, kw_only=True)
class DetectionMetrics:
    """Metrics of one set of scored clips."""

    num_real: int
    num_fake: int
    auc: float
    ap: float
    prevalence: float  # share of fakes: the AP of random scores
    eer: float
    accuracy: float  # at logit 0
    balanced_accuracy: float  # at logit 0
    tpr_at_fpr_1: float
    tpr_at_fpr_5: float


def one_class_metrics(labels: Labels, logits: Floats) -> dict[str, Any]:
    """The fields of DetectionMetrics for clips of one class: None where both are needed."""
    fake = labels == 1
    return {
        **dict.fromkeys(DetectionMetrics.__annotations__),
        "num_real": int((~fake).sum()),
        "num_fake": int(fake.sum()),
        "prevalence": float(fake.mean()),
        "accuracy": float(((logits > 0) == fake).mean()),
    }


def frame_level_metrics(labels: Sequence[Floats], logits: Sequence[Floats]) -> dict[str, Any]:
    """AUC, accuracy at logit 0 and log-loss over all frames of all clips, as papers on frames report them.

    labels, logits: per clip (frames,). Not to be compared with metrics of clips: frames of one clip are
    alike, and long clips count more. AUC is None without both classes.
    """
    fake, scores = np.concatenate(labels) == 1, np.concatenate(logits)
    losses = np.logaddexp(0, np.where(fake, -scores, scores))
    return {
        "num_real": int((~fake).sum()),
        "num_fake": int(fake.sum()),
        "auc": None if lacks_a_class(fake, "") else area_under_roc(fake, scores),
        "accuracy": float(((scores > 0) == fake).mean()),
        "log_loss": float(losses.mean()),
    }


def detection_metrics(labels: Labels, logits: Floats, what: str) -> DetectionMetrics:
    """All metrics of (n,) labels and logits.

    Raises DatasetError, naming `what`, if a class is missing or a logit is not finite.
    """
    require_both_classes(labels, what)
    require_finite_scores(logits, what)
    called_fake = logits > 0
    fake = labels == 1
    return DetectionMetrics(
        num_real=int((~fake).sum()),
        num_fake=int(fake.sum()),
        auc=area_under_roc(labels, logits),
        ap=float(average_precision_score(labels, logits)),
        prevalence=float(fake.mean()),
        eer=equal_error_rate(labels, logits),
        accuracy=float((called_fake == fake).mean()),
        balanced_accuracy=float((called_fake[fake].mean() + (~called_fake[~fake]).mean()) / 2),
        tpr_at_fpr_1=true_positive_rate_at(labels, logits, 0.01),
        tpr_at_fpr_5=true_positive_rate_at(labels, logits, 0.05),
    )
