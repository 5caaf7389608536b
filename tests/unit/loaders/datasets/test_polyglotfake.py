"""PolyGlotFake: lists under two keys, clips by file name, recordings that stay together."""

import json
from collections import Counter

import pytest

from loaders.datasets.polyglotfake import list_polyglotfake
from loaders.listing import ListingConfig
from loaders.splits.drawing import SPLITS, SplitConfig, draw_split
from tests.trees.media import EmptyFiles
from tests.trees.polyglotfake import write_polyglotfake
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError


@pytest.fixture
def tree(tmp_path):
    return write_polyglotfake(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def prepared(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def test_counts_and_fields(tree, prepared):
    listing = list_polyglotfake(prepared, ListingConfig())
    assert Counter((clip.split or "", clip.category, clip.method) for clip in listing.clips) == tree.counts
    clips = {clip.clip_id: clip for clip in listing.clips}
    fake = clips["polyglotfake/en_2_to_ru_Xtts"]
    assert (fake.label, fake.video_label, fake.audio_label, fake.method) == (1, 1, 1, "xtts+wav2lip")
    assert (fake.identity, fake.identity_is) == ("polyglotfake/en_2", "family")
    assert fake.folder == prepared / "PolyGlotFake/fake/to_ru/en_2_to_ru_Xtts"
    assert fake.source_video == clips["polyglotfake/en_1"].source_video
    assert fake.source_video == "polyglotfake/https://video.example/en0/"


def test_a_drawn_split_keeps_recordings_together(prepared):
    listing = list_polyglotfake(prepared, ListingConfig())
    split = draw_split(listing, SplitConfig(val_fraction=0.25, test_fraction=0.25))
    videos = [{clip.source_video for clip in split.select(listing.clips, part)} for part in SPLITS]
    assert [len(names) for names in videos] == [2, 1, 1]
    assert len(set.union(*videos)) == 4


def test_a_list_of_another_form_and_an_unknown_original_are_named(prepared):
    path = next(prepared.rglob("to_ru.json"))
    content = json.loads(path.read_text())
    content["video"][1]["raw_video_name"] = "en_77.mp4"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="to_ru.json, entry 1: raw_video_name 'en_77' is in no list"):
        list_polyglotfake(prepared, ListingConfig())
    path.write_text(json.dumps({"video": [{"name": "en_1_to_ru_Xtts.mp4"}]}))
    with pytest.raises(DatasetError, match="to_ru.json, entry 0: expected an object with name, raw_"):
        list_polyglotfake(prepared, ListingConfig())
    path.write_text("{}")
    with pytest.raises(DatasetError, match="to_ru.json: expected a list under videos or video, found None"):
        list_polyglotfake(prepared, ListingConfig())
    for file in prepared.rglob("to_*.json"):
        file.unlink()
    with pytest.raises(DatasetError, match="no list to_<language>.json; copy json_file/"):
        list_polyglotfake(prepared, ListingConfig())


def test_a_clip_that_is_not_prepared_is_missing(prepared):
    (prepared / "PolyGlotFake/fake/to_ru/en_2_to_ru_Xtts").rename(prepared.parent / "gone")
    listing = list_polyglotfake(prepared, ListingConfig(allow_missing=True))
    assert [clip.clip_id for clip in listing.missing] == ["polyglotfake/en_2_to_ru_Xtts"]
