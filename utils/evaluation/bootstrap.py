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

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from utils.errors import DatasetError
from utils.evaluation.bounds import Persons
from utils.evaluation.metrics import Floats, Labels, Rows, require_both_classes, require_finite_scores
from utils.evaluation.units import UNKNOWN

NUM_RESAMPLES, CONFIDENCE = 2000, 0.95
METRICS = ("auc", "ap", "eer", "balanced_accuracy")
BLOCK_SIZE = 2**18  # weights held at once: large enough for numpy, small enough for the cache


class NoStatisticError(DatasetError):
    """The data do not allow this statistic."""


def or_reason(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the function returns, or {"reason": why} if the data do not allow its statistic."""
    try:
        return function(*arguments, **options)
    except NoStatisticError as error:
        return {"reason": str(error)}


class Interval(NamedTuple):
    """95 % confidence interval of a statistic."""

    low: float
    high: float


def expanded_percentiles(values: Floats, num_persons: int) -> Interval:
    """95 % interval of a statistic from its values on resamples of n >= 2 persons.

    Plain percentiles are too narrow for few persons: n instead of n - 1, normal instead of Student's t.
    Expanding their levels corrects for both (Hesterberg 2015, section 5.3).
    """
    n = num_persons
    tail = norm.cdf(np.sqrt(n / (n - 1)) * student_t.ppf((1 - CONFIDENCE) / 2, n - 1))
    low, high = np.quantile(values, (tail, 1 - tail))
    return Interval(float(low), float(high))


class PersonResamples:
    """The resamples of a set of clips.

    labels: (n,) 1 = fake. persons: n names. `what` names the set in errors. Raises DatasetError if a class is
    missing, which the reals may be if `may_lack_reals`, and NoStatisticError if a class has fewer than two
    persons.
    """

    def __init__(
        self,
        labels: Labels,
        persons: Persons,
        what: str,
        num_resamples: int = NUM_RESAMPLES,
        seed: int = 0,
        *,
        may_lack_reals: bool = False,
    ) -> None:
        only_fakes = may_lack_reals and bool((labels == 1).all())
        if not only_fakes:
            require_both_classes(labels, what)
        names, self.person_of = np.unique(np.asarray(persons, str), return_inverse=True)
        self.what, self.num_persons, self.num_resamples, self.seed = what, len(names), num_resamples, seed
        has_real, has_fake = (
            np.bincount(self.person_of[labels == label], minlength=len(names)) > 0 for label in (0, 1)
        )
        present = {"fake": has_fake} if only_fakes else {"real": has_real, "fake": has_fake}
        for name, has in present.items():
            if has.sum() < 2:
                raise NoStatisticError(
                    f"{what}: the {name} clips are of {has.sum()} identity; an interval over them needs two"
                )
        self.num_persons_of_rarer_class = int(min(has.sum() for has in present.values()))
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
        """95 % interval of a statistic from its (num_resamples,) values."""
        return expanded_percentiles(values, self.num_persons_of_rarer_class)


class WeightedRoc:
    """Metrics of (n,) labels and scores of weighted units. Ties are exact: a ROC point per distinct score.

    units: (n,) index of each clip's unit, e.g. its person.
    """

    def __init__(self, labels: Labels, scores: Floats, units: Rows) -> None:
        order = np.argsort(scores, kind="stable")
        self.units = units[order]
        ordered = scores[order]
        self.fake = (labels[order] == 1).astype(np.float64)
        last_of_tie = np.append(ordered[1:] != ordered[:-1], True)
        self.tie_ends = None if last_of_tie.all() else np.flatnonzero(last_of_tie)
        self.num_called_real = int((ordered[last_of_tie] <= 0).sum())  # distinct scores

    def metrics(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]:
        """Each metric as (b,). weights: (b, units), above 0 for a clip of either class."""
        clip_weights = np.take(weights, self.units, axis=1)  # (b, n), in the order of scores
        below = np.cumsum(clip_weights, axis=1)
        fake_below = np.cumsum(clip_weights * self.fake, axis=1)
        if self.tie_ends is not None:
            below, fake_below = below[:, self.tie_ends], fake_below[:, self.tie_ends]
        # (b, 1 + distinct scores): weight of each class up to and including a score; 0 at first
        below, fake_below = np.pad(below, ((0, 0), (1, 0))), np.pad(fake_below, ((0, 0), (1, 0)))
        real_below = below - fake_below
        return {name: getattr(self, f"_{name}")(real_below, fake_below) for name in names}

    @staticmethod
    def _auc(real: Floats, fake: Floats) -> Floats:
        ordered_pairs = np.einsum("bk,bk->b", np.diff(fake), real[:, :-1] + real[:, 1:]) / 2
        return ordered_pairs / (real[:, -1] * fake[:, -1])

    @staticmethod
    def _ap(real: Floats, fake: Floats) -> Floats:
        fake_above = fake[:, -1:] - fake[:, :-1]  # at or above a distinct score
        above = fake_above + real[:, -1:] - real[:, :-1]
        # 0 / 0 where nothing lies above: no fake is found there, so the value has weight 0
        precision = np.divide(fake_above, above, out=np.zeros_like(above), where=above > 0)
        return np.einsum("bk,bk->b", np.diff(fake), precision) / fake[:, -1]

    @staticmethod
    def _eer(real: Floats, fake: Floats) -> Floats:
        false_positive, false_negative = 1 - real / real[:, -1:], fake / fake[:, -1:]
        gap = false_positive - false_negative  # falls from 1 to -1
        after = (gap > 0).sum(axis=1)
        rows = np.arange(len(gap))
        share = gap[rows, after - 1] / (gap[rows, after - 1] - gap[rows, after])
        step = false_positive[rows, after] - false_positive[rows, after - 1]
        return false_positive[rows, after - 1] + share * step

    def _balanced_accuracy(self, real: Floats, fake: Floats) -> Floats:
        at = self.num_called_real
        return (real[:, at] / real[:, -1] + 1 - fake[:, at] / fake[:, -1]) / 2


def bootstrap_metrics(
    labels: Labels, scores: Floats, resamples: PersonResamples, names: Sequence[str] = ("auc",)
) -> dict[str, Floats]:
    """Metrics on every resample, each (num_resamples,). Raises DatasetError if a score is not finite."""
    require_finite_scores(scores, resamples.what)
    roc = WeightedRoc(labels, scores, resamples.person_of)
    parts = [roc.metrics(counts, names) for counts in resamples.blocks()]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def metric_intervals(
    labels: Labels, scores: Floats, persons: Persons, what: str, names: Sequence[str] = ("auc",), **draws: Any
) -> dict[str, Interval]:
    """95 % interval of each metric of (n,) labels and scores, clustered by the n persons.

    draws: options of PersonResamples. Raises DatasetError if a class is missing, NoStatisticError if a class
    has fewer than two persons.
    """
    resamples = PersonResamples(labels, persons, what, **draws)
    values = bootstrap_metrics(labels, scores, resamples, names)
    return {name: resamples.interval(value) for name, value in values.items()}


def macro_auc_interval(
    labels: Labels, scores: Floats, persons: Persons, groups: Sequence[Rows], what: str
) -> Interval:
    """Interval of the mean AUC over groups of rows, each with both classes.

    All groups see the same persons of a resample, so what they share (the reals) varies together. Resamples
    in which a group does not occur are left out; raises NoStatisticError if these are more than 5 %.
    """
    resamples = PersonResamples(labels, persons, what)
    rocs = [WeightedRoc(labels[rows], scores[rows], resamples.person_of[rows]) for rows in groups]
    parts = []
    for counts in resamples.blocks():
        with np.errstate(invalid="ignore"):  # 0 / 0 where a group does not occur: NaN, left out below
            parts.append(np.mean([roc.metrics(counts, ("auc",))["auc"] for roc in rocs], axis=0))
    values = np.concatenate(parts)
    has_all = np.isfinite(values)
    if has_all.mean() < 0.95:
        raise NoStatisticError(
            f"a group is missing in {1 - has_all.mean():.0%} of the resamples: it has too few identities"
        )
    return resamples.interval(values[has_all])


def interval_results(
    labels: Labels,
    scores: Floats,
    persons: Persons,
    groups: Mapping[str, Mapping[str, Rows]],
    what: str,
    identity_is: str = UNKNOWN,
) -> dict[str, Any]:
    """The intervals of test_metrics.json: all metrics overall, the AUC per group, and its mean over groups.

    groups: {"category": {name: rows, ...}, ...}; the rows of each group hold both classes. An interval that
    the data do not allow is {"reason": why}. identity_is: what the n persons are (see units.py).
    """
    persons = np.asarray(persons, str)
    result: dict[str, Any] = {
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "clustered_by": identity_is,
        "num_persons": len(set(persons)),
        "overall": or_reason(metric_intervals, labels, scores, persons, what, METRICS),
    }
    for key, rows_of in groups.items():
        result[f"per_{key}"] = {
            name: or_reason(metric_intervals, labels[rows], scores[rows], persons[rows], f"{key} {name}")
            for name, rows in rows_of.items()
        }
        macro = or_reason(macro_auc_interval, labels, scores, persons, list(rows_of.values()), what)
        result[f"macro_auc_{key}"] = macro
    return result
