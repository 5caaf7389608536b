"""Metrics of a binary detector: 1 = fake is the positive class, scores are logits or probabilities, never
arg-max.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from utils.errors import DatasetError


def require_both_classes(labels: np.ndarray, what: str) -> None:
    """Raise DatasetError unless `labels` holds reals and fakes: AUC and EER have no meaning on one class."""
    num_fake = int((labels == 1).sum())
    if num_fake == 0 or num_fake == len(labels):
        raise DatasetError(
            f"{what} has {num_fake} fake and {len(labels) - num_fake} real clips: AUC, AP and EER need both"
        )


def equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> float:
    """Where the false-positive rate equals the false-negative rate, linear between the ROC's points."""
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = false_positive - (1 - true_positive)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    if gap[after] == 0 or after == 0:
        return float(false_positive[after])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(false_positive[after - 1] + share * (false_positive[after] - false_positive[after - 1]))


def true_positive_rate_at(labels: np.ndarray, scores: np.ndarray, false_positive_rate: float) -> float:
    """The largest share of fakes found at a threshold that accuses at most `false_positive_rate` of the
    reals.
    """
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(true_positive[false_positive <= false_positive_rate].max())


def expected_calibration_error(labels: np.ndarray, probs: np.ndarray, num_bins: int = 15) -> float:
    """Mean distance, over clips, of P(fake) from the share of fakes in its bin; bins of equal width on 0..1.

    labels, probs: (n,). Raises DatasetError if a probability is none, or there are none.
    """
    if len(probs) == 0 or not ((probs >= 0) & (probs <= 1)).all():
        raise DatasetError(f"calibration needs probabilities in 0..1, one for each of {len(probs)} clips")
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
    prevalence: float  # share of fakes: the AP that a coin would get
    eer: float
    accuracy: float  # at logit 0
    balanced_accuracy: float  # at logit 0
    tpr_at_fpr_1: float
    tpr_at_fpr_5: float


def detection_metrics(labels: np.ndarray, logits: np.ndarray, what: str) -> DetectionMetrics:
    """All metrics of (n,) labels and logits. Raises DatasetError, naming `what`, on one class only."""
    require_both_classes(labels, what)
    if not np.isfinite(logits).all():
        raise DatasetError(f"{what}: {int((~np.isfinite(logits)).sum())} scores are not finite")
    called_fake = logits > 0
    fake = labels == 1
    return DetectionMetrics(
        num_real=int((~fake).sum()),
        num_fake=int(fake.sum()),
        auc=float(roc_auc_score(labels, logits)),
        ap=float(average_precision_score(labels, logits)),
        prevalence=float(fake.mean()),
        eer=equal_error_rate(labels, logits),
        accuracy=float((called_fake == fake).mean()),
        balanced_accuracy=float((called_fake[fake].mean() + (~called_fake[~fake]).mean()) / 2),
        tpr_at_fpr_1=true_positive_rate_at(labels, logits, 0.01),
        tpr_at_fpr_5=true_positive_rate_at(labels, logits, 0.05),
    )


class Best:
    """The one place that decides whether an epoch is better, and how long ago the last better one was."""

    def __init__(self, *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self.value: float | None = None
        self.epochs_since = 0

    def update(self, value: float) -> bool:
        """Take an epoch's value; True if it is the best so far (a tie is not)."""
        if self.value is None or (value > self.value if self.higher_is_better else value < self.value):
            self.value, self.epochs_since = value, 0
            return True
        self.epochs_since += 1
        return False
