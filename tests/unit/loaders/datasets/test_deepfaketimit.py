"""DeepfakeTIMIT: both names of the low quality, pairs, variants, wav names, and what is missing."""

from collections import Counter

import pytest

from loaders.datasets.deepfaketimit import PUBLISHED_COUNTS, list_deepfaketimit
from loaders.groups import joined
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from preprocess.work.raw_layouts import read_raw_dataset
from tests.trees.deepfaketimit import write_deepfaketimit
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError, UsageError


def prepared(tmp_path, **options):
    tree = write_deepfaketimit(tmp_path / "raw", EmptyFiles(), **options)
    return tree, prepare_empty(tree, tmp_path / "prepared")


@pytest.mark.parametrize("name", ["lower_quality", "low_quality"])
def test_low_quality_is_found_under_both_names_as_the_same_clips(tmp_path, name):
    tree, root = prepared(tmp_path, low_quality=name)
    clips = list_deepfaketimit(root, ListingConfig()).clips
    assert Counter(("", clip.category, clip.method) for clip in clips) == tree.counts
    assert "deepfaketimit/lower_quality/faag0/sa1-video-faas0" in {clip.clip_id for clip in clips}


def test_published_size(tmp_path):
    sentences = tuple(f"s{index}" for index in range(10))
    _, root = prepared(tmp_path, num_pairs=16, sentences=sentences)
    clips = list_deepfaketimit(root, ListingConfig()).clips
    assert Counter(clip.category for clip in clips) == PUBLISHED_COUNTS
    assert Counter(clip.label for clip in clips) == {0: 320, 1: 640}
    assert len({clip.identity for clip in clips}) == 32
    assert Counter(Counter(clip.split_group for clip in clips).values()) == {60: 16}


def test_fields_of_a_fake_and_its_real(tmp_path):
    _, root = prepared(tmp_path)
    clips = {clip.clip_id: clip for clip in list_deepfaketimit(root, ListingConfig()).clips}
    fake = clips["deepfaketimit/higher_quality/faag0/sa1-video-faas0"]
    real = clips["deepfaketimit/real/faag0/sa1"]
    assert (fake.label, fake.video_label, fake.audio_label) == (1, 1, 0)
    assert (real.label, real.video_label, real.audio_label) == (0, 0, 0)
    assert (fake.identity, fake.source_ids) == ("deepfaketimit/faag0", ("deepfaketimit/faas0",))
    assert fake.pair_key == real.pair_key == real.clip_id
    assert fake.split_group == real.split_group == "deepfaketimit/faag0+faas0"
    assert fake.stratum == "women"


def test_pairs_stay_together_and_nothing_is_dropped(tmp_path):
    _, root = prepared(tmp_path, num_pairs=16)
    listing = list_deepfaketimit(root, ListingConfig())
    split = draw_split(listing, SplitConfig())
    assert not split.dropped
    parts = {}
    for clip in listing.clips:
        for person in clip.persons:
            parts.setdefault(person, set()).add(split.split_of[clip.clip_id])
    assert all(len(found) == 1 for found in parts.values())
    assert Counter(next(iter(found)) for found in parts.values()) == {"train": 22, "val": 4, "test": 6}


@pytest.mark.parametrize("variant", ["higher_quality", "lower_quality"])
def test_a_variant_leaves_out_the_other_quality_and_splits_alike(tmp_path, variant):
    _, root = prepared(tmp_path, num_pairs=8)
    everything = draw_split(list_deepfaketimit(root, ListingConfig()), SplitConfig()).split_of
    listing = list_deepfaketimit(root, ListingConfig(variant=variant))
    assert Counter(clip.category for clip in listing.clips) == {"real": 16, variant: 16}
    assert draw_split(listing, SplitConfig()).split_of.items() <= everything.items()


def test_an_unknown_variant_is_refused(tmp_path):
    _, root = prepared(tmp_path)
    with pytest.raises(UsageError, match="it has both, higher_quality, lower_quality"):
        list_deepfaketimit(root, ListingConfig(variant="low_quality"))


def test_the_released_codes_layout_is_read(tmp_path):
    for name in (
        "real/faag0/sa1",
        "real/faas0/sa1",
        "higher_quality/faag0/sa1-video-faas0",
        "low_quality/faag0/sa1-video-faas0",
    ):
        touch_clip(tmp_path / "features_mtcnn" / name, audio_name="audio.wav")
    clips = list_deepfaketimit(tmp_path, ListingConfig()).clips
    assert [clip.clip_id for clip in clips] == [
        "deepfaketimit/higher_quality/faag0/sa1-video-faas0",
        "deepfaketimit/lower_quality/faag0/sa1-video-faas0",
        "deepfaketimit/real/faag0/sa1",
        "deepfaketimit/real/faas0/sa1",
    ]
    assert {clip.split_group for clip in clips} == {"deepfaketimit/faag0+faas0"}


def test_the_sound_is_found_under_both_names(tmp_path):
    tree = write_deepfaketimit(tmp_path, EmptyFiles(), num_pairs=1)
    raw = read_raw_dataset("deepfaketimit", tree.source)
    sounds = {video.as_posix(): sound.as_posix() for video, sound in raw.sounds.items()}
    assert sounds["higher_quality/faag0/sa1-video-faas0.avi"] == "higher_quality/faag0/sa1.wav"
    assert sounds["lower_quality/faag0/sa1-video-faas0.avi"] == "lower_quality/faag0/sa1-video-faas0.wav"
    assert sounds["real/faag0/sa1.mp4"] == "real/faag0/sa1.wav"
    assert len(sounds) == len(raw.videos) == 6


def test_videos_that_could_not_be_prepared_are_missing(tmp_path):
    _, root = prepared(tmp_path)
    gone = root / "lower_quality/faag0/sa1-video-faas0"
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    (root / "failures.csv").write_text("path,reason\nlower_quality/faag0/sa1-video-faas0.avi,no face\n")
    with pytest.raises(
        DatasetError, match=r"1 of 24 listed clips \(4.2%\) are not prepared \(lower_quality 1"
    ):
        list_deepfaketimit(root, ListingConfig())
    (missing,) = list_deepfaketimit(root, ListingConfig(allow_missing=True)).missing
    assert missing.clip_id == "deepfaketimit/lower_quality/faag0/sa1-video-faas0"


def test_reals_without_a_pair_are_used_alone(tmp_path):
    _, root = prepared(tmp_path)
    touch_clip(root / "real/mwbt0/sa1")
    clip = next(c for c in list_deepfaketimit(root, ListingConfig()).clips if c.identity.endswith("mwbt0"))
    assert (clip.split_group, clip.unit) == ("", "deepfaketimit/mwbt0")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("real", "no clips of real .python -m preprocess.vidtimit builds them"),
        ("lower_quality", "no clips of lower_quality; found higher_quality 8, real 8"),
    ],
)
def test_an_empty_class_is_named(tmp_path, folder, message):
    _, root = prepared(tmp_path)
    (root / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=message):
        list_deepfaketimit(root, ListingConfig())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("medium_quality/faag0/sa1-video-faas0", "expected <one of real, higher_quality"),
        ("higher_quality/faag0/sa1", "expected a fake named <sentence>-video-<donor>, found 'sa1'"),
        ("low_quality/faag0/sa1-video-faas0", "is listed twice, as .*remove one of them"),
    ],
)
def test_an_unknown_name_is_never_skipped(tmp_path, name, message):
    _, root = prepared(tmp_path)
    touch_clip(root / name)
    with pytest.raises(DatasetError, match=message):
        list_deepfaketimit(root, ListingConfig())


def test_groups_are_joined_through_common_members():
    assert joined([("b", "a"), ("c", "d"), ("e", "e")]) == {
        "a": "a+b",
        "b": "a+b",
        "c": "c+d",
        "d": "c+d",
        "e": "e",
    }
    chain = joined([("a", "b"), ("c", "d"), ("e", "f"), ("b", "c"), ("f", "d")])
    assert set(chain.values()) == {"a+5_more"}
