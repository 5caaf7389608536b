"""What stands for a person, from the clips to the words on pages."""

import numpy as np
import pytest

from tests.clip_factory import make_clip
from utils.errors import CheckpointError
from utils.evaluation.decision import Decision, decision_of_scores
from utils.evaluation.promise import promise_of, sentence_of, sentences, shown_by
from utils.evaluation.results import all_metrics
from utils.evaluation.scoring import ClipScores
from utils.evaluation.units import caveat, counted, is_kind, join_kinds, noun
from utils.report.page import _persons


def test_kinds_are_joined_in_one_order_and_counted_in_words():
    assert join_kinds(["clip", "person+family", "person"]) == "person+family+clip"
    assert (counted(1, "family"), counted(2, "family")) == ("1 clip family", "2 clip families")
    assert noun("person+clip") == "persons or single clips"
    assert [is_kind(value) for value in ("person", "person+clip", "clip+person", "", "x", None)] == [
        *(True, True),
        *([False] * 4),
    ]
    assert (caveat("person"), caveat("identity")) == ("", "")
    assert caveat("clip").startswith("Persons are not named: each clip counts as a person")
    assert caveat("person+family").startswith("Not all persons are named")


def scored(tmp_path, real_kinds, fake_kind="person", num_clips=8):
    """Clips, reals and fakes in turn, whose reals are of `real_kinds` in turn; with scores."""
    clips = []
    for i in range(num_clips):
        kind = fake_kind if i % 2 else real_kinds[i // 2 % len(real_kinds)]
        who = {"identity": f"d/{i // 2}", "identity_is": kind, "label": i % 2, "category": "ab"[i % 2]}
        clips.append(make_clip(tmp_path / f"{i}", **who))
    logits = np.array([i % 2 * 2.0 + 0.1 * i for i in range(num_clips)])
    scores = ClipScores(
        clip_ids=[clip.clip_id for clip in clips],
        labels=np.arange(num_clips) % 2.0,
        logits=logits,
        video_logits=None,
        audio_logits=None,
        num_windows=np.ones(num_clips, np.int64),
        window_logits=[],
        mean_terms={},
    )
    return clips, scores


@pytest.mark.parametrize(
    ("real_kinds", "kinds", "words", "warns"),
    [
        (["person"], "person", "of 4 persons", False),
        (["family"], "family", "of 4 clip families", True),
        (["clip"], "clip", "there are 4 single clips only: if none of so few is accused, 53%", True),
        (["person", "clip"], "person+clip", "of 4 persons or single clips", True),
    ],
)
def test_what_the_reals_of_validation_and_test_are_of_reaches_every_word(
    tmp_path, real_kinds, kinds, words, warns
):
    clips, scores = scored(tmp_path, real_kinds)
    decision = decision_of_scores(clips, scores, 0.01, "validation")
    assert decision.identity_is == kinds
    assert Decision.from_plain(decision.as_plain()) == decision
    said = " ".join(sentences(promise_of(decision)))
    assert words in said
    assert ("as a person" in said) == warns
    assert ("persons" in said.partition("Persons are")[0]) == ("person" in kinds)
    result = all_metrics(decision, clips, scores, frozenset(), "x") | {"dataset": "d", "split": "test"}
    assert result["intervals"]["clustered_by"] == join_kinds([kinds, "person"])  # the fakes' are named
    shown = shown_by(result)
    assert shown["identity_is"] == kinds
    assert ("clips of 4" in sentence_of(shown)) == (kinds != "clip")


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ("person", "resamples of the 9 persons, since clips of one person are not independent."),
        ("family", "9 clip families, since clips of one clip family are not independent. Persons are not"),
        ("clip", "9 single clips. Persons are not named: each clip counts as a person"),
        ("identity", "9 identities, since"),
    ],
)
def test_the_report_says_what_its_intervals_are_over(kinds, words):
    intervals = {"overall": {}, "confidence": 0.95, "num_resamples": 2000, "num_persons": 9}
    assert words in _persons(intervals | {"clustered_by": kinds})


def test_files_from_before_kinds_were_kept_are_read_and_claim_nothing(tmp_path):
    clips, scores = scored(tmp_path, ["person"])
    plain = decision_of_scores(clips, scores, 0.01, "validation").as_plain()
    before = Decision.from_plain({name: value for name, value in plain.items() if name != "identity_is"})
    assert before.identity_is == "identity"
    assert "of 4 identities" in sentences(promise_of(before))[0]
    result = all_metrics(before, clips, scores, frozenset(), "x") | {"dataset": "d", "split": "test"}
    del result["decision"]["identity_is"]
    assert shown_by(result)["identity_is"] == "identity"
    for value in (1, "persons", "clip+person", ["person"]):
        with pytest.raises(CheckpointError, match="stored decision"):
            Decision.from_plain(plain | {"identity_is": value})
