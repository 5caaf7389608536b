"""MAVOS-DD: two flags make four tests, the table is CSV or Arrow, persons and forged streams are unknown."""

from collections import Counter

import pytest

from loaders.datasets.mavos_dd import COLUMNS, list_mavos_dd
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from tests.trees.mavos_dd import table_rows, write_mavos_dd
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError, UsageError


@pytest.fixture
def tree(tmp_path):
    return write_mavos_dd(tmp_path / "raw", EmptyFiles())


@pytest.fixture
def prepared(tree, tmp_path):
    return prepare_empty(tree, tmp_path / "prepared")


def test_counts_per_part_and_test(tree, prepared):
    listing = list_mavos_dd(prepared, ListingConfig())
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    tests = Counter(clip.category for clip in listing.clips if clip.split == "test")
    assert tests == {
        "real": 1, "fake": 2, "fake_open_model": 1, "real_open_language": 2, "fake_open_language": 1,
        "fake_open_both": 1,
    }  # fmt: skip
    assert {(c.label, c.video_label, c.audio_label) for c in listing.clips} == {(0, 0, 0), (1, 1, None)}
    assert {clip.stratum for clip in listing.clips} == {"english", "romanian", "german"}
    split = draw_split(listing, SplitConfig())
    assert Counter(split.split_of.values()) == {"train": 7, "val": 4, "test": 8}


def test_a_file_that_did_not_open_is_missing_and_counted(prepared):
    (prepared / "english/real/train_ș_0").rename(prepared.parent / "gone")
    with pytest.raises(DatasetError, match="1 of 19 listed clips .5.3%. are not prepared .real 1."):
        list_mavos_dd(prepared, ListingConfig())
    listing = list_mavos_dd(prepared, ListingConfig(allow_missing=True))
    assert [clip.clip_id for clip in listing.missing] == ["mavos_dd/english/real/train_ș_0"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",real,train,", ",maybe,train,", "line 2: label is 'maybe'"),
        (",real,train,", ",real,training,", "line 2: split is 'training', expected train, validation or"),
        ("False,False,english", "False,no,english", r"line 2: open_set_model, .*\('False', 'no'\), not true"),
        ("video_path", "path", "no column video_path"),
    ],
)
def test_a_bad_row_is_named(prepared, old, new, message):
    text = (prepared / "mavos_dd.csv").read_text()
    (prepared / "mavos_dd.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=message):
        list_mavos_dd(prepared, ListingConfig())


def test_the_arrow_table_of_the_release_is_read_with_pyarrow_or_the_remedy_is_named(prepared):
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table_rows()]
    clips = list_mavos_dd(prepared, ListingConfig()).clips
    (prepared / "mavos_dd.csv").unlink()
    path = prepared / "data-00000-of-00001.arrow"
    path.write_bytes(b"no stream")
    try:
        import pyarrow
    except ImportError:
        with pytest.raises(UsageError, match=r"pip install pyarrow==24.0.0; or write it to mavos_dd.csv"):
            list_mavos_dd(prepared, ListingConfig())
        return
    with pytest.raises(DatasetError, match="is not an Arrow stream"):
        list_mavos_dd(prepared, ListingConfig())
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    assert list_mavos_dd(prepared, ListingConfig()).clips == clips


def test_without_a_table_both_forms_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"neither mavos_dd.csv nor \*.arrow is there"):
        list_mavos_dd(tmp_path, ListingConfig())
