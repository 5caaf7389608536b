"""RAVDESS: actors, modalities, 2D3MF's names, published sizes."""

import logging
from collections import Counter

import pytest

from loaders.datasets.ravdess import PUBLISHED_COUNTS, list_ravdess
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from tests.trees.base import RawTree
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from tests.trees.ravdess import write_ravdess
from utils.errors import DatasetError


def test_published_size_and_actors(tmp_path):
    tree = write_ravdess(tmp_path / "raw", EmptyFiles(), actors=tuple(range(1, 25)), full=True)
    assert sum(1 for path in tree.source.rglob("*") if path.is_file()) == 7_356
    listing = list_ravdess(prepare_empty(tree, tmp_path / "out"), ListingConfig())
    clips = listing.clips
    assert Counter(clip.category for clip in clips) == PUBLISHED_COUNTS
    assert Counter((clip.split, clip.category, clip.method) for clip in clips) == tree.counts
    assert {clip.label for clip in clips} == {clip.video_label for clip in clips} == {0}
    assert {clip.audio_label for clip in clips} == {0}
    actors = {
        split: {c.identity[-2:] for c in clips if c.split == split} for split in ("train", "val", "test")
    }
    assert actors["test"] == {"05", "10", "16", "19"}
    assert actors["val"] == {"11", "13", "18", "22"}
    assert len(actors["train"]) == 16
    assert Counter(clip.stratum for clip in clips if clip.identity.endswith(("05", "10"))) == {
        "men": 104,
        "women": 104,
    }
    assert not any(clip.category == "song" for clip in clips if clip.identity == "ravdess/Actor_18")
    split = draw_split(listing, SplitConfig())
    assert {clip.clip_id for clip in clips if clip.split == "val"} == {
        clip_id for clip_id, part in split.split_of.items() if part == "val"
    }


def test_other_splits_are_drawn_by_actor(tmp_path):
    tree = write_ravdess(tmp_path / "raw", EmptyFiles(), actors=tuple(range(1, 25)))
    listing = list_ravdess(prepare_empty(tree, tmp_path / "out"), ListingConfig())
    split = draw_split(listing, SplitConfig(split_source="identity"))
    of_actor = {}
    for clip in listing.clips:
        of_actor.setdefault(clip.identity, set()).add(split.split_of[clip.clip_id])
    assert all(len(parts) == 1 for parts in of_actor.values())


def test_2d3mfs_names_end_with_the_label_behind_the_actor(tmp_path):
    raw = tmp_path / "raw/RAVDESS/video"
    raw.mkdir(parents=True)
    for name in ("01-01-05-01-02-01-16-0", "01-02-03-01-02-01-11-1", "01-01-01-01-01-01-01-0"):
        (raw / f"{name}.mp4").touch()
    tree = RawTree(dataset="ravdess", source=tmp_path / "raw", counts=Counter())
    root = prepare_empty(tree, tmp_path / "out")
    clips = {clip.identity: clip for clip in list_ravdess(root, ListingConfig()).clips}
    assert clips["ravdess/Actor_16"].clip_id == "ravdess/Actor_16/01-01-05-01-02-01-16"  # as the original's
    assert (clips["ravdess/Actor_16"].split, clips["ravdess/Actor_16"].label) == ("test", 0)
    fake = clips["ravdess/Actor_11"]
    assert (fake.split, fake.category) == ("val", "fake")
    assert (fake.label, fake.video_label, fake.audio_label) == (1, None, None)


def test_only_picture_and_sound_together_count(tmp_path, caplog):
    for name in ("01-01-01-01-01-01-01", "02-01-01-01-01-01-01"):
        touch_clip(tmp_path / "Actor_01" / name)
    with caplog.at_level(logging.INFO):
        (clip,) = list_ravdess(tmp_path, ListingConfig()).clips
    assert clip.clip_id == "ravdess/Actor_01/01-01-01-01-01-01-01"
    assert "1 clips without picture or without sound" in caplog.text


@pytest.mark.parametrize(
    "name", ["01-01-01-01-01-01", "01-01-01-01-01-01-25", "01-09-01-01-01-01-01", "clip"]
)
def test_other_names_are_named(tmp_path, name):
    touch_clip(tmp_path / "Actor_01" / name)
    with pytest.raises(DatasetError, match=f"{name}.* is not <modality>-<channel>"):
        list_ravdess(tmp_path, ListingConfig())


def test_the_same_clip_under_both_names_is_refused(tmp_path):
    touch_clip(tmp_path / "Actor_01/01-01-01-01-01-01-01")
    touch_clip(tmp_path / "video/01-01-01-01-01-01-01-0")
    with pytest.raises(DatasetError, match="is listed twice, as .*01-01-01-01-01-01-01 and as .*remove one"):
        list_ravdess(tmp_path, ListingConfig())


def test_wrong_roots_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no clip 01-.*, which has picture and sound"):
        list_ravdess(tmp_path, ListingConfig())
    with pytest.raises(DatasetError, match="no such folder"):
        list_ravdess(tmp_path / "nowhere", ListingConfig())
