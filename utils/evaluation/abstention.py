"""What abstaining on clips unlike the training clips does to an evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.evaluation.bootstrap import CONFIDENCE, PersonResamples, or_reason
from utils.evaluation.bounds import Persons
from utils.evaluation.domain import P_VALUE, Domain
from utils.evaluation.metrics import Floats, Labels, area_under_roc, lacks_a_class
from utils.evaluation.units import caveat

NUM_POINTS = 50  # of the stored risk-coverage curve


def abstention_results(
    domain: Domain, facts: Floats, labels: Labels, logits: Floats, persons: Persons, threshold: float
) -> dict[str, Any]:
    """Of (n,) labels and logits: how many clips are outside, and error and AUC with and without them.

    Error is the share of clips on the wrong side of `threshold`. Risk-coverage: the error of the clips with
    the largest p-values, for each share of them, and its mean, AURC (Geifman, Uziel and El-Yaniv, 2019). The
    difference of errors has a paired interval over persons.
    """
    p_values, outside = domain.p_values(facts), domain.is_outside(facts)
    wrong = (logits > threshold) != (labels == 1)
    fake, decided = labels == 1, ~outside
    order = np.argsort(-p_values, kind="stable")
    risks = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    points = np.unique(np.linspace(0, len(order) - 1, min(NUM_POINTS, len(order))).round().astype(int))
    differs = bool(outside.any() and decided.any())
    return {
        "p_value": P_VALUE,
        "num_persons": domain.num_persons,
        "identity_is": domain.identity_is,
        "caveat": caveat(domain.identity_is),  # "" if these are persons
        "share": float(outside.mean()),
        "share_of_reals": _mean(outside[~fake]),
        "share_of_fakes": _mean(outside[fake]),
        "all": _error_and_auc(wrong, labels, logits),
        "decided": _error_and_auc(wrong[decided], labels[decided], logits[decided]),
        "error_difference": or_reason(_difference, wrong, outside, labels, persons) if differs else None,
        "aurc": float(risks.mean()),
        "risk_coverage": [[(point + 1) / len(order), float(risks[point])] for point in points.tolist()],
    }


def _mean(values: Any) -> float | None:
    return float(values.mean()) if len(values) else None


def _error_and_auc(wrong: Any, labels: Labels, logits: Floats) -> dict[str, Any]:
    one_class = not len(labels) or bool(lacks_a_class(labels, ""))
    auc = None if one_class else float(area_under_roc(labels, logits))
    return {"num_clips": len(labels), "error": _mean(wrong), "auc": auc}


def _difference(wrong: Any, outside: Any, labels: Labels, persons: Persons) -> dict[str, Any]:
    """Error of the decided clips minus that of all, and its interval over resampled persons."""
    resamples = PersonResamples(labels, persons, "abstention")
    of, size = resamples.person_of, resamples.num_persons
    columns = (wrong, np.ones(len(of)), wrong & ~outside, ~outside)
    per_person = [np.bincount(of, column, minlength=size) for column in columns]
    values = []
    for counts in resamples.blocks():
        errors, clips, decided_errors, decided = (counts @ column for column in per_person)
        with np.errstate(invalid="ignore"):
            values.append(decided_errors / decided - errors / clips)
    drawn = np.concatenate(values)
    low, high = resamples.interval(drawn[np.isfinite(drawn)])
    difference = float(wrong[~outside].mean() - wrong.mean())
    return {"value": difference, "interval": [low, high], "confidence": CONFIDENCE}
