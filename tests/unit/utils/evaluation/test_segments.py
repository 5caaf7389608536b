"""From logits of windows to segments: time lines, candidates, suppression, and rules that clips choose."""

import numpy as np
import pytest

from utils.errors import CheckpointError
from utils.evaluation.segments import CHOICES, Localiser, SegmentRule, fit_rule, soft_nms, step_labels
from utils.evaluation.timelines import ClipTimeline

STEP_S = 0.04


def timeline(window_logits, starts, num_steps, length=10):
    rows = [np.full((3, 1), value, np.float32) for value in window_logits]
    return ClipTimeline(num_steps=num_steps, step_s=STEP_S, starts=starts, length=length, logits=rows)


def ideal_windows(forged, length=10, stride=1):
    """What a perfect method says of windows: 4 if any step in it is forged, else -4."""
    starts = list(range(0, len(forged) - length + 1, stride))
    values = [4.0 if forged[start : start + length].any() else -4.0 for start in starts]
    return timeline(values, starts, len(forged), length)


def test_the_least_window_that_shows_a_step_is_its_label():
    forged = np.zeros(60, bool)
    forged[25:32] = forged[48:50] = True
    line = ideal_windows(forged)
    np.testing.assert_array_equal(line.pooled("clip", "min") > 0, forged)
    assert (line.pooled("clip", "mean") > -4).sum() > 2 * forged.sum()


def test_steps_between_windows_lie_between_and_ends_are_those_of_the_last():
    line = timeline([1.0, 3.0], [0, 4], num_steps=7, length=2)
    np.testing.assert_allclose(line.pooled("audio", "mean"), [1, 1, 5 / 3, 7 / 3, 3, 3, 3])
    overlapping = timeline([1.0, 3.0], [0, 1], num_steps=3, length=2)
    np.testing.assert_allclose(overlapping.pooled("clip", "mean"), [1, 2, 3])
    np.testing.assert_allclose(overlapping.pooled("clip", "min"), [1, 1, 3])


def test_logits_of_steps_stay_where_they_are():
    rows = [np.array([[1.0, 2.0, 3.0]] * 3, np.float32), np.array([[7.0, 8.0]] * 3, np.float32)]
    line = ClipTimeline(num_steps=5, step_s=STEP_S, starts=[0, 2], length=3, logits=rows)
    np.testing.assert_allclose(line.pooled("clip", "mean"), [1, 2, 5, 8, 8])
    rows[0][1] = np.nan
    assert (line.has("clip"), line.has("video"), line.has("audio")) == (True, False, True)
    empty = ClipTimeline(num_steps=5, step_s=STEP_S, starts=[], length=3, logits=[])
    assert not empty.has("clip")


def test_soft_nms_lowers_what_overlaps_and_nothing_else():
    spans = np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 1.0], [2.0, 3.0]])
    rows, found = soft_nms(spans, np.array([0.9, 0.8, 0.7, 0.6]), sigma=0.5)
    assert rows.tolist() == [0, 3, 2, 1]
    # the half is lowered by the first, and lowers the second, which the first has lowered more
    half = np.exp(-(0.5**2) / 0.5)
    np.testing.assert_allclose(found, [0.9, 0.6, 0.7 * half, 0.8 * np.exp(-2) * half])
    many = np.stack([np.arange(200.0), np.arange(200.0) + 1], axis=1)
    assert len(soft_nms(many, np.full(200, 0.5), sigma=0.5)[0]) == 100


def rule(**changes):
    first = {name: values[0] for name, values in CHOICES.items()}
    return SegmentRule(**{"pool": "mean", "scale": 1.0, "offset": 0.0, "levels": (0.0,), **first, **changes})


def test_a_plateau_is_a_segment():
    logits = np.full(50, -50.0)
    logits[10:20] = 50.0
    np.testing.assert_allclose(rule().propose(logits, STEP_S), [[1.0, 0.4, 0.8]])
    grown = rule(grow_s=0.1).propose(logits, STEP_S)
    np.testing.assert_allclose(grown, [[1.0, 0.3, 0.9]])
    assert rule().propose(np.full(50, -50.0), STEP_S).shape == (0, 3)
    assert rule().propose(np.zeros(0), STEP_S).shape == (0, 3)


def test_gaps_are_closed_up_to_the_rule_s():
    logits = np.full(50, -50.0)
    logits[10:14] = logits[16:20] = logits[30:34] = 50.0
    assert len(rule().propose(logits, STEP_S)) == 3
    found = rule(merge_s=0.08, contrast=0.0).propose(logits, STEP_S)
    # the closed gap is not forged: 8 of 10 steps
    np.testing.assert_allclose(found, [[1.0, 1.2, 1.36], [0.8, 0.4, 0.8]], atol=1e-12)


def test_contrast_prefers_the_run_to_a_part_of_it():
    logits = np.full(50, -50.0)
    logits[10:20] = 2.0
    logits[14:16] = 2.1
    levels = rule(levels=(0.0, 2.05))
    assert levels.propose(logits, STEP_S)[0, 1:].tolist() == pytest.approx([0.4, 0.8])
    without = rule(levels=(0.0, 2.05), contrast=0.0)
    assert without.propose(logits, STEP_S)[0, 1:].tolist() == pytest.approx([0.56, 0.64])


def random_clips(seed, num_clips=12, noise=0.5):
    rng = np.random.default_rng(seed)
    lines, truths = [], []
    for number in range(num_clips):
        start = rng.integers(15, 35)
        end = start + rng.integers(5, 15)
        truths.append([] if number % 3 == 0 else [(start * STEP_S, end * STEP_S)])
        line = ideal_windows(step_labels(truths[-1], 60, STEP_S))
        noisy = [row + rng.normal(0, noise, (3, 1)).astype(np.float32) for row in line.logits]
        lines.append(ClipTimeline(num_steps=60, step_s=STEP_S, starts=line.starts, length=10, logits=noisy))
    return lines, truths


def test_clips_choose_the_pool_that_finds_their_segments():
    lines, truths = random_clips(0)
    found, score = fit_rule(lines, truths, "clip")
    assert found.pool == "min"
    assert score > 0.9
    assert 0 < found.scale
    assert 1 < len(found.levels) <= 24
    again, _ = fit_rule(lines, truths, "clip")
    assert again == found


def test_scores_that_tell_nothing_have_a_rule_too():
    lines, truths = random_clips(1, noise=100.0)
    flat = [
        ClipTimeline(
            num_steps=60, step_s=STEP_S, starts=line.starts, length=10, logits=[np.zeros((3, 1))] * 51
        )
        for line in lines
    ]
    for clips in (lines, flat):
        _, score = fit_rule(clips, truths, "clip")
        assert 0 <= score < 0.6


def test_a_localiser_survives_its_checkpoint_and_damage_is_refused():
    lines, truths = random_clips(2)
    found, score = fit_rule(lines, truths, "clip")
    localiser = Localiser(stride_s=0.2, rules={"clip": found}, num_clips=12, scores={"clip": score})
    plain = localiser.as_plain()
    assert Localiser.from_plain(plain) == localiser
    assert localiser.propose(lines[1]).keys() == {"clip"}
    clip = plain["rules"]["clip"]
    for damaged in (
        None,
        [],
        {},
        plain | {"rules": {}},
        plain | {"rules": {"other": clip}},
        plain | {"rules": {"clip": clip | {"pool": "max"}}},
        plain | {"rules": {"clip": clip | {"sigma": 0.0}}},
        plain | {"rules": {"clip": clip | {"scale": float("nan")}}},
        plain | {"rules": {"clip": clip | {"levels": (0.0,) * 1000}}},
        plain | {"rules": {"clip": {"pool": "min"}}},
        plain | {"stride_s": 0},
        plain | {"stride_s": 1e308},
        plain | {"stride_s": "x"},
        plain | {"more": 1},
    ):
        with pytest.raises(CheckpointError, match="the stored localiser"):
            Localiser.from_plain(damaged)
