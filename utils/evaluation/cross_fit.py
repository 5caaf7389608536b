"""How the choice of epoch and threshold fares on persons that it was made without.

A run chooses its epoch and its threshold on the same validation clips, so the rate of false accusations on
them is too small. Here both are chosen again without each part of the persons in turn, and the rate is
measured on those left out (cross-validation of the whole procedure; Varma and Simon, 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from utils.evaluation.bootstrap import NoStatisticError
from utils.evaluation.bounds import Persons, lowest_threshold, rate_bound
from utils.evaluation.metrics import Floats, Labels

NUM_FOLDS = 10  # of persons, at most
BLOCK_SIZE = 2**18  # scores that are sorted at once
CORRELATION_LEVEL = 0.5  # the estimate itself
Folds = npt.NDArray[np.intp]  # (n,) the part that each clip's person is in


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Real validation clips above a threshold that was chosen without their persons."""

    num_epochs: int  # that were chosen from
    num_folds: int  # parts of the persons, each left out once
    num_reals: int
    num_real_persons: int
    num_reals_accused: int
    rate: float  # of the reals, accused
    bound: float  # 95 % upper one, of the clips of new persons


def cross_fit(
    scores: Floats, labels: Labels, persons: Persons, rate: float, *, chosen: int, by_loss: bool = False
) -> CrossFit:
    """Repeat the choice on (epochs, n) finite logits of n clips of some persons, (n,) labels.

    The epoch is the one of the largest AUC, or of the smallest cross-entropy of clip scores if `by_loss`; the
    threshold is `lowest_threshold` of the reals. The bound is the one of `rate_bound`, with the scores of
    epoch `chosen`, that of the whole choice: if k of the reals are above, the threshold counts as the k-th
    largest of their scores. (Of independent clips, and one epoch, the largest alone is above what the others
    give: k = 1, and the bound is that of the threshold itself.) The correlation within persons is its
    estimate, not the upper end: where persons differ, several clips of one are above, so k shows it already.

    Raises NoStatisticError if a part of the persons is all that a class has.
    """
    fold, num_folds = folds_of(labels, persons)
    real = labels == 0
    epochs = _best_epochs(scores, labels, fold, num_folds, by_loss=by_loss)
    num_above = 0
    for number, epoch in enumerate(epochs):
        left_out = fold == number
        threshold, _ = lowest_threshold(scores[epoch, real & ~left_out], rate)
        num_above += int((scores[epoch, real & left_out] > threshold).sum())
    reals, of_reals = scores[chosen, real], np.asarray(persons, str)[real]
    bound = rate_bound(max(num_above - 1, 0), reals, of_reals, CORRELATION_LEVEL)
    return CrossFit(
        num_epochs=len(scores),
        num_folds=num_folds,
        num_reals=len(reals),
        num_real_persons=len(np.unique(of_reals)),
        num_reals_accused=num_above,
        rate=num_above / len(reals),
        bound=max(bound, num_above / len(reals)),
    )


def folds_of(labels: Labels, persons: Persons) -> tuple[Folds, int]:
    """(part of each clip's person, number of parts): at most NUM_FOLDS, each with persons of reals.

    No random draw: the same clips give the same parts. Raises NoStatisticError if a part is all that a class
    has.
    """
    _, person_of = np.unique(np.asarray(persons, str), return_inverse=True)
    has_reals = np.bincount(person_of, labels == 0) > 0
    place = np.empty(len(has_reals), np.intp)
    place[np.argsort(~has_reals, kind="stable")] = np.arange(len(has_reals))  # those with reals first
    num_folds = min(NUM_FOLDS, int(has_reals.sum()))
    fold = place[person_of] % max(num_folds, 1)
    for label, name in enumerate(("real", "fake")):
        if len(np.unique(fold[labels == label])) < 2:
            raise NoStatisticError(f"the {name} validation clips show too few persons to leave some out")
    return fold, num_folds


def _best_epochs(scores: Floats, labels: Labels, fold: Folds, num_folds: int, *, by_loss: bool) -> list[int]:
    """The epoch of the best metric without each of the parts."""
    if not by_loss:
        found: list[int] = aucs_without(scores, labels, fold, num_folds).argmax(axis=0).tolist()
        return found
    losses = np.logaddexp(0, np.where(labels == 1, -scores, scores))
    kept = fold[:, None] != np.arange(num_folds)
    best: list[int] = (losses @ kept / kept.sum(axis=0)).argmin(axis=0).tolist()
    return best


def aucs_without(scores: Floats, labels: Labels, fold: Folds, num_folds: int) -> Floats:
    """(epochs, parts): AUC of (epochs, n) scores over the clips outside each part. Ties count one half."""
    fake = labels == 1
    size = max(1, BLOCK_SIZE // len(fake))
    num_fakes, num_reals = (
        len(fake[kind]) - np.bincount(fold[kind], minlength=num_folds) for kind in (fake, ~fake)
    )
    found = []
    for start in range(0, len(scores), size):
        block = scores[start : start + size]
        # in ties, the reals come first, and all of them count; then the fakes do, and none counts
        pairs, has_ties = _pairs_without(block, fake, fold, np.argsort(fake, kind="stable"))
        if has_ties:
            pairs = (pairs + _pairs_without(block, fake, fold, np.argsort(~fake, kind="stable"))[0]) / 2
        found.append(pairs / (num_fakes * num_reals))
    return np.concatenate(found)


def _pairs_without(
    scores: Floats, fake: npt.NDArray[np.bool_], fold: Folds, order: Folds
) -> tuple[Floats, bool]:
    """((epochs, parts) pairs of a real and a fake above it, neither in the part; whether some are tied).

    All pairs, less those with either clip in the part, and those with both, which went twice, again.
    """
    by_score = order[np.argsort(scores[:, order], axis=1, kind="stable")]
    is_fake = fake[by_score]
    ordered = np.take_along_axis(scores, by_score, axis=1)
    has_ties = bool(((ordered[:, 1:] == ordered[:, :-1]) & (is_fake[:, 1:] != is_fake[:, :-1])).any())
    reals_below = np.cumsum(~is_fake, axis=1)
    fakes_above = np.count_nonzero(fake) - np.cumsum(is_fake, axis=1)
    all_pairs = (reals_below * is_fake).sum(axis=1, keepdims=True)
    # the parts one after the other, each in the order of scores
    by_part = np.argsort(fold[by_score].astype(np.int16), axis=1, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(fold))[:-1])
    with_one = np.take_along_axis(np.where(is_fake, reals_below, fakes_above), by_part, axis=1)
    is_fake = np.take_along_axis(is_fake, by_part, axis=1)
    # of reals below in the part alone: less those of the parts before
    before = np.append(0, np.cumsum(np.bincount(fold, ~fake))[:-1])
    within = np.add.reduceat(np.cumsum(~is_fake, axis=1) * is_fake, starts, axis=1)
    within = within - before * np.add.reduceat(is_fake, starts, axis=1, dtype=np.intp)
    return all_pairs - np.add.reduceat(with_one, starts, axis=1) + within, has_ties
