import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit

from tests.clip_factory import make_clip
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import CheckpointError, DatasetError
from utils.evaluation.bounds import threshold_above
from utils.evaluation.decision import (
    Decision,
    decision_of_scores,
    decision_results,
    fit_head,
    fit_temperature,
)
from utils.evaluation.metrics import expected_calibration_error, one_class_metrics
from utils.evaluation.scoring import ClipScores


def overconfident_clips(temperature, num_clips=20000, seed=0):
    """Logits whose true P(fake) is sigmoid(logit / temperature)."""
    rng = np.random.default_rng(seed)
    true_logits = 2 * rng.normal(size=num_clips) + 0.5
    labels = (rng.random(num_clips) < expit(true_logits)).astype(int)
    return labels, true_logits * temperature


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_temperature_that_the_logits_were_scaled_by_is_found(temperature):
    labels, logits = overconfident_clips(temperature)
    found = fit_temperature(labels, logits)
    assert found == pytest.approx(temperature, rel=0.05)
    new_labels, new_logits = overconfident_clips(temperature, seed=1)
    assert expected_calibration_error(new_labels, expit(new_logits / found)) < 0.015
    if temperature != 1:
        assert expected_calibration_error(new_labels, expit(new_logits)) > 0.05


def test_the_temperature_has_the_smallest_likelihood_of_a_fine_grid():
    labels, logits = overconfident_clips(3.0, num_clips=60)
    fake = labels == 1
    targets = np.where(fake, (fake.sum() + 1) / (fake.sum() + 2), 1 / ((~fake).sum() + 2))
    grid = np.exp(np.linspace(np.log(0.05), np.log(50), 20001))
    scaled = logits / grid[:, None]
    loss = -(targets * log_expit(scaled) + (1 - targets) * log_expit(-scaled)).mean(axis=1)
    assert fit_temperature(labels, logits) == pytest.approx(grid[loss.argmin()], rel=1e-3)


def test_separable_classes_have_a_temperature_and_do_not_become_certain():
    labels = np.array([0] * 10 + [1] * 10)
    logits = np.where(labels == 1, 3.0, -3.0)
    found = fit_temperature(labels, logits)
    assert expit(3.0 / found) == pytest.approx(11 / 12, abs=1e-6)  # Platt's target of ten fakes
    assert fit_temperature(labels, 1e6 * logits) == pytest.approx(100, rel=1e-3)  # the bound
    assert fit_temperature(labels, np.zeros(20)) == 1.0
    worse_than_chance = fit_temperature(labels, -logits)
    assert worse_than_chance == pytest.approx(100, rel=1e-3)  # P(fake) close to 0.5


def apart(clips):
    """A person of their own for each of the clips."""
    return [f"person {number}" for number, _ in enumerate(clips)]


@pytest.mark.parametrize(
    ("num_reals", "rate", "allowed"),
    [(100, 0.01, 1), (99, 0.01, 0), (5, 0.01, 0), (1, 0.4, 0), (1000, 0.05, 50), (100, 0.29, 29)],
)
def test_the_threshold_never_accuses_more_reals_than_allowed(num_reals, rate, allowed):
    reals = np.random.default_rng(0).permutation(num_reals).astype(float)
    threshold, num_above, _ = threshold_above(reals, rate, apart(reals))
    assert num_above == (reals > threshold).sum() == allowed
    assert (reals > np.nextafter(threshold, -np.inf)).sum() == allowed + 1  # and it is the lowest such
    tied = np.round(reals / 3)
    threshold, num_above, _ = threshold_above(tied, rate, apart(tied))
    assert num_above == (tied > threshold).sum() <= allowed


def test_the_bound_of_the_false_positive_rate_holds_on_new_reals():
    """In 95 % of validation sets, the rate that the threshold has in the population is below the bound."""
    rng = np.random.default_rng(0)
    for num_reals, rate in ((10, 0.01), (200, 0.05)):
        held = []
        for _ in range(4000):
            # uniform scores: the population's rate above a threshold is 1 - threshold
            threshold, _, bound = threshold_above(rng.random(num_reals), rate, apart(range(num_reals)))
            held.append(1 - threshold <= bound)
        assert np.mean(held) == pytest.approx(0.95, abs=0.012)
    assert bound < 0.09
    assert threshold_above(rng.random(10), 0.01, apart(range(10)))[2] == pytest.approx(1 - 0.05**0.1)


def gaussian_clips(gap, num_clips=4000, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num_clips) % 2
    return labels, rng.normal(size=num_clips) + gap * labels - gap / 2


@pytest.mark.parametrize("gap", [0.0, 2.0, 4.0, 20.0])
def test_verdicts_keep_both_rates_on_validation_whether_classes_overlap_or_lie_apart(gap):
    labels, logits = gaussian_clips(gap)
    head = fit_head(labels, logits, apart(labels), 0.02, "x")
    verdicts = head.verdicts(logits)
    fake = labels == 1
    assert (verdicts[~fake] == "fake").mean() <= 0.02
    assert (verdicts[fake] == "real").mean() <= 0.02
    low, high = sorted((head.acquittal_threshold, head.threshold))
    assert (verdicts[(logits > low) & (logits < high)] == "undecided").all()
    assert (verdicts[logits > high] == "fake").all()
    assert (verdicts[logits < low] == "real").all()
    if gap == 0:
        assert (verdicts == "undecided").mean() > 0.9
    if gap == 20:
        assert (verdicts == np.where(fake, "fake", "real")).mean() > 0.97
        assert head.verdict(0.0) == "undecided"  # no validation clip was anywhere near


def test_a_verdict_on_a_few_reals_says_how_many_it_stands_on():
    labels = np.array([0] * 5 + [1] * 7)
    logits = np.array([-4.0, -3, -2, -1, 3, 0, 1, 2, 4, 5, 6, 7])
    head = fit_head(labels, logits, apart(labels), 0.01, "x")
    assert (head.threshold, head.acquittal_threshold) == (3.0, 0.0)
    assert (head.num_reals, head.num_reals_accused, head.num_fakes) == (5, 0, 7)
    assert head.false_positive_bound == pytest.approx(1 - 0.05 ** (1 / 5))
    words = [head.verdict(logit) for logit in (-1.0, 0.0, 3.0, 3.1)]
    assert words == ["real", "undecided", "undecided", "fake"]
    with pytest.raises(ValueError, match=r"verdict"):
        head.verdict(float("nan"))


def test_input_off_the_domain_is_undecided_whatever_its_score():
    decision = Decision(rate=0.01, clip=fit_head(*gaussian_clips(4.0), apart(range(4000)), 0.01, "x"))
    assert decision.verdict(50.0) == "fake"
    assert decision.verdict(50.0, off_domain=("the face is 30 pixels wide",)) == "undecided"


def scored_clips(tmp_path, *, audio_known=True):
    """Clips of all four kinds; the heads' logits follow their modality's label."""
    rng = np.random.default_rng(0)
    kinds = [(i % 2, i // 2 % 2) for i in range(400)]
    clips = [
        make_clip(
            tmp_path / str(i), label=max(kind), video_label=kind[0],
            audio_label=kind[1] if audio_known else None,
        )
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    video, audio = (20 * np.array(kinds) - 10 + rng.normal(size=(400, 2))).T
    scores = ClipScores(
        clip_ids=[clip.clip_id for clip in reversed(clips)],
        labels=np.array([clip.label for clip in reversed(clips)], float),
        logits=np.maximum(video, audio)[::-1],
        video_logits=video[::-1],
        audio_logits=3 * audio[::-1] + 60,  # a head with a scale and an offset of its own
        num_windows=np.ones(400, int),
        window_logits=[np.zeros(1)] * 400,
        mean_terms={},
    )
    return clips, scores


def test_each_modality_is_judged_by_its_own_temperature_and_thresholds(tmp_path):
    clips, scores = scored_clips(tmp_path)
    decision = decision_of_scores(clips, scores, 0.01, "validation")
    assert decision.modality_verdicts(10, 90) == {"video": "fake", "audio": "fake"}
    assert decision.modality_verdicts(-10, 90) == {"video": "real", "audio": "fake"}
    # 30 is far above 0, and real for this head
    assert decision.modality_verdicts(10, 30) == {"video": "fake", "audio": "real"}
    assert decision.modality_verdicts(0, 30) == {"video": "undecided", "audio": "real"}
    assert decision.audio.temperature > decision.video.temperature


def test_a_modality_that_validation_says_nothing_of_has_no_verdict(tmp_path):
    clips, scores = scored_clips(tmp_path, audio_known=False)
    decision = decision_of_scores(clips, scores, 0.01, "validation")
    assert decision.audio is None
    assert decision.modality_verdicts(10, 90) == {"video": "fake"}
    headless = dataclasses.replace(scores, video_logits=None, audio_logits=None)
    decision = decision_of_scores(clips, headless, 0.01, "validation")
    assert decision.video is decision.audio is None


def test_a_decision_on_one_class_or_on_scores_that_are_not_finite_is_an_error():
    with pytest.raises(DatasetError, match="validation has 0 fake"):
        fit_head(np.zeros(4), np.arange(4.0), apart("1234"), 0.01, "validation")
    with pytest.raises(DatasetError, match="not finite"):
        fit_head(np.array([0, 1]), np.array([0, np.inf]), apart("12"), 0.01, "validation")


def test_a_decision_comes_back_from_a_checkpoint_and_a_damaged_one_does_not(tmp_path):
    clips, scores = scored_clips(tmp_path)
    decision = decision_of_scores(clips, scores, 0.01, "validation")
    state = {"model": {"w": torch.zeros(1)}, "config": {}, "split_checksums": {}}
    save_checkpoint(tmp_path / "best.pt", state | {"decision": decision.as_plain()})
    assert Decision.from_plain(load_checkpoint(tmp_path / "best.pt")["decision"]) == decision
    assert Decision.from_plain(json.loads(json.dumps(decision.as_plain()))) == decision
    plain = decision.as_plain()
    broken = (
        {key: value for key, value in plain.items() if key != "clip"},
        plain | {"clip": None},
        plain | {"extra": 1},
        plain | {"rate": "0.01"},
        plain | {"clip": plain["clip"] | {"threshold": float("nan")}},
        plain | {"clip": plain["clip"] | {"temperature": 0.0}},
        plain | {"clip": {"temperature": 1.0}},
        ["clip"],
    )
    for values in broken:
        with pytest.raises(CheckpointError, match="stored decision"):
            Decision.from_plain(values)


def test_results_count_clips_at_the_stored_threshold_not_at_zero():
    head = fit_head(np.array([0, 0, 1, 1]), np.array([0.0, 2, 1, 3]), apart("1234"), 0.01, "x")
    assert (head.threshold, head.acquittal_threshold) == (2.0, 1.0)
    decision = Decision(rate=0.01, clip=head)
    labels, logits = np.array([0, 0, 0, 0, 1, 1]), np.array([0.5, 1.5, 1.9, 2.5, 2.5, 0.5])
    result = decision_results(decision, labels, logits, apart(labels))
    at = result["at_threshold"]
    counts = [at[f"{name}s"] for name in ("true_positive", "false_positive", "true_negative")]
    assert [*counts, at["false_negatives"]] == [1, 1, 3, 1]
    assert (at["false_positive_rate"], at["false_negative_rate"]) == (0.25, 0.5)
    assert (at["accuracy"], at["balanced_accuracy"]) == (4 / 6, 0.625)
    assert result["verdicts"]["real"] == {"real": 1, "fake": 1, "undecided": 2}
    assert result["verdicts"]["fake"] == {"real": 1, "fake": 1, "undecided": 0}
    assert result["undecided_share"] == 2 / 6
    assert result["accuracy_of_decided"] == 0.5
    assert result["ece_before"] == expected_calibration_error(labels, expit(logits))
    assert result["ece_after"] == expected_calibration_error(labels, expit(logits / head.temperature))
    json.dumps(result, allow_nan=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", [0, 1])
def test_clips_of_one_class_have_the_rates_that_need_no_other(label):
    decision = Decision(
        rate=0.01, clip=fit_head(np.array([0, 1]), np.array([0.0, 1]), apart("12"), 0.01, "x")
    )
    labels, logits = np.full(4, label), np.array([-1.0, 0.5, 1.5, 2.5])
    result = decision_results(decision, labels, logits, apart(labels))
    at, rates = result["at_threshold"], ("false_positive_rate", "false_negative_rate")
    assert at[rates[label]] == (0.25 if label else 0.75)
    assert at["accuracy"] == (0.75 if label else 0.25)
    assert [at[rates[1 - label]], at["balanced_accuracy"]] == [None, None]
    assert [result["ece_before"], result["ece_after"]] == [None, None]
    metrics = one_class_metrics(labels, logits)
    assert (metrics["num_real"], metrics["num_fake"], metrics["auc"]) == ((4, 0, None), (0, 4, None))[label]
    assert metrics["accuracy"] == (0.75 if label else 0.25)
    json.dumps([result, metrics], allow_nan=False)
