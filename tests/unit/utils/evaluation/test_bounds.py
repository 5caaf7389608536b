"""Bounds of rates on new persons, against simulated validations whose truth is known."""

import numpy as np
import pytest
from scipy.stats import beta, norm

from utils.evaluation.bounds import correlation_within, effective_number, rate_bound
from utils.evaluation.decision import threshold_above

EPOCHS = 30


def noise(rng, person_of, correlation):
    """Standard normal (n,), of that correlation between clips of a person."""
    of_persons = rng.normal(size=person_of.max() + 1)[person_of]
    return np.sqrt(correlation) * of_persons + np.sqrt(1 - correlation) * rng.normal(size=len(person_of))


def best_epoch(rng, num_persons, *, correlation=0.5, in_common=0.8):
    """(logits of the reals, persons) of the epoch with the largest AUC on a validation part.

    Each person has 3 to 10 clips of either class. Scores of epochs have `in_common` of their variance in
    common, and the classes move apart with the epochs. The reals' scores are standard normal in all of them.
    """
    person_of = np.repeat(np.arange(num_persons), 2 * rng.integers(3, 11, num_persons))
    fake = np.arange(len(person_of)) % 2 == 1
    shared = np.sqrt(in_common) * noise(rng, person_of, correlation)
    gaps = 2.5 * (1 - np.exp(-np.arange(1, EPOCHS + 1) / 6))
    epochs = [
        shared + np.sqrt(1 - in_common) * noise(rng, person_of, correlation) + gap * fake for gap in gaps
    ]
    ranks = np.argsort(np.argsort(epochs, axis=1), axis=1)
    best = epochs[ranks[:, fake].sum(axis=1).argmax()]  # the AUC, but for constants
    return best[~fake], person_of[~fake]


@pytest.mark.parametrize("in_common", [0.5, 0.8])
def test_the_bound_holds_on_new_persons_though_the_epoch_was_chosen_on_the_same_clips(in_common):
    rng = np.random.default_rng(0)
    held, held_for_clips, widths = [], [], {}
    for number in range(400):
        num_persons = (8, 16, 24, 40)[number % 4]
        reals, persons = best_epoch(rng, num_persons, in_common=in_common)
        threshold, num_above, bound = threshold_above(reals, 0.01, persons)
        rate = norm.sf(threshold)  # of new persons' clips
        held.append(rate <= bound)
        held_for_clips.append(rate <= beta.ppf(0.95, num_above + 1, len(reals) - num_above))
        widths.setdefault(num_persons, []).append((rate, bound))
    assert np.mean(held) >= 0.93
    assert np.mean(held_for_clips) < 0.87  # clips of a person taken for independent
    ratios = []
    for rates_and_bounds in widths.values():
        rates, bounds = np.transpose(rates_and_bounds)
        ratios.append(bounds.mean() / np.quantile(rates, 0.95))  # to the best bound, with the truth known
    assert np.mean(ratios) < 2


def test_independent_clips_are_worth_themselves_and_alike_ones_their_persons():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    assert effective_number(values, [f"p{i}" for i in range(20)]) == 20
    assert effective_number(np.repeat(values, 5), np.repeat(range(20), 5)) == pytest.approx(20)
    assert effective_number(values, ["one person"] * 20) == pytest.approx(1)
    assert effective_number(np.zeros(6), ["a", "a", "b", "b", "c", "c"]) == pytest.approx(3)
    assert rate_bound(0, values, range(20)) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert rate_bound(0, np.repeat(values, 5), np.repeat(range(20), 5)) == pytest.approx(1 - 0.05 ** (1 / 20))


def test_the_correlation_is_taken_from_the_upper_end_of_its_interval():
    rng = np.random.default_rng(1)
    persons = np.repeat(np.arange(12), 6)
    found = np.array([correlation_within(noise(rng, persons, 0.5), persons)[0] for _ in range(400)])
    assert (found >= 0.5).mean() == pytest.approx(0.75, abs=0.06)
    many = np.repeat(np.arange(3000), 6)
    assert correlation_within(noise(rng, many, 0.3), many) == pytest.approx((0.3, 6), abs=0.03)
