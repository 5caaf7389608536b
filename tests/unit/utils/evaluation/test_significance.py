import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from utils.errors import DatasetError
from utils.evaluation.bootstrap import (
    METRICS,
    NoStatisticError,
    PersonResamples,
    WeightedRoc,
    bootstrap_metrics,
    interval_results,
    macro_auc_interval,
    metric_intervals,
)
from utils.evaluation.metrics import equal_error_rate, expected_calibration_error
from utils.evaluation.significance import delong_test, holm, mcnemar_test, over_runs, placements


def counted_auc(labels, scores, weights):
    """The definition: the weight of the pairs in order, a tie counting half, by a loop over all pairs."""
    ordered = total = 0.0
    for i, j in itertools.product(np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)):
        weight = weights[i] * weights[j]
        total += weight
        ordered += weight * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return ordered / total


def random_clips(seed, *, num_levels=None, num_clips=80):
    """Labels, scores that tell something (on a few levels: tied ones) and 12 persons."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=num_clips)
    labels[:2] = 0, 1
    scores = rng.normal(size=num_clips) + labels
    if num_levels:
        scores = np.round(scores * num_levels / 6) / num_levels
    return labels, scores, [f"p{i}" for i in rng.integers(12, size=num_clips)]


def clustered_clips(seed, num_persons, *, person_std=0.7, forgery_std=1.0, shift=1.0):
    """Scores with an effect of the person on all of her clips and one more on her fakes; a third of the
    persons each has real clips, fake clips, and both. The true AUC, of a fake and a real of two persons,
    follows from the normal distribution.
    """
    rng = np.random.default_rng(seed)
    num_real = np.where(np.arange(num_persons) % 3 != 2, 2, 0)
    num_fake = np.where(np.arange(num_persons) % 3 != 1, 6, 0)
    persons = np.concatenate([np.repeat(np.arange(num_persons), n) for n in (num_real, num_fake)])
    labels = np.repeat([0, 1], [num_real.sum(), num_fake.sum()])
    person = person_std * rng.normal(size=num_persons)
    forgery = forgery_std * rng.normal(size=num_persons)
    scores = person[persons] + labels * (shift + forgery[persons]) + rng.normal(size=len(labels))
    true_auc = norm.cdf(shift / math.sqrt(2 * (1 + person_std**2) + forgery_std**2))
    return labels, scores, persons.astype(str), true_auc


@pytest.mark.parametrize("num_levels", [None, 2, 8])
@pytest.mark.parametrize("seed", range(4))
def test_weighted_metrics_equal_scikit_learns_and_the_definition(seed, num_levels):
    labels, scores, _ = random_clips(seed, num_levels=num_levels)
    weights = np.random.default_rng(seed).integers(4, size=(5, len(labels))).astype(float)
    weights[:, :2] = 1  # both classes are there
    roc = WeightedRoc(labels, scores - 0.25, np.arange(len(labels)))  # a threshold that scores lie on
    result = roc.metrics(weights, METRICS)
    for row, weight in enumerate(weights):
        times = weight.astype(int)
        repeated, repeated_scores = np.repeat(labels, times), np.repeat(scores, times)
        called = repeated_scores > 0.25
        expected = {
            "auc": roc_auc_score(labels, scores, sample_weight=weight),
            "ap": average_precision_score(labels, scores, sample_weight=weight),
            "eer": equal_error_rate(repeated, repeated_scores),
            "balanced_accuracy": (called[repeated == 1].mean() + (~called[repeated == 0]).mean()) / 2,
        }
        assert {name: values[row] for name, values in result.items()} == pytest.approx(expected, abs=1e-9)
        assert result["auc"][row] == pytest.approx(counted_auc(labels, scores, weight), abs=1e-12)


def test_a_resample_is_the_drawn_persons_with_all_of_their_clips():
    labels, scores, persons = random_clips(1, num_levels=4)
    resamples = PersonResamples(labels, persons, "x", num_resamples=40)
    values = bootstrap_metrics(labels, scores, resamples, names=("auc", "eer"))
    drawn = np.concatenate(list(resamples.blocks()))
    names = np.unique(persons)
    assert drawn.shape == (40, len(names))
    for counts, auc, eer in zip(drawn, values["auc"], values["eer"], strict=True):
        rows = np.concatenate(
            [
                np.tile(np.flatnonzero(np.array(persons) == name), int(count))
                for name, count in zip(names, counts, strict=True)
            ]
        ).astype(int)
        assert auc == pytest.approx(roc_auc_score(labels[rows], scores[rows]), abs=1e-12)
        assert eer == pytest.approx(equal_error_rate(labels[rows], scores[rows]), abs=1e-12)


def test_persons_are_drawn_within_what_classes_they_appear_in():
    """Every resample has both classes, even where only two persons are real."""
    persons = ["r1", "r1", "r2", *(f"f{i}" for i in range(30)), "b1", "b1", "b2", "b2"]
    labels = np.array([0, 0, 0, *[1] * 30, 0, 1, 1, 0])
    resamples = PersonResamples(labels, persons, "x")
    drawn = np.concatenate(list(resamples.blocks()))
    names = np.unique(persons)
    for letter, size in (("r", 2), ("f", 30), ("b", 2)):
        of_stratum = drawn[:, [name[0] == letter for name in names]]
        assert (of_stratum.sum(axis=1) == size).all()
        assert len(np.unique(of_stratum, axis=0)) > 2
    # a person is drawn once on average, with the binomial's variance
    assert drawn.mean(axis=0) == pytest.approx(np.ones(len(names)), abs=0.1)
    assert drawn[:, names == "f3"].var() == pytest.approx(29 / 30, abs=0.1)


def test_two_models_see_the_same_resamples_whatever_the_order_of_the_clips():
    labels, scores, persons = random_clips(2)
    order = np.random.default_rng(0).permutation(len(labels))
    first = metric_intervals(labels, scores, persons, "x")
    assert metric_intervals(labels[order], scores[order], np.array(persons)[order], "x") == first
    assert metric_intervals(labels, scores, persons, "x", seed=1) != first
    # a model against its own monotone transform: every paired difference is exactly 0
    resamples = PersonResamples(labels, persons, "x")
    draws = [bootstrap_metrics(labels, values, resamples)["auc"] for values in (scores, np.exp(scores))]
    assert (draws[0] == draws[1]).all()
    assert draws[0].std() > 0.01


def test_clips_of_one_person_widen_the_interval():
    labels, scores, persons, _ = clustered_clips(0, 60)
    by_person = metric_intervals(labels, scores, persons, "x")["auc"]
    by_clip = metric_intervals(labels, scores, np.arange(len(labels)).astype(str), "x")["auc"]
    assert by_person.high - by_person.low > 1.3 * (by_clip.high - by_clip.low)


@pytest.mark.slow
def test_the_interval_covers_the_true_auc():
    covered, clips_covered = 0, 0
    for seed in range(400):
        labels, scores, persons, true_auc = clustered_clips(seed, 60)
        low, high = metric_intervals(labels, scores, persons, "x", num_resamples=500)["auc"]
        covered += low <= true_auc <= high
        if seed < 200:
            each_alone = np.arange(len(labels)).astype(str)
            low, high = metric_intervals(labels, scores, each_alone, "x", num_resamples=500)["auc"]
            clips_covered += low <= true_auc <= high
    assert 0.93 <= covered / 400 <= 0.97
    assert clips_covered / 200 < 0.9  # clips taken for independent promise too much


def test_the_interval_of_the_macro_average_lets_the_groups_vary_together():
    labels, scores, persons, _ = clustered_clips(3, 30)
    fakes = np.flatnonzero(labels == 1)
    groups = [np.sort(np.concatenate([np.flatnonzero(labels == 0), part])) for part in (fakes, fakes)]
    single = metric_intervals(labels, scores, persons, "x")["auc"]
    assert macro_auc_interval(labels, scores, persons, groups, "x") == pytest.approx(single)  # twice the same
    lonely = np.append(np.flatnonzero(labels == 0), fakes[0])
    with pytest.raises(NoStatisticError, match="too few identities"):
        macro_auc_interval(labels, scores, persons, [groups[0], lonely], "x")


def test_what_the_data_do_not_allow_is_an_error_or_a_reason_and_never_a_number():
    labels, scores, persons = random_clips(0)
    for one_class in (0, 1):
        with pytest.raises(DatasetError, match="the test split has .* AUC, AP and EER need both"):
            metric_intervals(np.full(9, one_class), np.arange(9.0), list("abcabcabc"), "the test split")
        with pytest.raises(DatasetError, match="need both"):
            delong_test(np.full(9, one_class), np.arange(9.0), np.arange(9.0), "x")
    with pytest.raises(NoStatisticError, match="the real clips are of 1 identity"):
        metric_intervals(np.array([0, 0, 1, 1]), np.arange(4.0), list("aabc"), "x")
    with pytest.raises(DatasetError, match="1 scores are not finite"):
        metric_intervals(labels, np.where(scores == scores[5], np.nan, scores), persons, "x")
    result = interval_results(
        np.array([0, 0, 1, 1]), np.arange(4.0), list("aabc"), {"category": {"A": np.arange(4)}}, "x"
    )
    assert "1 identity" in result["overall"]["reason"]
    assert "1 identity" in result["per_category"]["A"]["reason"]
    assert "1 identity" in result["macro_auc_category"]["reason"]


def delong_by_loops(labels, a, b):
    """DeLong et al. (1988), equations as printed: structural components by comparing all pairs."""
    fakes, reals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    kernel = np.array(
        [[[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in reals] for i in fakes] for s in (a, b)]
    )
    by_fake, by_real = kernel.mean(axis=2), kernel.mean(axis=1)
    aucs = kernel.mean(axis=(1, 2))
    covariance = np.cov(by_fake) / len(fakes) + np.cov(by_real) / len(reals)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return aucs, math.sqrt(variance), 2 * norm.sf(abs(aucs[0] - aucs[1]) / math.sqrt(variance))


@pytest.mark.parametrize("num_levels", [None, 3])
def test_delong_equals_its_equations_by_loops(num_levels):
    for seed in range(5):
        labels, a, _ = random_clips(seed, num_levels=num_levels)
        b = a + np.random.default_rng(seed + 100).choice([-0.5, 0, 0.5], len(a))
        aucs, error, p_value = delong_by_loops(labels, a, b)
        alone = np.arange(len(labels)).astype(str)
        for test in (delong_test(labels, a, b, "x"), delong_test(labels, a, b, "x", persons=alone)):
            assert (test.auc_a, test.auc_b) == pytest.approx(aucs, abs=1e-9)
            assert test.auc_a == pytest.approx(roc_auc_score(labels, a), abs=1e-9)
            assert test.standard_error == pytest.approx(error, abs=1e-9)
            assert test.p_value == pytest.approx(p_value, abs=1e-9)


def two_models(seed, *, person_std, num_persons=60):
    """Two equally good models whose scores share the clip's difficulty and each its own person effect."""
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(num_persons), 4)
    labels = np.tile([0, 0, 1, 1], num_persons)
    shared = labels + rng.normal(size=len(labels))
    # a person's effect on the fakes only: it does not cancel within the person
    scores = [
        shared
        + 0.7 * rng.normal(size=len(labels))
        + person_std * labels * rng.normal(size=num_persons)[persons]
        for _ in "ab"
    ]
    return labels, scores[0], scores[1], persons


def test_delongs_p_value_is_uniform_under_the_null():
    alone = [two_models(seed, person_std=0.0) for seed in range(1500)]
    p_values = [delong_test(labels, a, b, "x").p_value for labels, a, b, _ in alone]
    assert kstest(p_values, "uniform").pvalue > 0.05
    clustered = [two_models(seed, person_std=1.0) for seed in range(1500)]
    by_clip = [delong_test(labels, a, b, "x").p_value for labels, a, b, _ in clustered]
    by_person = [delong_test(labels, a, b, "x", persons=who).p_value for labels, a, b, who in clustered]
    assert kstest(by_clip, "uniform").pvalue < 1e-4  # clips of a person taken for independent
    assert kstest(by_person, "uniform").pvalue > 0.05


def test_delong_of_models_that_rank_alike_is_one_and_of_no_variance_no_number():
    labels, scores, _ = random_clips(0)
    assert delong_test(labels, scores, 3 * scores + 1, "x").p_value == 1.0
    with pytest.raises(NoStatisticError, match="no clip differs"):
        delong_test(np.array([0, 0, 1, 1]), np.arange(4.0), -np.arange(4.0), "x")
    with pytest.raises(NoStatisticError, match="two clips of each class"):
        delong_test(np.array([0, 1, 1]), np.arange(3.0), -np.arange(3.0), "x")


def test_placements_average_to_the_auc_over_either_class():
    labels, scores, _ = random_clips(4, num_levels=3)
    placed = placements(labels, scores)
    auc = roc_auc_score(labels, scores)
    assert placed[labels == 1].mean() == pytest.approx(auc, abs=1e-12)
    assert placed[labels == 0].mean() == pytest.approx(auc, abs=1e-12)


def rights(only_a, only_b, both=7, neither=3):
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
    return np.array(a), np.array(b)


def test_mcnemar_is_exact_on_few_discordant_clips_and_chi_square_on_many():
    test = mcnemar_test(*rights(1, 9))
    assert (test.only_a_right, test.only_b_right, test.exact) == (1, 9, True)
    assert test.p_value == pytest.approx(2 * (1 + 10) / 2**10)  # tails of 10 fair coins
    assert mcnemar_test(*rights(0, 0)).p_value == 1.0
    assert mcnemar_test(*rights(4, 4)).p_value == 1.0
    assert mcnemar_test(*rights(12, 12)).exact
    many = mcnemar_test(*rights(5, 20))
    assert not many.exact
    # (|5 - 20| - 1)^2 / 25 = 7.84, and chi-square with one degree of freedom is a squared normal
    assert many.p_value == pytest.approx(2 * norm.sf(math.sqrt(7.84)))


def test_holm_equals_a_table_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match="0..1"):
        holm([0.5, math.nan])


def test_calibration_error_equals_torchmetrics_and_a_table():
    rng = np.random.default_rng(0)
    for num_clips in (3, 40, 4000):
        probs = rng.random(num_clips)
        labels = (rng.random(num_clips) < probs**2).astype(int)
        expected = binary_calibration_error(torch.from_numpy(probs), torch.from_numpy(labels), n_bins=15)
        assert expected_calibration_error(labels, probs) == pytest.approx(float(expected), abs=1e-9)
    # two bins of 15: 0.30 and 0.32 (bin 5) are fake once in two, 0.9 (bin 14) is real
    table = expected_calibration_error(np.array([0, 1, 0]), np.array([0.30, 0.32, 0.9]))
    assert table == pytest.approx((2 * abs(0.5 - 0.31) + 0.9) / 3)
    assert expected_calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0.0
    for probs in (np.array([0.2, 1.2]), np.array([0.2, np.nan]), np.array([])):
        with pytest.raises(DatasetError, match="probabilities"):
            expected_calibration_error(np.array([0, 1])[: len(probs)], probs)


def test_mean_and_deviation_over_runs():
    summary = over_runs([{"auc": 0.9, "eer": 0.1}, {"auc": 0.8, "eer": 0.1}, {"auc": 0.7, "eer": 0.1}], "x")
    assert (summary["auc"]["num_runs"], summary["auc"]["mean"]) == (3, pytest.approx(0.8))
    assert summary["auc"]["std"] == pytest.approx(0.1)  # of a sample: 2 in the denominator
    assert over_runs([{"auc": 0.9}], "x")["auc"]["std"] is None
    for runs in (
        [],
        [{"auc": 0.9}, {"eer": 0.1}],
        [{"auc": 0.9}, {"auc": 0.9, "eer": 0.1}],
        [{"auc": math.nan}],
    ):
        with pytest.raises(DatasetError, match="the folds"):
            over_runs(runs, "the folds")
