"""Confidence intervals by bootstrap over persons, since clips of one person are not independent.

A resample draws N of N persons with replacement, each with all of its clips. Persons are stratified by the
classes they appear in: only real, only fake, or both. So every resample holds both classes, and the real and
fake clips of a person stay together, which keeps the covariance of their scores (drawing reals and fakes
separately would lose it). A stratum of one person does not vary; a class with fewer than two persons allows
no interval.

The draws depend on the persons, their classes and the seed, not on the scores or the order of clips. So two
models on the same clips see the same resamples, and their differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student_t

from utils.errors import DatasetError
from utils.evaluation.metrics import Floats, Labels, Rows, require_both_classes, require_finite_scores

NUM_RESAMPLES, CONFIDENCE = 2000, 0.95
METRICS = ("auc", "ap", "eer", "balanced_accuracy")
Persons = Sequence[str] | npt.NDArray[np.str_]  # (n,) the person on screen in each clip
BLOCK_SIZE = 2**18  # weights held at once: large enough for numpy, small enough for the cache


class NoStatisticError(DatasetError):
    """The data do not allow this statistic."""


class Interval(NamedTuple):
    """95 % confidence interval of a statistic."""

    low: float
    high: float


class PersonResamples:
    """The resamples of a set of clips.

    labels: (n,) 1 = fake. persons: n names. `what` names the set in errors. Raises DatasetError if a class is
    missing, NoStatisticError if a class has fewer than two persons.
    """

    def __init__(
        self,
        labels: Labels,
        persons: Persons,
        what: str,
        *,
        num_resamples: int = NUM_RESAMPLES,
        seed: int = 0,
    ) -> None:
        require_both_classes(labels, what)
        if len(persons) != len(labels):
            raise ValueError(f"{len(persons)} persons for {len(labels)} labels")
        names, self.person_of = np.unique(np.asarray(persons, str), return_inverse=True)
        self.what, self.num_persons, self.num_resamples, self.seed = what, len(names), num_resamples, seed
        has_real, has_fake = np.zeros((2, len(names)), bool)
        has_real[self.person_of[labels == 0]] = True
        has_fake[self.person_of[labels == 1]] = True
        for name, has in (("real", has_real), ("fake", has_fake)):
            if has.sum() < 2:
                raise NoStatisticError(
                    f"{what}: the {name} clips are of {has.sum()} person; an interval over persons needs two"
                )
        self.num_persons_of_rarer_class = int(min(has_real.sum(), has_fake.sum()))
        classes = has_real + 2 * has_fake  # 1 = only real, 2 = only fake, 3 = both
        self.strata = [np.flatnonzero(classes == value) for value in (1, 2, 3) if (classes == value).any()]

    def blocks(self) -> Iterator[Floats]:
        """How often each person is drawn, in blocks (resamples, persons) of `num_resamples` rows in total."""
        rng = np.random.default_rng(self.seed)
        block_size = max(1, BLOCK_SIZE // len(self.person_of))
        for start in range(0, self.num_resamples, block_size):
            num_rows = min(block_size, self.num_resamples - start)
            counts = np.empty((num_rows, self.num_persons))
            for stratum in self.strata:
                size = len(stratum)
                drawn = rng.integers(size, size=(num_rows, size)) + size * np.arange(num_rows)[:, None]
                drawn_count = np.bincount(drawn.ravel(), minlength=num_rows * size)
                counts[:, stratum] = drawn_count.reshape(num_rows, size)
            yield counts

    def interval(self, values: Floats) -> Interval:
        """95 % interval of a statistic from its (num_resamples,) values: expanded percentiles.

        Plain percentiles are too narrow for few persons: n instead of n - 1, normal instead of Student's t.
        Expanding their levels corrects for both (Hesterberg 2015, section 5.3).
        """
        n = self.num_persons_of_rarer_class
        tail = norm.cdf(np.sqrt(n / (n - 1)) * student_t.ppf((1 - CONFIDENCE) / 2, n - 1))
        low, high = np.quantile(values, (tail, 1 - tail))
        return Interval(float(low), float(high))


class WeightedRoc:
    """Metrics of (n,) labels and scores under clip weights. Ties are exact: one ROC point per distinct score.

    `threshold` is for the balanced accuracy.
    """

    def __init__(self, labels: Labels, scores: Floats, threshold: float) -> None:
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self.fake = (labels[self.order] == 1).astype(np.float64)
        last_of_tie = np.append(ordered[1:] != ordered[:-1], True)
        self.tie_ends = None if last_of_tie.all() else np.flatnonzero(last_of_tie)
        # number of distinct scores that are not above the threshold
        self.num_called_real = int((ordered[last_of_tie] <= threshold).sum())

    def metrics(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]:
        """Each metric as (b,). weights: (b, n) of the clips in `self.order`, above 0 for both classes."""
        below = np.cumsum(weights, axis=1)
        fake_below = np.cumsum(weights * self.fake, axis=1)
        if self.tie_ends is not None:
            below, fake_below = below[:, self.tie_ends], fake_below[:, self.tie_ends]
        # (b, 1 + distinct scores): weight of each class up to and including a score; 0 at first
        below, fake_below = np.pad(below, ((0, 0), (1, 0))), np.pad(fake_below, ((0, 0), (1, 0)))
        real_below = below - fake_below
        num_real, num_fake = real_below[:, -1:], fake_below[:, -1:]
        result = {}
        for name in names:
            function = getattr(self, f"_{name}")
            result[name] = function(real_below, fake_below, num_real, num_fake)
        return result

    @staticmethod
    def _auc(real: Floats, fake: Floats, num_real: Floats, num_fake: Floats) -> Floats:
        ordered_pairs = np.einsum("bk,bk->b", np.diff(fake), real[:, :-1] + real[:, 1:]) / 2
        return ordered_pairs / (num_real * num_fake)[:, 0]

    @staticmethod
    def _ap(real: Floats, fake: Floats, num_real: Floats, num_fake: Floats) -> Floats:
        fake_above = num_fake - fake[:, :-1]  # at or above a distinct score
        above = fake_above + num_real - real[:, :-1]
        # 0 / 0 where nothing lies above: no fake is found there, so the value has weight 0
        precision = np.divide(fake_above, above, out=np.zeros_like(above), where=above > 0)
        return np.einsum("bk,bk->b", np.diff(fake), precision) / num_fake[:, 0]

    @staticmethod
    def _eer(real: Floats, fake: Floats, num_real: Floats, num_fake: Floats) -> Floats:
        false_positive, false_negative = 1 - real / num_real, fake / num_fake
        gap = false_positive - false_negative  # falls from 1 to -1
        after = (gap > 0).sum(axis=1)
        rows = np.arange(len(gap))
        share = gap[rows, after - 1] / (gap[rows, after - 1] - gap[rows, after])
        step = false_positive[rows, after] - false_positive[rows, after - 1]
        return false_positive[rows, after - 1] + share * step

    def _balanced_accuracy(self, real: Floats, fake: Floats, num_real: Floats, num_fake: Floats) -> Floats:
        at = self.num_called_real
        return (real[:, at] / num_real[:, 0] + 1 - fake[:, at] / num_fake[:, 0]) / 2


def bootstrap_metrics(
    labels: Labels,
    scores: Floats,
    resamples: PersonResamples,
    *,
    names: Sequence[str] = ("auc",),
    threshold: float = 0.0,
) -> dict[str, Floats]:
    """Metrics on every resample, each (num_resamples,). Raises DatasetError if a score is not finite."""
    require_finite_scores(scores, resamples.what)
    roc = WeightedRoc(labels, scores, threshold)
    person_of = resamples.person_of[roc.order]
    parts = [roc.metrics(np.take(counts, person_of, axis=1), names) for counts in resamples.blocks()]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def metric_intervals(
    labels: Labels,
    scores: Floats,
    persons: Persons,
    what: str,
    *,
    names: Sequence[str] = ("auc",),
    threshold: float = 0.0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % interval of each metric of (n,) labels and scores, clustered by the n persons.

    Raises DatasetError if a class is missing, NoStatisticError if a class has fewer than two persons.
    """
    resamples = PersonResamples(labels, persons, what, num_resamples=num_resamples, seed=seed)
    values = bootstrap_metrics(labels, scores, resamples, names=names, threshold=threshold)
    return {name: resamples.interval(value) for name, value in values.items()}


def macro_auc_interval(
    labels: Labels, scores: Floats, resamples: PersonResamples, groups: Sequence[Rows]
) -> Interval:
    """Interval of the mean AUC over groups of rows, each with both classes.

    All groups see the same persons of a resample, so what they share (the reals) varies together. Resamples
    in which a group does not occur are left out; raises NoStatisticError if these are more than 5 %.
    """
    rocs = [WeightedRoc(labels[rows], scores[rows], 0.0) for rows in groups]
    person_of = [resamples.person_of[rows[roc.order]] for rows, roc in zip(groups, rocs, strict=True)]
    parts = []
    for counts in resamples.blocks():
        with np.errstate(invalid="ignore"):  # 0 / 0 where a group does not occur: NaN, left out below
            weighted = [
                roc.metrics(np.take(counts, persons, axis=1), ("auc",))["auc"]
                for roc, persons in zip(rocs, person_of, strict=True)
            ]
        parts.append(np.mean(weighted, axis=0))
    values = np.concatenate(parts)
    has_all = np.isfinite(values)
    if has_all.mean() < 0.95:
        raise NoStatisticError(
            f"a group is missing in {1 - has_all.mean():.0%} of the resamples: it has too few persons"
        )
    return resamples.interval(values[has_all])


def interval_results(
    labels: Labels,
    scores: Floats,
    persons: Persons,
    groups: Mapping[str, Mapping[str, Rows]],
    what: str,
) -> dict[str, Any]:
    """The intervals of test_metrics.json: all metrics overall, the AUC per group, and its mean over groups.

    groups: {"category": {name: rows, ...}, ...}; the rows of each group hold both classes. An interval that
    the data do not allow is {"reason": why}.
    """

    def intervals(rows: Rows, name: str, metrics: Sequence[str]) -> dict[str, Any]:
        try:
            chosen = metric_intervals(
                labels[rows], scores[rows], np.asarray(persons, str)[rows], name, names=metrics
            )
        except NoStatisticError as error:
            return {"reason": str(error)}
        return {metric: list(interval) for metric, interval in chosen.items()}

    result: dict[str, Any] = {
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "clustered_by": "identity",
        "num_persons": len(set(persons)),
        "overall": intervals(np.arange(len(labels)), what, METRICS),
    }
    for key, rows_of in groups.items():
        result[f"per_{key}"] = {
            name: intervals(rows, f"{key} {name}", ("auc",)) for name, rows in rows_of.items()
        }
        try:
            resamples = PersonResamples(labels, persons, what)
            macro = macro_auc_interval(labels, scores, resamples, list(rows_of.values()))
            result[f"macro_auc_{key}"] = list(macro)
        except NoStatisticError as error:
            result[f"macro_auc_{key}"] = {"reason": str(error)}
    return result
