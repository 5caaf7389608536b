"""IDForge: lists without a header, labels by type, one file name in several types."""

from collections import Counter

import pytest

from loaders.datasets.idforge import TYPES, list_idforge
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from tests.clip_factory import shared_with_training
from tests.trees.idforge import write_idforge
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError


@pytest.fixture
def tree(tmp_path):
    return write_idforge(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def prepared(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def test_counts_labels_and_the_reference_set(tree, prepared):
    listing = list_idforge(prepared, ListingConfig())
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    labels = {clip.category: (clip.label, clip.video_label, clip.audio_label) for clip in listing.clips}
    assert labels == {
        "pristine": (0, 0, 0),
        "face_tts": (1, 1, 1),
        "lip_audiomismatch_textmismatch": (1, 1, None),
        "rvc_textmismatch": (1, 0, 1),  # the picture is genuine
        "tts_textgen": (1, 0, 1),
    }
    assert len(TYPES) == 11
    assert not (prepared / "ref").exists()


def test_a_name_in_several_types_is_one_family_and_several_clips(prepared):
    clips = {clip.clip_id: clip for clip in list_idforge(prepared, ListingConfig()).clips}
    place = "id01/id01_02/id01_scene_0085"
    names = {f"idforge/{kind}/{place}{end}" for kind, end in (("pristine", ""), ("rvc_textmismatch", ""))}
    names |= {f"idforge/tts_textgen/{place}.mp3", f"idforge/face_tts/{place}_0_roop"}
    assert names <= clips.keys()
    assert {clips[name].pair_key for name in names} == {f"idforge/id01/{place.partition('/')[2]}"}
    assert {clips[name].source_video for name in names} == {"idforge/id01/id01_02"}


def test_the_official_split_is_by_person(prepared):
    listing = list_idforge(prepared, ListingConfig())
    split = draw_split(listing, SplitConfig())
    found = shared_with_training(*(split.select(listing.clips, part) for part in ("train", "test")))
    assert found == dict.fromkeys(("persons", "donors", "videos", "families"), (1, 0)) | {"files": (5, 0)}


def test_lists_and_clips_may_lie_in_the_root(tree, prepared, tmp_path):
    before = [clip.clip_id for clip in list_idforge(prepared, ListingConfig()).clips]
    for path in (*(tree.source / "main").iterdir(), *(tree.source / "IDForge_v1").iterdir()):
        path.rename(tree.source / path.name)
    (tree.source / "main").rmdir()
    (tree.source / "IDForge_v1").rmdir()
    other = prepare_empty(tree, tmp_path / "other")
    assert [clip.clip_id for clip in list_idforge(other, ListingConfig()).clips] == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("path", "train.csv, line 1: expected <type>/<person>/<source video>/<shot>.mp4"),
        ("morph/id01/id01_02/id01_scene_0085.mp4", "with a type of pristine, .*found 'morph"),
        ("../pristine/id01/id01_02/x.mp4", "leads outside the data root"),
        ("pristine/id02/id02_02/id02_scene_0085.mp4", "is listed twice"),
    ],
)
def test_a_bad_line_is_named(prepared, line, message):
    path = prepared / "IDForge_v1/train.csv"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(DatasetError, match=message):
        list_idforge(prepared, ListingConfig())


def test_without_lists_they_are_named(tmp_path):
    with pytest.raises(DatasetError, match="neither train.csv nor IDForge_v1/train.csv nor val.csv"):
        list_idforge(tmp_path, ListingConfig())
