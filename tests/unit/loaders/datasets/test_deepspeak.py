import logging
import shutil
from collections import Counter

import pytest

from loaders.datasets.deepspeak import list_deepspeak
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from tests.trees.deepspeak import FAKE_HEADER, write_deepspeak
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError


@pytest.fixture
def prepared(tmp_path):
    return prepare_empty(write_deepspeak(tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")


def listed(root):
    return {clip.clip_id: clip for clip in list_deepspeak(root, ListingConfig()).clips}


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_both_versions_are_listed_whole(tmp_path, version):
    tree = write_deepspeak(tmp_path / "raw", EmptyFiles(), version=version)
    listing = list_deepspeak(prepare_empty(tree, tmp_path / "prepared"), ListingConfig())
    assert Counter((clip.split, clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert not listing.missing


def test_the_person_on_screen_decides_and_the_source_is_the_donor(prepared):
    clips = listed(prepared)
    swap = clips["deepspeak/facefusion-101-100-real"]
    assert (swap.identity, swap.source_ids, swap.target_id) == (
        "deepspeak/10",
        ("deepspeak/13",),
        "deepspeak/10",
    )
    assert swap.pair_key == "deepspeak/10-100"
    assert swap.pair_key in clips
    assert clips["deepspeak/facefusion-100-107-real"].split == "test"  # its donor trains


def test_ids_read_as_int_float_and_text_are_one_person(prepared):
    assert {clip.identity for clip in listed(prepared).values()} == {
        f"deepspeak/{10 + 3 * i}" for i in range(8)
    }
    for name in ("real", "fake", "split-def"):  # and the other way round
        path = prepared / f"annotations-{name}.csv"
        lines = path.read_text().replace(".0", "").splitlines()
        path.write_text("\n".join(line.replace(",10,", ", 10.00 ,") for line in lines) + "\n")
    assert {clip.identity for clip in listed(prepared).values()} == {
        f"deepspeak/{10 + 3 * i}" for i in range(8)
    }


def test_a_fake_whose_two_persons_are_in_different_parts_is_dropped_and_counted(prepared):
    split = draw_split(list_deepspeak(prepared, ListingConfig()), SplitConfig(split_seed=1))
    torn = {clip_id for clip_id, reason in split.dropped.items() if "donor" in reason}
    # the last training person's donor and the last test person's; the others by where validation was carved
    assert {"deepspeak/facefusion-106-105-real", "deepspeak/facefusion-100-107-real"} <= torn
    assert all("facefusion" in clip_id for clip_id in torn)
    assert torn.isdisjoint(split.split_of)
    assert any(f"{len(torn)} clips are in no part: its donor" in line for line in split.describe_dropped())
    assert set(split.split_of.values()) == {"train", "val", "test"}


def test_what_is_known_of_the_voice(prepared, caplog):
    def fake(name, kind, voice):
        return f"{name}.mp4,{kind},e,13,10,1,100,{voice},,none,scripted"

    rows = {
        "a": ("face-swap", "", 0),
        "b": ("face-swap", "elevenlabs", 1),
        "c": ("lip-sync", "PlayHT", 1),
        "d": ("lip-sync", "real", 0),
        "e": ("lip-sync", "", None),
        "f": ("avatar", "something new", None),
    }
    lines = [FAKE_HEADER, *(fake(name, kind, voice) for name, (kind, voice, _) in rows.items())]
    (prepared / "annotations-fake.csv").write_text("\n".join(lines) + "\n")
    for name in rows:
        touch_clip(prepared / name)
    with caplog.at_level(logging.INFO):
        clips = listed(prepared)
    assert {name: clips[f"deepspeak/{name}"].audio_label for name in rows} == {
        n: r[2] for n, r in rows.items()
    }
    assert {clips[f"deepspeak/{name}"].label for name in rows} == {1}
    assert "the voice of 2 fakes" in caplog.text
    assert "avatar with audio-config 'something new': 1" in caplog.text


def test_the_released_codes_layout(prepared, tmp_path):
    root = tmp_path / "released"
    root.mkdir()
    for path in prepared.glob("*.csv"):
        shutil.copyfile(path, root / path.name)
    for clip_id in listed(prepared):
        touch_clip(root / "features/features_mtcnn" / clip_id.removeprefix("deepspeak/"), "audio.wav")
    clips = listed(root)
    assert clips.keys() == listed(prepared).keys()
    assert clips["deepspeak/10-100"].folder == root / "features/features_mtcnn/10-100"


def test_a_name_that_is_there_twice_is_an_error(prepared):
    touch_clip(prepared / "elsewhere/10-100")
    with pytest.raises(DatasetError, match=r"10-100.*two clip folders of one name"):
        listed(prepared)


def test_a_missing_split_file_is_an_error(prepared):
    (prepared / "annotations-split-def.csv").unlink()
    with pytest.raises(DatasetError, match=r"annotations-split-def.csv: no such file.*annotations-fake.csv"):
        listed(prepared)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("split-def", "0,10.0,train\n", "", "identity 10 is not listed in"),
        ("split-def", "0,10.0,train\n", "0,10,train\n9,10.0,test\n", "identity 10 is in train and in test"),
        (
            "split-def",
            "identity,split",
            "person,split",
            "split-def.csv, line 1: no column identity; its columns are",
        ),
        (
            "split-def",
            "0,10.0,train",
            "0,10.0,dev",
            "expected an identity and train or test, got '10.0' and 'dev'",
        ),
        ("fake", "face-swap", "morph", r"fake.csv, line 2: unknown kind 'morph', expected one of face-swap"),
        ("fake", "identity-target", "target", "no column identity-target"),
        ("real", "10-100.mp4,10", "10-100.mp4,", "real.csv, line 2: the row has no identity"),
        ("real", "13-101.mp4,13", "10-100.mp4,13", "10-100 is already listed with other values"),
    ],
)
def test_bad_annotations_are_named(prepared, name, old, new, message):
    replace(prepared / f"annotations-{name}.csv", old, new)
    with pytest.raises(DatasetError, match=message):
        listed(prepared)
