"""Celeb-DF: inverted labels ignored, official test part, celebrities in both, published sizes."""

import logging
from collections import Counter

import pytest

from loaders.datasets.celebdf import PUBLISHED_COUNTS, PUBLISHED_TEST_COUNTS, list_celebdf
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from tests.trees.celebdf import write_celebdf, write_celebdf_pp
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError

TEST_LIST = "List_of_testing_videos.txt"


@pytest.fixture
def tree(tmp_path):
    return write_celebdf(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def root(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def published(root, release):
    """Empty clips in the published numbers, and the test list of v2; every celebrity has a fake."""
    sizes = PUBLISHED_COUNTS[release]
    names = {
        "Celeb-real": [f"id{i % 59}_{i // 59:04d}" for i in range(sizes["Celeb-real"])],
        "YouTube-real": [f"{i:05d}" for i in range(sizes["YouTube-real"])],
        "Celeb-synthesis": [
            f"id{i % 59}_id{(i // 59 + i) % 59}_{i // 590:04d}" for i in range(sizes["Celeb-synthesis"])
        ],
    }
    lines = [
        f"{int(folder != 'Celeb-synthesis')} {folder}/{name}.mp4"
        for folder, count in PUBLISHED_TEST_COUNTS["v2"].items()
        for name in names[folder][:count]
    ]
    for folder, own in names.items():
        for name in own:
            touch_clip(root / folder / name)
    (root / TEST_LIST).write_text("\n".join(lines))
    return root


def test_counts_and_fields(tree, root):
    listing = list_celebdf(root, ListingConfig())
    assert Counter((c.split, c.category, c.method) for c in listing.clips) == tree.counts
    clips = {clip.clip_id: clip for clip in listing.clips}
    fake = clips["celebdf/Celeb-synthesis/id0_id1_0001"]
    assert (fake.label, fake.video_label, fake.audio_label) == (1, 1, None)  # there is no sound
    assert (fake.identity, fake.source_ids) == ("celebdf/id0", ("celebdf/id1",))
    assert fake.pair_key == clips["celebdf/Celeb-real/id0_0001"].pair_key
    assert clips["celebdf/YouTube-real/00000"].identity != clips["celebdf/YouTube-real/00170"].identity


def test_the_label_column_is_not_read(root):
    before = {clip.clip_id: (clip.label, clip.split) for clip in list_celebdf(root, ListingConfig()).clips}
    text = (root / TEST_LIST).read_text()
    assert "1 Celeb-real/id0_0001.mp4" in text  # 1 = real there
    opposite = [f"{1 - int(line[0])}{line[1:]}" for line in text.splitlines()]
    (root / TEST_LIST).write_text("\n".join(opposite))
    after = {clip.clip_id: (clip.label, clip.split) for clip in list_celebdf(root, ListingConfig()).clips}
    assert after == before


def test_celebrities_in_both_parts_are_a_warning_and_validation_has_its_own(root, caplog):
    listing = list_celebdf(root, ListingConfig())
    with caplog.at_level(logging.WARNING):
        split = draw_split(listing, SplitConfig(val_fraction=0.25))
    assert "shows celebrities of its train part" in caplog.text
    of_person = {}
    for clip in listing.clips:
        of_person.setdefault(clip.identity, set()).add(split.split_of[clip.clip_id])
    assert not any({"train", "val"} <= parts for parts in of_person.values())
    tested = {clip.clip_id for clip in listing.clips if split.split_of[clip.clip_id] == "test"}
    assert tested == {clip.clip_id for clip in listing.clips if clip.split == "test"}


@pytest.mark.parametrize("release", ["v1", "v2"])  # ++ has 54,086 files
def test_published_sizes(tmp_path, release, caplog):
    with caplog.at_level(logging.INFO):
        listing = list_celebdf(published(tmp_path, release), ListingConfig())
    assert f"release {release}, complete" in caplog.text
    assert Counter(clip.category for clip in listing.clips) == PUBLISHED_COUNTS[release]
    if release == "v2":
        tested = [clip for clip in listing.clips if clip.split == "test"]
        assert Counter(clip.label for clip in tested) == {0: 178, 1: 340}
        assert Counter(clip.category for clip in tested) == PUBLISHED_TEST_COUNTS["v2"]


def test_the_plus_plus_release_is_told_by_scenario_and_method(tmp_path):
    tree = write_celebdf_pp(tmp_path / "raw", EmptyFiles())
    listing = list_celebdf(prepare_empty(tree, tmp_path / "prepared"), ListingConfig())
    assert Counter((c.split, c.category, c.method) for c in listing.clips) == tree.counts
    assert not listing.missing
    clips = {clip.clip_id: clip for clip in listing.clips}
    swap = clips["celebdf/Celeb-synthesis/FaceSwap/BlendFace/id1_id2_0000"]
    assert (swap.identity, swap.source_ids) == ("celebdf/id1", ("celebdf/id2",))
    talk = clips["celebdf/Celeb-synthesis/TalkingFace/EDTalk/id1_0000_test_0003"]
    assert (talk.identity, talk.source_ids, talk.label, talk.audio_label) == ("celebdf/id1", (), 1, None)
    assert {clip.pair_key for clip in (swap, talk)} == {clips["celebdf/Celeb-real/id1_0000"].pair_key}


def test_copies_with_another_spelling_and_folders_between_are_read(tree, tmp_path):
    base = tree.source / "Celeb-DF-v2"
    (base / "YouTube-real").rename(base / "Youtube-real")
    (base / "Celeb-real").rename(base / "videos")
    (base / "Celeb-real").mkdir()
    (base / "videos").rename(base / "Celeb-real/videos")
    listing = list_celebdf(prepare_empty(tree, tmp_path / "prepared"), ListingConfig())
    assert Counter((c.split, c.category, c.method) for c in listing.clips) == tree.counts
    assert "celebdf/YouTube-real/00170" in {clip.clip_id for clip in listing.clips}


def test_test_clips_that_are_not_prepared_are_missing(root):
    (root / "Celeb-synthesis/id0_id1_0001").rename(root.parent / "gone")
    listing = list_celebdf(root, ListingConfig(allow_missing=True))
    assert [clip.clip_id for clip in listing.missing] == ["celebdf/Celeb-synthesis/id0_id1_0001"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 Celeb-real/id0_0001.mp4", "line 1: expected '<0 or 1> <folder>/<name>.mp4'"),
        ("1 Celeb-true/id0_0001.mp4", "expected a clip in Celeb-real, YouTube-real, Celeb-synthesis"),
        ("1 Celeb-real/id0_id1_0001.mp4", "'id0_id1_0001' is not the name of a clip in Celeb-real"),
        ("\n", "lists no video"),
    ],
)
def test_a_bad_test_list_is_named(root, text, message):
    (root / TEST_LIST).write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        list_celebdf(root, ListingConfig())
    assert TEST_LIST in str(caught.value)


def test_wrong_roots_and_empty_classes_are_named(root, tmp_path):
    (root / "Celeb-synthesis").rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match="no clip in Celeb-synthesis; found Celeb-real 12"):
        list_celebdf(root, ListingConfig())
    (root / TEST_LIST).unlink()
    with pytest.raises(DatasetError, match="no such file .Celeb-DF's official test part"):
        list_celebdf(root, ListingConfig())
