"""The three numbers: listed and there, listed and not there, there and not listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from loaders import DATASETS
from loaders.listing import ListingConfig, describe, summarize
from tests.trees import TREES
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.clip.files import DATA_FILES
from utils.names import is_litter

EXTRA = {  # data set -> clips that its tables do not name
    "av_deepfake1m": "train/id00999/abc/00001/real",
    "av_deepfake1m_pp": "val/val/vox_celeb_2/id00999/abc/00001/real",
    "deepfake_eval_2024": "video-data/unheard-of",
    "mavos_dd": "english/real/unheard-of",
    "idforge": "main/pristine/id09/id09_00/id09_scene_0001",
    "polyglotfake": "real/en/en_99",
    "dfdc": "dfdc_train_part_77/abcdefghij",
    "dfdc_preview": "original_videos/7777/7777_A_001",
    "deepspeak": "anywhere/unheard-of",
    "fakeavceleb": "FakeVideo-RealAudio/African/men/id09999/00001_9",
    "ffpp": "original_sequences/youtube/c23/videos/998",
    "lavdf": "train/999999",
    "manifest": "clips/four",
}

NO_PERSONS = {  # data set -> what stands for the persons that it does not name
    "celebdf": "person+clip",
    "avlips": "clip",
    "deepfake_eval_2024": "clip",
    "mavos_dd": "clip",
    "polyglotfake": "family",
    "dfdc": "family+clip",
    "ffpp": "person+family",
    "lavdf": "family",
}


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_listing_says_what_its_identities_are(tmp_path, name):
    root = prepare_empty(TREES[name](tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")
    listing = DATASETS[name](root, ListingConfig())
    assert listing.identity_is == NO_PERSONS.get(name, "person")
    said = [line for line in summarize(listing, {}) if "as a person" in line]
    assert len(said) == (name in NO_PERSONS)
    families: dict[str, set[str]] = {}
    for clip in listing.clips:
        families.setdefault(clip.identity, set()).add(clip.identity_is)
    assert all(len(kinds) == 1 for kinds in families.values())


@pytest.mark.parametrize("name", sorted(EXTRA))
def test_prepared_clips_that_no_table_names_are_counted(tmp_path, name):
    tree = TREES[name](tmp_path / "raw", EmptyFiles())
    root = prepare_empty(tree, tmp_path / "prepared")
    before = DATASETS[name](root, ListingConfig())
    touch_clip(root / EXTRA[name])
    touch_clip(root / "__MACOSX" / EXTRA[name])  # not a clip of anybody
    listing = DATASETS[name](root, ListingConfig())
    assert set(listing.unlisted) - set(before.unlisted) == {EXTRA[name]}
    assert [clip.clip_id for clip in listing.clips] == [clip.clip_id for clip in before.clips]
    number = len(before.unlisted) + 1
    assert (
        f"{len(listing.clips)} listed and there, 0 listed and not there, {number} there and not"
        in (summarize(listing, {})[0])
    )


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_complete_data_set_has_no_unlisted_clips_in_any_version(tmp_path, name):
    tree = TREES[name](tmp_path / "raw", EmptyFiles())
    root = prepare_empty(tree, tmp_path / "prepared")
    variants = {"deepfaketimit": ("both", "lower_quality"), "ffpp": ("c23",)}.get(name, ("",))
    for variant in variants:
        listing = DATASETS[name](root, ListingConfig(variant=variant))
        assert len(listing.unlisted) == (name == "dfdc_preview")  # one of its quirks


def test_a_relative_root_and_a_root_of_links_are_counted_alike(tmp_path, monkeypatch):
    for name in ("a", "b", "sub/c"):
        touch_clip(tmp_path / "disk" / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "part").symlink_to(tmp_path / "disk")
    (tmp_path / "data" / "manifest.csv").write_text("path,label\npart/a,0\npart/b,1\n")
    monkeypatch.chdir(tmp_path / "data")
    for root in (tmp_path / "data", Path("../data"), Path()):
        listing = DATASETS["manifest"](root, ListingConfig(allow_links=True))
        assert listing.unlisted == ["part/sub/c"]


def test_a_link_that_no_clip_needs_is_a_warning(tmp_path, caplog):
    for name in ("a", "b"):
        touch_clip(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,label\na,0\nb,1\n")
    listing = DATASETS["manifest"](tmp_path, ListingConfig())
    assert "0 there and not listed" in describe(listing)
    assert "not all counted" in caplog.text


def test_no_file_of_a_clip_is_litter():
    assert not any(map(is_litter, (*DATA_FILES, "clip.json", "a.mp4", "_.mp4", "MACOSX", ".hidden", "..mp4")))
    assert all(map(is_litter, ("._a.mp4", "__MACOSX", ".DS_Store", "Thumbs.db", ".Trashes", "@eaDir")))
