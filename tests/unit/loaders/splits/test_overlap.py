"""What the parts of a split share is counted exactly, kind by kind, and told in words."""

from pathlib import Path

import pytest

from loaders.splits.overlap import lines_of, named_by_clip, named_by_name, overlaps
from tests.clip_factory import make_clip, shared_with_training


def clip(name, **values):
    return make_clip(Path(name), **{"clip_id": name, "dataset": "d", "source_ids": ()} | values)


TRAINED = [
    clip("a", identity="p1", source_ids=("p9",), source_video="v1", pair_key="f1"),
    clip("b", identity="p2", source_video="v2", pair_key="f2"),
]
TESTED = [
    clip("c", identity="p1", source_ids=("p2", "p7"), source_video="v1", pair_key="f3"),
    clip("d", identity="p3", source_ids=("p9",), source_video="v3", pair_key="f2"),
    clip("e", identity="p4", source_video="", pair_key="f3"),
]


def told(trained, tested):
    found = overlaps({"train": map(named_by_clip, trained), "test": map(named_by_clip, tested)})
    return lines_of(found, is_whole=False)


def test_planted_overlaps_are_exact():
    """Of the donors, p1 and p2 are on screen in training, and p9 is a donor there."""
    of_tested = {"persons": 3, "donors": 6, "videos": 2, "families": 2, "files": 3}
    shared = {"persons": 1, "donors": 3, "videos": 1, "families": 1, "files": 0}
    found = shared_with_training(TRAINED, TESTED)
    assert found == {kind: (of_tested[kind], number) for kind, number in shared.items()}
    assert shared_with_training([], TESTED) == {kind: (number, 0) for kind, number in of_tested.items()}
    assert told(TRAINED, TESTED) == [
        "persons on screen: 1 are in both, of 2 of train and 3 of test, e.g. p1",
        "persons on screen or as donors: 3 are in both, of 3 of train and 6 of test, e.g. p1",
        "source videos: 1 are in both, of 2 of train and 2 of test, e.g. v1",
        "clip families: 1 are in both, of 2 of train and 2 of test, e.g. f2",
    ]


def test_what_a_data_set_does_not_name_is_not_counted():
    alone = [clip(name, identity=name, identity_is="clip", pair_key=name) for name in "xy"]
    assert shared_with_training(alone[:1], alone[1:]) == {"files": (1, 0)}
    assert told(alone[:1], alone[1:]) == [
        "it names neither persons nor families: what its parts share is unknown"
    ]
    family = [clip(name, identity="x", identity_is="family", pair_key="x") for name in "xy"]
    assert shared_with_training(family[:1], family[1:]) == {"families": (1, 1), "files": (1, 0)}
    apart = [clip(name, identity=f"p{name}", pair_key=f"f{name}") for name in "xy"]
    assert told(apart[:1], apart[1:]) == []


@pytest.mark.parametrize(
    ("dataset", "name", "known"),
    [
        ("av_deepfake1m_pp", "val/vox_celeb_2/id00012/21Uxsk56VDQ/00001/real.mp4",
         ("vox_celeb_2/id00012", "/21Uxsk56VDQ", "/00001")),
        ("av_deepfake1m_pp", "lrs3/ue2ZEmTJSXo/00013/real_p1.mp4", ("lrs3/ue2ZEmTJSXo", "", "/00013")),
        ("av_deepfake1m_pp", "silent_videos/subject_17_ddv_vid_2_6/fake.mp4",
         ("silent_videos/subject_17", "_ddv_vid_2", "_6")),
        ("idforge", "main/tts_textgen/id01/id01_02/id01_scene_0085.mp3.mp4",
         ("id01", "/id01_02", "/id01_scene_0085")),
        ("idforge", "face_tts/id01/id01_02/id01_scene_0085_0_roop.mp4",
         ("id01", "/id01_02", "/id01_scene_0085")),
    ],
)  # fmt: skip
def test_names_tell_person_video_and_family(dataset, name, known):
    found = named_by_name(dataset, name)
    person, video, family = known
    assert (found.person, found.donors) == (person, ())
    assert (found.video, found.family) == (person + video, person + video + family)
    assert named_by_name(dataset, "elsewhere.mp4").person == ""
