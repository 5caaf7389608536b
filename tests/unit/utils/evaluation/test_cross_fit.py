"""The choice of epoch and threshold, made again without some persons, against plain loops."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from utils.evaluation import cross_fit as module
from utils.evaluation.bootstrap import NoStatisticError
from utils.evaluation.bounds import rate_bound
from utils.evaluation.cross_fit import aucs_without, cross_fit, folds_of


def validation(num_persons=13, num_epochs=6, decimals=1):
    """(scores (E, n), labels (n,), persons (n,)) with ties; every third person has only fakes."""
    rng = np.random.default_rng(0)
    person_of = rng.integers(num_persons, size=160)
    labels = np.where(person_of % 3 == 2, 1.0, rng.integers(2, size=160))
    scores = (
        rng.normal(size=(num_epochs, 160))
        + labels
        + 0.7 * rng.normal(size=(num_epochs, num_persons))[:, person_of]
    )
    return scores.round(decimals), labels, np.array([f"p{person}" for person in person_of])


def test_the_auc_without_each_part_is_that_of_the_other_clips(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_SIZE", 2 * 160)  # two epochs at once
    scores, labels, persons = validation(num_epochs=5)
    fold, num_folds = folds_of(labels, persons)
    expected = [
        [roc_auc_score(labels[fold != part], row[fold != part]) for part in range(num_folds)]
        for row in scores
    ]
    np.testing.assert_allclose(aucs_without(scores, labels, fold, num_folds), expected, atol=1e-12)


def test_parts_are_of_whole_persons_and_each_has_reals():
    _, labels, persons = validation()
    fold, num_folds = folds_of(labels, persons)
    assert num_folds == len(np.unique(persons[labels == 0])) == 9
    assert all(len(np.unique(fold[persons == person])) == 1 for person in persons)
    assert all((labels[fold == part] == 0).any() for part in range(num_folds))
    assert folds_of(np.arange(80) % 2, np.arange(80) // 2)[1] == 10  # of 40 persons


@pytest.mark.parametrize("by_loss", [False, True])
def test_epoch_and_threshold_are_chosen_without_the_persons_they_are_tried_on(by_loss):
    scores, labels, persons = validation(decimals=6)
    fold, num_folds = folds_of(labels, persons)
    chosen, num_above = set(), 0
    for part in range(num_folds):
        kept = fold != part
        if by_loss:
            values = [-log_loss(labels[kept], 1 / (1 + np.exp(-row[kept]))) for row in scores]
        else:
            values = [roc_auc_score(labels[kept], row[kept]) for row in scores]
        epoch = int(np.argmax(values))
        chosen.add(epoch)
        reals = sorted(scores[epoch][kept & (labels == 0)])
        threshold = reals[len(reals) - 1 - int(0.05 * len(reals))]
        num_above += int((scores[epoch][~kept & (labels == 0)] > threshold).sum())
    assert len(chosen) > 1  # one part or another does change the epoch
    found = cross_fit(scores, labels, persons, 0.05, chosen=2, by_loss=by_loss)
    num_reals = int((labels == 0).sum())
    assert (found.num_reals_accused, found.num_reals, found.num_epochs) == (num_above, num_reals, 6)
    assert found.rate == num_above / num_reals
    assert (found.num_real_persons, found.num_folds) == (9, 9)
    expected = rate_bound(num_above - 1, scores[2][labels == 0], persons[labels == 0], 0.5)
    assert found.bound == pytest.approx(expected)


def test_too_few_persons_to_leave_some_out_are_said():
    labels = np.array([0, 0, 1, 1])
    for persons, name in ((["a", "a", "b", "c"], "real"), (["a", "b", "a", "a"], "fake")):
        with pytest.raises(NoStatisticError, match=f"the {name} validation clips show too few persons"):
            cross_fit(np.zeros((1, 4)), labels, persons, 0.01, chosen=0)
