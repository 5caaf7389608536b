"""AV-Deepfake1M++: nested archives, persons of three corpora, overlapping parts, hidden test labels."""

import json
import logging
import shutil
from collections import Counter

import pytest

from loaders.datasets.av_deepfake1m import list_av_deepfake1m
from loaders.datasets.av_deepfake1m_pp import list_av_deepfake1m_pp
from loaders.listing import ListingConfig
from loaders.splits.drawing import SPLITS, SplitConfig, draw_split
from tests.clip_factory import shared_with_training
from tests.trees.av_deepfake1m_pp import write_av_deepfake1m_pp
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError


@pytest.fixture
def tree(tmp_path):
    return write_av_deepfake1m_pp(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def prepared(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def listed(root):
    return list_av_deepfake1m_pp(root, ListingConfig())


def test_counts_per_part_and_category_and_what_is_hidden(tree, prepared, caplog):
    with caplog.at_level(logging.INFO):
        listing = listed(prepared)
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert not listing.missing
    assert "1 clips of testA_files.txt are left out: their labels are hidden" in caplog.text
    assert not (prepared / "testA").exists()


def test_persons_videos_and_families_are_those_of_their_corpus(prepared):
    clips = {clip.clip_id.partition("/")[2]: clip for clip in listed(prepared).clips}
    names = {
        "train/vox_celeb_2/id00013/21Uxsk56VDQ/00001/real": ("id00013", "id00013/21Uxsk56VDQ"),
        "train/lrs3/ue2ZEmTJSXo/00013/real_p1": ("ue2ZEmTJSXo", "ue2ZEmTJSXo"),
        "val/silent_videos/subject_17_ddvyjnjfad_vid_1_4/fake": ("subject_17", "subject_17_ddvyjnjfad_vid_1"),
    }
    for name, (person, video) in names.items():
        corpus = f"av_deepfake1m_pp/{name.split('/')[1]}"
        assert (clips[name].identity, clips[name].source_video) == (f"{corpus}/{person}", f"{corpus}/{video}")
        assert clips[name].pair_key == f"av_deepfake1m_pp/{name.partition('/')[2].rpartition('/')[0]}"
    assert len({clip.identity for clip in clips.values()}) == 7
    folder = clips["val/vox_celeb_2/id00012/21Uxsk56VDQ/00001/real"].folder
    assert folder.relative_to(prepared).parts[:3] == ("val", "val", "vox_celeb_2")


def test_nested_or_not_the_clips_are_the_same(tree, prepared, tmp_path):
    top = tree.source / "AV-Deepfake1M-PlusPlus"
    (top / "val/val").rename(top / "flat")
    (top / "val").rmdir()
    (top / "flat").rename(top / "val")
    (top / "train").rename(top / "deep")
    (top / "train").mkdir()
    (top / "deep").rename(top / "train/train")
    other = listed(prepare_empty(tree, tmp_path / "other"))
    assert [clip.clip_id for clip in other.clips] == [clip.clip_id for clip in listed(prepared).clips]


def test_a_list_may_name_the_part_once_or_twice(prepared):
    before = listed(prepared).clips
    for prefix in ("train/", "train/train/"):
        shutil.copyfile(prepared / "train_metadata.json", prepared / "copy.json")
        entries = json.loads((prepared / "train_metadata.json").read_text())
        entries[0]["file"] = prefix + entries[0]["file"]
        (prepared / "train_metadata.json").write_text(json.dumps(entries))
        assert listed(prepared).clips == before
        (prepared / "copy.json").rename(prepared / "train_metadata.json")


def test_the_planted_overlap_is_counted_exactly_and_a_drawn_split_has_none(prepared):
    listing = listed(prepared)
    parts = [[clip for clip in listing.clips if clip.split == name] for name in ("train", "test")]
    shared = {"persons": (3, 2), "donors": (3, 2), "videos": (3, 1), "families": (3, 1), "files": (8, 0)}
    assert shared_with_training(*parts) == shared
    drawn = draw_split(listing, SplitConfig(split_source="identity", val_fraction=0.2, test_fraction=0.2))
    train, val, test = ({c.identity for c in drawn.select(listing.clips, part)} for part in SPLITS)
    assert (len(train), len(val), len(test)) == (5, 1, 1)
    assert not (train & val) | (train & test) | (val & test)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("youtube/a/b/real.mp4", "expected a clip in vox_celeb_2/ and 3 folders, lrs3/ and 2 folders"),
        ("lrs3/a/real.mp4", "found 'lrs3/a/real.mp4'"),
        ("train", "found 'train'"),
    ],
)
def test_another_corpus_is_named(prepared, file, message):
    entries = json.loads((prepared / "train_metadata.json").read_text())
    entries[3]["file"] = file
    (prepared / "train_metadata.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=f"entry 3: .*{message}"):
        listed(prepared)


def test_the_loader_of_the_first_version_says_which_to_use(prepared):
    with pytest.raises(DatasetError, match="use --dataset av_deepfake1m_pp"):
        list_av_deepfake1m(prepared, ListingConfig())
