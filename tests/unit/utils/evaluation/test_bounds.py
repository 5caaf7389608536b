"""Bounds of rates on new persons, against simulated validations whose truth is known."""

import numpy as np
import pytest
from scipy.stats import beta, norm

from utils.evaluation.bounds import correlation_within, effective_number, rate_bound, threshold_above
from utils.evaluation.cross_fit import cross_fit

EPOCHS = 30


def noise(rng, person_of, correlation, *shape):
    """Standard normal (*shape, n), of that correlation between clips of a person."""
    of_persons = rng.normal(size=(*shape, person_of.max() + 1))[..., person_of]
    own = rng.normal(size=(*shape, len(person_of)))
    return np.sqrt(correlation) * of_persons + np.sqrt(1 - correlation) * own


def simulated_validation(rng, num_persons, *, correlation=0.5, in_common=0.8):
    """(scores (EPOCHS, n), fake (n,), person (n,), epoch of the largest AUC) of a validation part.

    Each person has 3 to 10 clips of either class. Scores of epochs have `in_common` of their variance in
    common, and the classes move apart with the epochs. The reals' scores are standard normal in all of them.
    """
    person_of = np.repeat(np.arange(num_persons), 2 * rng.integers(3, 11, num_persons))
    fake = np.arange(len(person_of)) % 2 == 1
    shared = np.sqrt(in_common) * noise(rng, person_of, correlation)
    gaps = 2.5 * (1 - np.exp(-np.arange(1, EPOCHS + 1) / 6))
    own = np.sqrt(1 - in_common) * noise(rng, person_of, correlation, EPOCHS)
    scores = shared + own + gaps[:, None] * fake
    ranks_of_fakes = fake[np.argsort(scores, axis=1)] @ np.arange(len(fake))
    return scores, fake, person_of, int(ranks_of_fakes.argmax())  # the AUC, but for constants


def test_the_bounds_hold_on_new_persons_though_the_epoch_was_chosen_on_the_same_clips():
    relative = []  # true rates, to the mean of each bound
    for in_common in (0.5, 0.8):
        rng = np.random.default_rng(0)
        rows = []
        for num_persons in np.repeat((8, 16, 24, 40), 100):
            scores, fake, person_of, best = simulated_validation(rng, num_persons, in_common=in_common)
            names = person_of.astype(str)
            threshold, num_above, bound = threshold_above(scores[best, ~fake], 0.01, names[~fake])
            again = cross_fit(scores, fake, names, 0.01, chosen=best)
            bounds = bound, again.bound, max(bound, again.bound)  # the last is what is promised
            rows.append((threshold, *bounds, again.rate, num_above, again.num_reals))
        threshold, *bounds, cross_fitted, num_above, num_reals = np.transpose(rows)
        rate = norm.sf(threshold)  # of new persons
        assert (np.mean(rate <= bounds, axis=1) >= 0.93).all()
        for_clips = beta.ppf(0.95, num_above + 1, num_reals - num_above)
        assert np.mean(rate <= for_clips) < 0.87  # clips of a person taken for independent
        # unlike the rate on validation itself, not too small on average
        assert rate.mean() < cross_fitted.mean() < 1.5 * rate.mean()
        means = np.reshape(bounds, (3, 4, 100)).mean(axis=2)  # for each number of persons
        relative.append(rate / np.repeat(means, 100, axis=1))
    # the best constant bound, which knows the truth, is the one that holds for 95 %
    assert (1 / np.quantile(np.concatenate(relative, axis=1), 0.95, axis=1) < 2).all()


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
