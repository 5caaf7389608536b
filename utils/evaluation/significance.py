"""Tests of two models on the same clips, and summaries over runs. For intervals see bootstrap.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, chi2, norm, rankdata

from utils.errors import DatasetError
from utils.evaluation.bootstrap import CONFIDENCE, NoStatisticError
from utils.evaluation.bounds import Persons
from utils.evaluation.metrics import Bools, Floats, Labels, require_both_classes, require_finite_scores

EXACT_BELOW = 25  # discordant clips below which McNemar's test is the exact binomial one


@dataclass(frozen=True, kw_only=True)
class DeLongTest:
    """Two AUCs on the same clips, and the p-value of their difference."""

    auc_a: float
    auc_b: float
    standard_error: float  # of auc_a - auc_b
    p_value: float  # two-sided


def placements(labels: Labels, scores: Floats) -> Floats:
    """Share of the other class that each clip is ranked right against, (n,); a tie counts one half.

    These are the structural components of the AUC, their mean over either class (DeLong et al. 1988).
    """
    fake = labels == 1
    ranks = rankdata(scores)  # mean ranks
    result = np.empty(len(scores))
    result[fake] = (ranks[fake] - rankdata(scores[fake])) / (~fake).sum()
    result[~fake] = 1 - (ranks[~fake] - rankdata(scores[~fake])) / fake.sum()
    return result


def delong_test(
    labels: Labels, scores_a: Floats, scores_b: Floats, what: str, *, persons: Persons | None = None
) -> DeLongTest:
    """DeLong's test of equal AUC for two models on the same (n,) clips.

    Without `persons`, clips count as independent (DeLong et al. 1988). With the n persons, placements are
    first summed over each person (Obuchowski 1997); both agree if every person has one clip.
    Raises DatasetError if a class is missing, NoStatisticError if the variance cannot be estimated: fewer
    than two clips (or persons) of a class, or placements that do not vary although the AUCs differ.
    """
    require_both_classes(labels, what)
    for scores in (scores_a, scores_b):
        require_finite_scores(scores, what)
    placed_a, placed_b = placements(labels, scores_a), placements(labels, scores_b)
    auc_a, auc_b = (float(placed[labels == 1].mean()) for placed in (placed_a, placed_b))
    variance = _variance(labels, placed_a - placed_b, persons, what)
    if variance <= 1e-24:  # rounding of sums that are 0
        if abs(auc_a - auc_b) > 1e-12:
            unit = "clip" if persons is None else "identity"
            raise NoStatisticError(f"{what}: the AUCs differ, but no {unit} differs from another")
        standard_error, p_value = 0.0, 1.0  # both models place every clip alike
    else:
        standard_error = float(np.sqrt(variance))
        p_value = float(2 * norm.sf(abs(auc_a - auc_b) / standard_error))
    return DeLongTest(auc_a=auc_a, auc_b=auc_b, standard_error=standard_error, p_value=p_value)


def _variance(labels: Labels, placed: Floats, persons: Persons | None, what: str) -> float:
    """Variance of an AUC, or of a difference of two, from its (n,) placements, over clips or over persons.

    Raises NoStatisticError if there are fewer than two of them of a class.
    """
    units = np.arange(len(labels)) if persons is None else np.unique(persons, return_inverse=True)[1]
    deviations, num_units = [], []
    for value in (0, 1):
        chosen = labels == value
        centred = placed[chosen] - placed[chosen].mean()
        deviations.append(np.bincount(units[chosen], centred, minlength=units.max() + 1) / chosen.sum())
        num_units.append(len(np.unique(units[chosen])))
    if min(num_units) < 2:
        several = "clips" if persons is None else "identities"
        raise NoStatisticError(f"{what}: DeLong's test needs two {several} of each class")
    real, fake = deviations
    num_all = len(np.unique(units))
    variance = sum(n / (n - 1) * (d**2).sum() for n, d in zip(num_units, deviations, strict=True))
    # a person without clips of one class has deviation 0 there and adds nothing
    return float(variance + 2 * num_all / (num_all - 1) * (real * fake).sum())


def delong_interval(labels: Labels, scores: Floats, what: str, persons: Persons | None) -> dict[str, Any]:
    """{"standard_error", "interval"} of the AUC of one model by DeLong's variance, 95 %, cut at 0 and 1.

    Over clips, or over `persons` as in `delong_test`, which says what is raised.
    """
    require_both_classes(labels, what)
    require_finite_scores(scores, what)
    placed = placements(labels, scores)
    error = math.sqrt(max(0.0, _variance(labels, placed, persons, what)))
    auc, reach = float(placed[labels == 1].mean()), float(norm.ppf((1 + CONFIDENCE) / 2)) * error
    return {"standard_error": error, "interval": [max(0.0, auc - reach), min(1.0, auc + reach)]}


@dataclass(frozen=True, kw_only=True)
class McNemarTest:
    """Discordant verdicts of two models on the same clips."""

    only_a_right: int
    only_b_right: int
    p_value: float  # two-sided
    exact: bool


def mcnemar_test(a_right: Bools, b_right: Bools) -> McNemarTest:
    """McNemar's test on (n,) booleans: whether each model is right on a clip. Clips count as independent.

    Exact binomial below 25 discordant clips, else chi-square with Edwards' continuity correction; p = 1
    without discordant clips.
    """
    only_a, only_b = int((a_right & ~b_right).sum()), int((~a_right & b_right).sum())
    discordant = only_a + only_b
    exact = discordant < EXACT_BELOW
    if discordant == 0:
        p_value = 1.0
    elif exact:
        p_value = float(binomtest(only_a, discordant, 0.5).pvalue)
    else:
        p_value = float(chi2.sf(max(abs(only_a - only_b) - 1, 0) ** 2 / discordant, df=1))
    return McNemarTest(only_a_right=only_a, only_b_right=only_b, p_value=p_value, exact=exact)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down adjustment: reject those at most the family-wise level.

    Raises ValueError if one is outside [0, 1].
    """
    p = np.asarray(p_values, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must be in [0, 1], got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return [float(value) for value in adjusted]


def over_runs(runs: Sequence[Mapping[str, float]], what: str) -> dict[str, dict[str, Any]]:
    """{metric: {"num_runs", "mean", "std"}} over several seeds or folds.

    "std" is the sample standard deviation (n - 1); None for a single run. Raises DatasetError, naming `what`,
    if there is no run, their metrics differ, or a value is not finite.
    """
    if not runs or any(run.keys() != runs[0].keys() for run in runs):
        raise DatasetError(f"{what}: no runs with the same metrics to summarise")
    result = {}
    for name in runs[0]:
        values = np.array([run[name] for run in runs], float)
        require_finite_scores(values, f"{what}, {name} of {len(values)} runs")
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        result[name] = {"num_runs": len(values), "mean": float(values.mean()), "std": std}
    return result
