"""AVLips: the folder is the label, sound may lie apart, and nothing can be drawn by person."""

import logging
from collections import Counter

import pytest

from loaders.audit.leaks import require_no_leak
from loaders.datasets.avlips import list_avlips
from loaders.listing import ListingConfig
from loaders.parts import load_parts
from loaders.splits.drawing import SplitConfig, draw_split
from preprocess.work.raw_layouts import read_raw_dataset
from tests.trees.avlips import write_avlips
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError, UsageError


@pytest.fixture
def tree(tmp_path):
    return write_avlips(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def prepared(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def test_counts_and_fields(tree, prepared, caplog):
    with caplog.at_level(logging.INFO):
        listing = list_avlips(prepared, ListingConfig())
    assert "fake 8, real 8, not the published fake 4184, real 3373" in caplog.text
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    clips = {clip.clip_id: clip for clip in listing.clips}
    real, fake = clips["avlips/0_real/3"], clips["avlips/1_fake/3"]
    assert (fake.label, fake.video_label, fake.audio_label) == (1, 1, None)
    assert real.pair_key != fake.pair_key  # equal numbers are a coincidence
    assert real.identity != fake.identity


def test_a_video_has_the_sound_of_its_number_and_class(tree):
    raw = read_raw_dataset("avlips", tree.source)
    sounds = {video.as_posix(): sound.as_posix() for video, sound in raw.sounds.items()}
    assert sounds == {
        f"{folder}/{number}.mp4": f"wav/{folder}/{number}.wav"
        for folder in ("0_real", "1_fake")
        for number in (0, 3, 6)
    }


def test_training_is_refused_and_the_leak_check_says_that_it_cannot_work(prepared, caplog):
    allowed = {"allow_leaks": False, "allow_test_only": True, "needs_classes": True, "reals_only": False}
    split = SplitConfig(split_source="identity", val_fraction=0.25, test_fraction=0.25)
    arguments = ({"avlips": prepared}, ListingConfig(), split, "any")
    with pytest.raises(UsageError, match="avlips is for testing only: .*--allow_test_only_training"):
        load_parts(*arguments, **allowed | {"allow_test_only": False})
    parts = load_parts(*arguments, **allowed)
    assert {part: len(clips) for part, clips in parts.clips.items()} == {"train": 8, "val": 4, "test": 4}
    assert "names neither persons nor families: only identical files are found" in caplog.text
    assert any("what its parts share is unknown" in line for line in parts.table)


def test_all_clips_are_tested(prepared):
    listing = list_avlips(prepared, ListingConfig())
    split = draw_split(listing, SplitConfig())
    assert set(split.split_of.values()) == {"test"}
    require_no_leak(listing, split)


def test_other_folders_and_one_class_alone_are_named(prepared, tmp_path):
    touch_clip(prepared / "2_other/1")
    with pytest.raises(DatasetError, match="expected a clip in 0_real or 1_fake"):
        list_avlips(prepared, ListingConfig())
    touch_clip(tmp_path / "half/0_real/1")
    with pytest.raises(DatasetError, match="expected clips in 0_real and 1_fake; found real 1"):
        list_avlips(tmp_path / "half", ListingConfig())
