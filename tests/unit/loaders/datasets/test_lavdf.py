import json
from collections import Counter

import pytest

from loaders.datasets.lavdf import list_lavdf
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from tests.trees.lavdf import write_lavdf
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError


@pytest.fixture
def prepared(tmp_path):
    return prepare_empty(write_lavdf(tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")


def change(root, index, **values):
    path = root / "metadata.min.json"
    entries = json.loads(path.read_text())
    entries[index] |= values
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize("metadata", ["metadata.min.json", "metadata.json"])
def test_both_metadata_files_and_dev_is_validation(tmp_path, metadata):
    tree = write_lavdf(tmp_path / "raw", EmptyFiles(), metadata=metadata)
    listing = list_lavdf(prepare_empty(tree, tmp_path / "prepared"), ListingConfig())
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert sum(clip.split == "val" for clip in listing.clips) == 8
    assert not listing.missing
    split = draw_split(listing, SplitConfig())
    assert Counter(split.split_of.values()) == {"train": 12, "val": 8, "test": 8}


def test_segments_belong_to_what_was_modified(prepared):
    change(prepared, 3, fake_periods=[[0.6, 0.7], [0.1, 0.2]], n_fakes=2)
    real, visual, audio, both = list_lavdf(prepared, ListingConfig()).clips[:4]
    span = ((0.3, 0.7),)
    assert (real.label, real.video_fake_segments, real.audio_fake_segments) == (0, None, None)
    assert (visual.video_label, visual.audio_label) == (1, 0)
    assert (visual.video_fake_segments, visual.audio_fake_segments) == (span, None)
    assert (audio.video_label, audio.audio_label) == (0, 1)
    assert (audio.video_fake_segments, audio.audio_fake_segments) == (None, span)
    assert both.video_fake_segments == both.audio_fake_segments == ((0.1, 0.2), (0.6, 0.7))


def test_a_drawn_split_keeps_the_clips_of_one_original_together(prepared):
    clips = list_lavdf(prepared, ListingConfig())
    split = draw_split(clips, SplitConfig(split_source="identity", val_fraction=0.3, test_fraction=0.3))
    parts = {}
    for clip in clips.clips:
        parts.setdefault(clip.split_group, set()).add(split.split_of[clip.clip_id])
    assert len(parts) == 7
    assert {len(part) for part in parts.values()} == {1}


@pytest.mark.parametrize(
    ("index", "values", "message"),
    [
        (1, {"split": "valid"}, r"min.json, entry 1: split is 'valid', expected train, dev or test"),
        (0, {"modify_audio": True}, "n_fakes 0 and 0 fake_periods do not fit"),
        (1, {"n_fakes": 0}, "n_fakes 0 and 1 fake_periods do not fit"),
        (1, {"modify_video": "no"}, "expected true or false"),
        (1, {"fake_periods": [[0.7, 0.3]]}, "segment 0.7-0.3 must have 0 <= start <= end"),
        (1, {"fake_periods": [0.3, 0.7]}, r"expected segments \[\[start, end\], ...\]"),
        (1, {"original": None}, "original is null, but a fake needs one"),
        (1, {"file": "../train/000001.mp4"}, "outside the data root"),
        (1, {"file": "train/000000.mp4"}, "lavdf/train/000000 is listed twice"),
    ],
)
def test_a_bad_entry_is_named(prepared, index, values, message):
    change(prepared, index, **values)
    with pytest.raises(DatasetError, match=message):
        list_lavdf(prepared, ListingConfig())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file": 1}', "expected a JSON list, found"),
        ('[{"file": "a"}]', "entry 0: no key n_fakes, fake_periods"),
        ("[1]", "entry 0: expected a JSON object, found 1"),
        ('[{"file": ', "entry 0: is not JSON"),
        ("[", "entry 0: is not JSON"),
        ("[]", "its metadata lists no clip"),
    ],
)
def test_broken_metadata_is_named(prepared, text, message):
    (prepared / "metadata.min.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        list_lavdf(prepared, ListingConfig())


@pytest.mark.parametrize(("first", "second"), [("[]", "entries"), ("entries", "[]"), (" [ ]\r\n", "entries")])
def test_the_first_table_that_lists_something_counts(tmp_path, caplog, first, second):
    tree = write_lavdf(tmp_path / "raw", EmptyFiles())
    top = tree.source / "LAV-DF"
    entries = (top / "metadata.min.json").read_text()
    for name, text in (("metadata.min.json", first), ("metadata.json", second)):
        (top / name).write_text(entries if text == "entries" else text)
    listing = list_lavdf(prepare_empty(tree, tmp_path / "prepared"), ListingConfig())
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert ("metadata.min.json: lists no clip" in caplog.text) == (first != "entries")


def test_flags_and_nulls_as_pandas_writes_them(prepared):
    clips = list_lavdf(prepared, ListingConfig()).clips
    change(prepared, 0, modify_video=0.0, modify_audio="False", original=float("nan"))
    change(prepared, 1, modify_video=1.0, modify_audio="false")
    assert list_lavdf(prepared, ListingConfig()).clips == clips


def test_a_root_without_metadata_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="neither metadata.min.json nor metadata.json is there"):
        list_lavdf(tmp_path, ListingConfig())
