"""Whether a clip is like the training clips: p-values over persons, and the facts that tell."""

import numpy as np
import pytest

from utils.errors import CheckpointError
from utils.evaluation.abstention import abstention_results
from utils.evaluation.domain import Domain, fit_domain

NAMES = tuple(f"fact {number}" for number in range(8))


def clips_of(rng, num_persons, per_person, shift=0.0):
    """(facts (n, 8), persons): half of the variance is between persons."""
    persons = np.repeat(np.arange(num_persons), per_person)
    mixing = np.random.default_rng(7).normal(size=(8, 8))
    of_persons = rng.normal(size=(num_persons, 8))[persons]
    return (of_persons + rng.normal(size=(len(persons), 8))) @ mixing + shift, persons.astype(str)


@pytest.mark.parametrize("num_persons", [25, 60])
def test_few_clips_of_new_persons_are_outside_and_all_of_another_kind(num_persons):
    rng = np.random.default_rng(0)
    outside, strangers = [], []
    for _ in range(20):
        domain = fit_domain(NAMES, *clips_of(rng, num_persons, 6))
        outside.append(domain.is_outside(clips_of(rng, 20, 4)[0]).mean())
        strangers.append(domain.is_outside(clips_of(rng, 20, 4, shift=30.0)[0]).mean())
    assert np.mean(outside) <= 0.06
    assert np.mean(strangers) == 1


def test_p_values_count_persons_not_clips():
    rng = np.random.default_rng(1)
    facts, persons = clips_of(rng, 12, 5)
    domain = fit_domain(NAMES, facts, persons)
    assert domain.p_values(facts + 1000).tolist() == [1 / 13] * 60
    assert not domain.can_tell()  # and so nothing is outside
    again = fit_domain(NAMES, np.repeat(facts, 2, axis=0), np.repeat(persons, 2))
    assert again.num_persons == 12
    far = domain.distances.max() - 1e-6  # one clip of one person is that far away
    assert domain.weights[domain.distances > far].sum() == pytest.approx(1 / 5)


@pytest.mark.filterwarnings("error")
def test_two_clips_or_clips_that_are_all_alike_are_described():
    facts = np.arange(16.0).reshape(2, 8)
    assert fit_domain(NAMES, facts, ["a", "b"]).num_persons == 2
    domain = fit_domain(NAMES, np.full((60, 8), 0.1), np.arange(60) // 2)
    assert domain.distance(np.full((1, 8), 0.3)) == pytest.approx(0.2 / 0.02 * 8**0.5)


def test_a_domain_is_stored_and_damage_is_noticed():
    domain = fit_domain(NAMES, *clips_of(np.random.default_rng(2), 30, 4))
    plain = domain.as_plain()
    again = Domain.from_plain(plain)
    assert again.as_plain() == plain
    facts = clips_of(np.random.default_rng(3), 5, 1, shift=9.0)[0]
    np.testing.assert_array_equal(again.p_values(facts), domain.p_values(facts))
    for change in (
        {"center": [1.0]},
        {"precision": "x"},
        {"spread": [0.0] * 8},
        {"num_persons": None},
        {"identity_is": "x"},
    ):
        with pytest.raises(CheckpointError, match="stored domain"):
            Domain.from_plain(plain | change)
    before = {name: value for name, value in plain.items() if name != "identity_is"}
    assert Domain.from_plain(before).identity_is == "identity"
    with pytest.raises(CheckpointError, match="incomplete"):
        Domain.from_plain({})


def test_reasons_name_the_facts_that_differ_most():
    domain = fit_domain(NAMES, *clips_of(np.random.default_rng(2), 30, 4))
    facts = domain.center.copy()
    assert domain.reasons(facts) == []
    facts[3] += 50 * domain.spread[3]
    (reason,) = domain.reasons(facts)
    assert "unlike the training clips" in reason
    assert "fact 3 50.0 standard deviations too high" in reason
    assert "among 30 identities" in reason  # it is not known what they are
    for kinds, words in (("person", "30 persons"), ("family+clip", "30 clip families or single clips")):
        domain = fit_domain(NAMES, *clips_of(np.random.default_rng(2), 30, 4), identity_is=kinds)
        assert f"among {words}" in Domain.from_plain(domain.as_plain()).reasons(facts)[0]
        warns = abstention_results(domain, facts[None], np.ones(1), np.ones(1), ["p"], 0.0)
        assert (warns["identity_is"], "as a person" in warns["caveat"]) == (kinds, "clip" in kinds)
