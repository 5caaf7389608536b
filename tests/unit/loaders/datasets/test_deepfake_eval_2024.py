"""Deepfake-Eval-2024: columns by name, labels of a third value, clips by file name, for testing only."""

import logging
from collections import Counter

import pytest

from loaders.datasets.deepfake_eval_2024 import TABLES, list_deepfake_eval_2024
from loaders.listing import ListingConfig, summarize
from loaders.splits.drawing import SplitConfig, draw_split
from tests.trees.deepfake_eval_2024 import write_deepfake_eval_2024
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError


@pytest.fixture
def tree(tmp_path):
    return write_deepfake_eval_2024(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def prepared(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def listed(root):
    return list_deepfake_eval_2024(root, ListingConfig())


def table(root, *rows, header="Filename,Ground Truth,Finetuning Set", name=TABLES[1]):
    (root / name).write_text("\n".join([header, *rows]) + "\n")


def test_counts_labels_and_what_is_left_out(tree, prepared, caplog):
    with caplog.at_level(logging.INFO):
        listing = listed(prepared)
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert len(listing.excluded) == 4
    assert "4 clips are neither real nor fake (real and unknown 2, unknown and real 2)" in caplog.text
    assert "read are Filename, Video Ground Truth, Audio Ground Truth, Finetuning Set" in caplog.text
    labels = {(c.category, c.label, c.video_label, c.audio_label) for c in listing.clips}
    assert labels == {
        ("real", 0, 0, 0),
        ("real", 0, 0, None),  # it has no sound
        ("video_fake", 1, 1, 0),
        ("video_fake", 1, 1, None),
        ("audio_fake", 1, 0, 1),
        ("both_fake", 1, 1, 1),
    }
    rows = [line.split() for line in summarize(listing, draw_split(listing, SplitConfig()).split_of)]
    assert ["test", "neither", "real", "nor", "fake", "2", "0", "2", "0"] in rows


def test_one_label_for_both_streams_says_nothing_of_either(tmp_path):
    for name in "ab":
        touch_clip(tmp_path / "video-data" / name)
    table(tmp_path, "a.mp4,Real,Train", "b.webm,Fake,", header="FILENAME,ground truth,Finetuning set")
    real, fake = listed(tmp_path).clips
    assert (real.label, real.video_label, real.audio_label, real.split) == (0, 0, 0, "train")
    assert (fake.label, fake.video_label, fake.audio_label, fake.split) == (1, None, None, "test")
    assert fake.category == "fake"
    assert fake.folder == tmp_path / "video-data/b"


def test_a_table_without_parts_is_all_tested(tmp_path):
    for name in "ab":
        touch_clip(tmp_path / name)
    table(tmp_path, "a.mp4,Real", "b.mp4,Fake", header="Filename,Ground Truth")
    assert {clip.split for clip in listed(tmp_path).clips} == {"test"}


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "Filename,Truth",
            "a.mp4,Real",
            "line 1: expected the columns Filename and .*its columns are Filename, T",
        ),
        (
            "Filename,Video Ground Truth",
            "a.mp4,Real",
            "either video ground truth and audio ground truth or ground",
        ),
        ("Filename;Ground Truth", "a.mp4;Real", "not by semicolons"),
        ("Filename,Ground Truth,Finetuning Set", "a.mp4,Real,Both", "line 2: Finetuning Set is 'both'"),
        ("Filename,Ground Truth", "../a.mp4,Real", "line 2: the path is empty or leads outside"),
    ],
)
def test_a_bad_table_is_named(tmp_path, header, row, message):
    table(tmp_path, row, header=header)
    with pytest.raises(DatasetError, match=message):
        listed(tmp_path)


def test_a_file_that_is_listed_twice_or_no_table_at_all_is_an_error(tmp_path):
    with pytest.raises(
        DatasetError, match="neither video-metadata-publish-with-links.csv nor video-metadata"
    ):
        listed(tmp_path)
    table(tmp_path, "a.mp4,Real,", "a.webm,Fake,")
    with pytest.raises(DatasetError, match="a is listed twice"):
        listed(tmp_path)
