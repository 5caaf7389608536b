"""How scores follow facts that no forgery needs."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from loaders.audit.correlations import shortcut_correlations
from loaders.audit.facts import ClipFacts


def facts_of(**columns):
    nothing = np.zeros(1, np.float32)
    empty = ClipFacts(numbers={}, names={}, checksums={}, picture=nothing, sound=nothing, silent=False)
    rows = zip(*columns.values(), strict=True)
    return [dataclasses.replace(empty, numbers=dict(zip(columns, row, strict=True))) for row in rows]


def test_a_score_that_follows_a_fact_is_found_within_each_class():
    rng = np.random.default_rng(0)
    labels, persons = np.tile([0.0, 1.0], 100), np.repeat([f"p{i}" for i in range(20)], 10)
    silence, loudness = rng.normal(size=(2, 200))
    silence = silence + 3 * labels  # the classes differ in it, and the detector is right
    scores = 5 * labels + loudness + 0.1 * rng.normal(size=200)
    found = shortcut_correlations(
        facts_of(leading_silence=silence, loudness=loudness, duration=np.ones(200)), labels, scores, persons
    )
    assert found.keys() == {"leading_silence", "loudness"}  # of what does not vary there is nothing to say
    assert found["leading_silence"]["rule_auc"] > 0.9
    for kind, label in (("real", 0), ("fake", 1)):
        row, chosen = found["loudness"][kind], labels == label
        assert row["correlation"] == pytest.approx(spearmanr(loudness[chosen], scores[chosen])[0], abs=1e-12)
        low, high = row["interval"]
        assert 0.8 < low < row["correlation"] < high <= 1
        assert abs(found["leading_silence"][kind]["correlation"]) < 0.4


def test_intervals_of_what_has_nothing_to_do_with_the_score_hold_zero():
    """About 95 of 100, also where the clips of a person are alike."""
    rng, persons = np.random.default_rng(1), np.repeat([f"p{i}" for i in range(30)], 4)
    labels, missed = np.zeros(120), 0
    for _ in range(100):
        values, scores = np.repeat(rng.normal(size=(2, 30)), 4, axis=1) + 0.3 * rng.normal(size=(2, 120))
        low, high = shortcut_correlations(facts_of(duration=values), labels, scores, persons)["duration"][
            "real"
        ]["interval"]
        missed += not low < 0 < high
    assert missed <= 12


def test_unknown_values_and_few_persons_are_said():
    values = np.array([1.0, 2.0, 3.0, np.nan, 5.0, 6.0, 7.0, 8.0])
    labels = np.array([0.0] * 4 + [1.0] * 4)
    scores = np.arange(8.0)
    found = shortcut_correlations(facts_of(num_faces=values), labels, scores, ["a", "b"] * 4)["num_faces"]
    assert found["real"]["num_clips"] == 3
    assert found["real"]["correlation"] == 1
    assert "2 persons are too few" in found["fake"]["reason"]
