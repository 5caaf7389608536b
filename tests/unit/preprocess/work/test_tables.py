"""A data set's tables are read before its videos are prepared, by the loader's own reader."""

from __future__ import annotations

import functools
import logging
import shutil

import pytest

from preprocess.prepare import _describe_prepared
from preprocess.work.raw_layouts import read_raw_dataset
from preprocess.work.tables import read_tables
from tests.commands import run_command
from tests.trees import TREES
from tests.trees.media import EmptyFiles
from utils.errors import DatasetError


def read(dataset, source, caplog):
    """What is logged about the raw data set, as one text."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        read_tables(read_raw_dataset(dataset, source), functools.partial(_describe_prepared, dataset))
    return caplog.text


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_data_set_is_read_as_its_loader_will_read_it(name, tmp_path, caplog):
    tree = TREES[name](tmp_path / "raw", EmptyFiles())
    text = read(name, tree.source, caplog)
    unlisted = int(name == "dfdc_preview")  # one of its quirks
    there = (
        f"{name}: {tree.counts.total()} listed and there, 0 listed and not there, {unlisted} there and not"
    )
    assert there in text
    assert "tables_" not in text  # the folder that the reader was shown


def find(root, pattern):
    return next(iter(sorted(root.rglob(pattern))))


@pytest.mark.parametrize(
    ("name", "pattern", "old", "new", "message"),
    [
        ("fakeavceleb", "meta_data.csv", "source,", "sauce,", r"meta_data\.csv, line 1: no column source"),
        ("deepspeak", "annotations-fake.csv", "lip-sync", "lip-stick", r"fake\.csv, line \d+: unknown kind"),
        ("lavdf", "metadata.min.json", '"split": "dev"', '"split": "devel"', r"entry \d+: split is 'devel'"),
        ("dfdc", "labels.csv", ",1", ",maybe", r"labels\.csv, line \d+: label is 'maybe'"),
        ("celebdf", "List_of_testing_videos.txt", "1 ", "yes ", "line 1: expected '<0 or 1>"),
    ],
)
def test_a_table_that_the_loader_would_refuse_ends_the_command(
    name, pattern, old, new, message, tmp_path, caplog
):
    tree = TREES[name](tmp_path / "raw", EmptyFiles())
    table = find(tmp_path / "raw", pattern)
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    with pytest.raises(DatasetError, match=message) as error:
        read(name, tree.source, caplog)
    assert str(tmp_path) in str(error.value)  # the raw table, not what the reader was shown


def test_the_command_stops_before_the_first_video(tmp_path):
    tree = TREES["manifest"](tmp_path / "raw", EmptyFiles())
    for video in tree.source.rglob("*.mp4"):
        shutil.copy(video, tree.source / video.name)
    (tree.source / "manifest.csv").write_text("path\tlabel\na.mp4\t1\n")
    output = tmp_path / "out"
    command = ("-m", "preprocess.prepare", "--dataset", "manifest", "--source", tree.source, "--output")
    result = run_command(*command, output)
    assert result.returncode == 1
    assert "manifest.csv" in result.stderr
    assert not output.exists()


def test_the_three_numbers_and_an_example_of_each(tmp_path, caplog):
    tree = TREES["lavdf"](tmp_path / "raw", EmptyFiles())
    root = tree.source / "LAV-DF"
    (root / "train/000001.mp4").unlink()
    (root / "test/777777.mp4").touch()
    text = read("lavdf", tree.source, caplog)
    assert f"{tree.counts.total() - 1} listed and there, 1 listed and not there, 1 there and not" in text
    assert "not there: e.g. train/000001; not listed: e.g. 'test/777777'" in text


def test_a_table_of_other_videos_ends_the_command(tmp_path, caplog):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "manifest.csv").write_text("path,label\nclips/a.mp4,1\nclips/b.mp4,0\n")
    with pytest.raises(DatasetError, match="none of the 2 listed videos is there, e.g. .*clips/a"):
        read("manifest", tmp_path, caplog)


def test_what_may_be_added_later_is_a_warning(tmp_path, caplog):
    tree = TREES["ffpp"](tmp_path / "raw", EmptyFiles())
    shutil.rmtree(find(tmp_path / "raw", "splits"))
    assert "the loader will want more" in read("ffpp", tree.source, caplog)
    assert "copy train.json" in caplog.text


def test_each_version_of_a_data_set_is_read(tmp_path, caplog):
    tree = TREES["ffpp"](tmp_path / "raw", EmptyFiles())
    for folder in sorted(tmp_path.rglob("c23")):
        shutil.copytree(folder, folder.with_name("c40"), dirs_exist_ok=True)
        shutil.copytree(folder, folder.with_name("raw"), dirs_exist_ok=True)
    assert read("ffpp", tree.source, caplog).count(f"{tree.counts.total()} listed and there") == 3


def test_a_name_that_no_table_can_hold_is_passed_over(tmp_path, caplog):
    for name in ("a.mp4", "b.mp4", "line\nbreak.mp4", "back\\slash.mp4", "...mp4"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.csv").write_text("path,label\na.mp4,1\nb.mp4,0\n")
    assert "2 listed and there, 0 listed and not there, 2 there and not listed" in read(
        "manifest", tmp_path, caplog
    )
