"""Whether a detector's scores follow what no forgery needs: silence, length, codec, loudness, face size, ...

Reals and fakes are looked at separately, so a detector that is right is not blamed for a fact in which the
classes differ. What correlates within a class moves the score whatever the clip's label is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from loaders.audit.facts import ClipFacts
from loaders.audit.shortcuts import RULES
from utils.evaluation.bootstrap import CONFIDENCE
from utils.evaluation.bounds import Persons
from utils.evaluation.metrics import Floats, Labels, area_under_roc

NUM_RESAMPLES = 1000
MIN_PERSONS = 5  # of a class, for an interval


def shortcut_correlations(
    facts: Sequence[ClipFacts], labels: Labels, scores: Floats, persons: Persons
) -> dict[str, Any]:
    """{rule: {"what", "rule_auc", "real", "fake"}} of the facts of n clips; the facts that do not vary are
    left out.

    "real", "fake": Spearman's correlation of score and fact within the class, with its 95 % interval over
    persons (of the ranks in the whole class), or {"reason": why there is none}. "rule_auc": AUC of the fact
    itself, None if it is unknown for a class.
    """
    result: dict[str, Any] = {}
    people = np.unique(np.asarray(persons, str), return_inverse=True)[1]
    for rule in facts[0].numbers:
        values = np.array([fact.numbers[rule] for fact in facts], float)
        known = np.isfinite(values)
        if not known.any() or np.ptp(values[known]) == 0:
            continue
        here = labels[known]
        row: dict[str, Any] = {"what": RULES[rule][0], "rule_auc": None}
        if len(set(here.tolist())) == 2:
            row["rule_auc"] = area_under_roc(here, values[known])
        for name, label in (("real", 0), ("fake", 1)):
            chosen = known & (labels == label)
            row[name] = _spearman(values[chosen], scores[chosen], people[chosen])
        result[rule] = row
    return result


def _spearman(values: Floats, scores: Floats, people: Any) -> dict[str, Any]:
    if len(values) < 3 or np.ptp(values) == 0 or np.ptp(scores) == 0:
        return {"num_clips": len(values), "reason": "fewer than three clips, or fact or score does not vary"}
    x, y = (rankdata(column) - (len(values) + 1) / 2 for column in (values, scores))
    sums = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y])  # (6, n)
    whole: Floats = sums.sum(axis=1)
    result: dict[str, Any] = {"num_clips": len(values), "correlation": float(_correlation(whole))}
    units = np.unique(people, return_inverse=True)[1]
    num_units = int(units.max()) + 1
    if num_units < MIN_PERSONS:
        return result | {"reason": f"{num_units} persons are too few for an interval"}
    per_unit = np.stack([np.bincount(units, column) for column in sums], axis=1)  # (persons, 6)
    rng, share = np.random.default_rng(0), 1 / num_units
    counts = rng.multinomial(num_units, np.full(num_units, share), NUM_RESAMPLES).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample in which nothing varies
        drawn = _correlation((counts @ per_unit).T)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn[np.isfinite(drawn)], (tail, 1 - tail))
    return result | {"interval": [float(low), float(high)]}


def _correlation(sums: Floats) -> Floats:
    """Pearson's correlation from (6, ...) sums of 1, x, y, x^2, y^2, xy."""
    n, x, y, xx, yy, xy = sums
    result: Floats = (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))
    return result
