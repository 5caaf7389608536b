import json
import logging
from collections import Counter

import pytest

from loaders.datasets.av_deepfake1m import list_av_deepfake1m
from loaders.listing import ListingConfig
from loaders.splits.drawing import SPLITS, SplitConfig, draw_split
from tests.clip_factory import shared_with_training
from tests.trees.av_deepfake1m import write_av_deepfake1m
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError

FOLDER = "av_deepfake1m/train/id00012/21Uxsk56VDQ/00001"


@pytest.fixture
def tree(tmp_path):
    return write_av_deepfake1m(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def prepared(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def change(root, index, **values):
    path = root / "train_metadata.json"
    entries = json.loads(path.read_text())
    entries[index] |= values
    path.write_text(json.dumps(entries))


def test_the_released_validation_part_is_tested_and_validation_is_carved_by_speaker(tree, prepared, caplog):
    with caplog.at_level(logging.INFO):
        listing = list_av_deepfake1m(prepared, ListingConfig())
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert "1 clips of test_files.txt are left out: their labels are hidden" in caplog.text
    assert not listing.missing
    assert not (prepared / "test").exists()  # nobody prepares clips without labels
    with caplog.at_level(logging.INFO):
        split = draw_split(listing, SplitConfig(val_fraction=0.25))
    assert "official parts share speakers; --split_source identity draws parts that do not" in caplog.text
    assert Counter(split.split_of.values()) == {"train": 12, "val": 4, "test": 8}
    speakers = speakers_of(listing, split)
    assert {part: len(names) for part, names in speakers.items()} == {"train": 3, "val": 1, "test": 2}
    assert not speakers["train"] & speakers["val"]


def speakers_of(listing, split):
    return {part: {c.identity for c in split.select(listing.clips, part)} for part in SPLITS}


def test_what_the_official_parts_share_is_counted_and_a_drawn_split_shares_nobody(prepared):
    listing = list_av_deepfake1m(prepared, ListingConfig())
    parts = [[clip for clip in listing.clips if clip.split == name] for name in ("train", "test")]
    shared = {"persons": (2, 2), "donors": (2, 2), "videos": (2, 1), "families": (2, 1), "files": (8, 0)}
    assert shared_with_training(*parts) == shared
    drawn = draw_split(listing, SplitConfig(split_source="identity", val_fraction=0.25, test_fraction=0.25))
    train, val, test = speakers_of(listing, drawn).values()
    assert (len(train), len(val), len(test)) == (2, 1, 1)
    assert not (train & val) | (train & test) | (val & test)
    found = shared_with_training(*(drawn.select(listing.clips, part) for part in ("train", "test")))
    assert {number for _, number in found.values()} == {0}


@pytest.mark.parametrize("original", [None, "", "id00012/21Uxsk56VDQ/00001.mp4", "/a/b.mp4", "dev/mp4/x", 7])
def test_the_original_of_a_real_clip_is_a_path_elsewhere_and_is_not_read(prepared, original):
    before = list_av_deepfake1m(prepared, ListingConfig()).clips
    change(prepared, 0, original=original)
    assert list_av_deepfake1m(prepared, ListingConfig()).clips == before


def test_both_spellings_of_doubly_modified_clips_are_fake_twice(prepared):
    both = [c for c in list_av_deepfake1m(prepared, ListingConfig()).clips if c.category == "both_modified"]
    assert len(both) == 6
    assert {(clip.label, clip.video_label, clip.audio_label) for clip in both} == {(1, 1, 1)}
    assert {clip.audio_fake_segments for clip in both} == {((0.3, 0.7),)}


def test_segments_of_the_genuine_modality_are_ignored_and_counted(prepared, caplog):
    with caplog.at_level(logging.INFO):
        clips = {clip.clip_id: clip for clip in list_av_deepfake1m(prepared, ListingConfig()).clips}
    clip = clips[f"{FOLDER}/real_video_fake_audio"]
    assert (clip.video_label, clip.video_fake_segments, clip.audio_fake_segments) == (0, None, ((0.3, 0.7),))
    assert clip.pair_key == "av_deepfake1m/id00012/21Uxsk56VDQ/00001"
    assert clip.source_video == "av_deepfake1m/id00012/21Uxsk56VDQ"
    assert (
        "1 clips have forged segments of the picture, although modify_type says it is genuine" in caplog.text
    )


def test_a_fake_without_segments_is_fake_as_a_whole_and_counted(prepared, caplog):
    change(prepared, 1, visual_fake_segments=[])
    with caplog.at_level(logging.INFO):
        clip = list_av_deepfake1m(prepared, ListingConfig()).clips[1]
    assert (clip.video_label, clip.video_fake_segments) == (1, None)
    assert "1 clips have no segments for their forged picture" in caplog.text


def test_paths_may_begin_with_the_part(prepared):
    names = [clip.clip_id for clip in list_av_deepfake1m(prepared, ListingConfig()).clips]
    change(prepared, 0, file="train/id00012/21Uxsk56VDQ/00001/real.mp4")
    assert [clip.clip_id for clip in list_av_deepfake1m(prepared, ListingConfig()).clips] == names


@pytest.mark.parametrize(
    ("index", "values", "message"),
    [
        (1, {"modify_type": "visual"}, "train_metadata.json, entry 1: unknown modify_type 'visual'"),
        (0, {"visual_fake_segments": [[0, 1]]}, "modify_type is real, but the picture has forged segments"),
        (1, {"file": "real.mp4"}, "expected <speaker>/<video>/<clip>/<kind>.mp4, found 'real.mp4'"),
        (1, {"file": "id00012/21Uxsk56VDQ/00001/real.mp4"}, "00001/real is listed twice"),
        (1, {"visual_fake_segments": [["a", 1]]}, "expected segments"),
    ],
)
def test_a_bad_entry_is_named(prepared, index, values, message):
    change(prepared, index, **values)
    with pytest.raises(DatasetError, match=message):
        list_av_deepfake1m(prepared, ListingConfig())


def test_a_root_without_metadata_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="neither train_metadata.json nor train_metadata/ nor val"):
        list_av_deepfake1m(tmp_path, ListingConfig())


@pytest.fixture
def single_files(tree, tmp_path):
    """A prepared tree whose training part has a JSON file for each video instead of a list."""
    top = tree.source / "AV-Deepfake1M"
    for entry in json.loads((top / "train_metadata.json").read_text()):
        file = (top / "train_metadata" / entry["file"]).with_suffix(".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(entry))
    (top / "train_metadata.json").unlink()
    return prepare_empty(tree, tmp_path / "prepared")


def test_a_json_file_for_each_video_is_as_good_as_a_list(tree, single_files, caplog):
    listing = list_av_deepfake1m(single_files, ListingConfig())
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert not listing.missing
    assert "is missing" not in caplog.text


def test_a_list_without_entries_gives_way_to_the_files(single_files, caplog):
    (single_files / "train_metadata.json").write_text("[]")
    assert len(list_av_deepfake1m(single_files, ListingConfig()).clips) == 24
    assert "train_metadata.json: lists no clip" in caplog.text


def test_a_file_without_its_own_name_stands_for_the_video_in_its_place(single_files):
    for path in single_files.rglob("train_metadata/**/*.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "file"}))
    assert len(list_av_deepfake1m(single_files, ListingConfig()).clips) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON dict, found a list"),
        ('{"modify_type": "real"}', "no key audio_fake_segments, visual_fake_segments"),
        ("{", "is not JSON"),
    ],
)
def test_a_bad_file_of_a_video_is_named(single_files, text, message):
    path = single_files / "train_metadata/id00012/21Uxsk56VDQ/00001/real.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        list_av_deepfake1m(single_files, ListingConfig())
    assert str(path) in str(caught.value)


def test_null_that_pandas_has_turned_into_nan_is_null(prepared):
    names = [(clip.clip_id, clip.pair_key) for clip in list_av_deepfake1m(prepared, ListingConfig()).clips]
    change(prepared, 0, original=float("nan"), audio_fake_segments=float("nan"))
    clips = list_av_deepfake1m(prepared, ListingConfig()).clips
    assert [(clip.clip_id, clip.pair_key) for clip in clips] == names
