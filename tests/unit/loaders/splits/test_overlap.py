"""What the parts of a split share is counted exactly, kind by kind, and told in words."""

from pathlib import Path

import pytest

from loaders.listing import Listing
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split, overlap_with_run, split_checksum
from loaders.splits.overlap import count_overlap
from tests.clip_factory import make_clip
from utils.evaluation.seen import sentence_of_overlap


def clip(name, **values):
    return make_clip(Path(name), **{"clip_id": name, "dataset": "d", "identity_is": "person"} | values)


TRAINED = [
    clip("a", identity="p1", source_ids=("p9",), source_video="v1", pair_key="f1"),
    clip("b", identity="p2", source_ids=(), source_video="v2", pair_key="f2"),
]
TESTED = [
    clip("c", identity="p1", source_ids=("p2", "p7"), source_video="v1", pair_key="f3"),
    clip("d", identity="p3", source_ids=("p9",), source_video="v3", pair_key="f2"),
    clip("e", identity="p4", source_ids=(), source_video="", pair_key="f3"),
]
SHARED = {
    "persons": {"tested": 3, "in_training": 1},
    "donors": {"tested": 3, "in_training": 2},  # p2 on screen, p9 as a donor
    "source videos": {"tested": 2, "in_training": 1},
    "clip families": {"tested": 2, "in_training": 1},
}


def test_planted_overlaps_are_exact():
    assert count_overlap(TESTED, TRAINED) == SHARED
    assert count_overlap(TRAINED, []) == {kind: {"tested": n, "in_training": 0} for kind, n in
                                          zip(SHARED, (2, 1, 2, 2), strict=True)}  # fmt: skip


def test_what_a_data_set_does_not_name_is_not_counted():
    alone = [clip(name, identity=name, identity_is="clip", source_ids=(), pair_key=name) for name in "xy"]
    assert count_overlap(alone, alone) == {}
    family = [clip(name, identity="x", identity_is="family", source_ids=(), pair_key="x") for name in "xy"]
    assert count_overlap(family[:1], family[1:]) == {"clip families": {"tested": 1, "in_training": 1}}


def test_the_overlap_in_words():
    assert sentence_of_overlap(SHARED) == (
        "1 of 3 persons, 2 of 3 donors, 1 of 2 source videos and 1 of 2 clip families of the tested clips "
        "are also in training."
    )
    one = {"persons": {"tested": 1499, "in_training": 1439}}
    assert sentence_of_overlap(one) == "1,439 of 1,499 persons of the tested clips are also in training."
    assert "what its parts share is unknown" in sentence_of_overlap({})
    assert sentence_of_overlap(None) == ""


@pytest.mark.parametrize("trained", ["same", "other"])
def test_an_evaluation_is_told_of_its_own_run_only(trained):
    parts = {"train": TRAINED[:1], "val": TRAINED[1:], "test": TESTED}
    clips = [clip(c.clip_id, identity=c.identity, source_ids=c.source_ids, source_video=c.source_video,
                  pair_key=c.pair_key, split=part) for part, own in parts.items() for c in own]  # fmt: skip
    split = make_split(Listing("d", clips, donor_rule="keep", known_overlap="as published"), SplitConfig())
    checksums = {"d": split_checksum(split) if trained == "same" else "of another split"}
    found = overlap_with_run(split, clips, split.select(clips, "test"), checksums)
    assert found == (SHARED if trained == "same" else None)
    assert overlap_with_run(split, clips, clips, checksums) is None  # its own training clips are tested
