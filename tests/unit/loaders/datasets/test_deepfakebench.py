"""DeepfakeBench's JSON lists, with frames in folders and in LMDB stores."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from loaders import DATASETS
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split
from tests.frame_trees import build_deepfakebench, draw_frames, move_into_store
from utils.clip.frames import read_frames
from utils.errors import DatasetError, UsageError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench")
    build_deepfakebench(root, frames=4)
    return root


def listing_of(root, **config):
    return DATASETS["deepfakebench"](root, ListingConfig(**config))


def write_list(root, content, name="L"):
    (root / f"{name}.json").write_text(json.dumps({name: content}))


def entry(folder, count=1, label="A_real"):
    return {"label": label, "frames": [f"{folder}/{k}.png" for k in range(count)]}


def test_a_published_tree_is_listed_as_it_is(tree):
    listing = listing_of(tree)
    assert Counter((clip.split, clip.label) for clip in listing.clips) == {
        ("train", 0): 6, ("train", 1): 24, ("test", 0): 2, ("test", 1): 8
    }  # fmt: skip
    fake = next(clip for clip in listing.clips if clip.clip_id == "deepfakebench/FF-FS/000_003")
    assert (fake.method, fake.identity, fake.source_ids) == (
        "FF-FS",
        "deepfakebench/000",
        ("deepfakebench/003",),
    )
    assert fake.frames == tuple(f"{number}.png" for number in range(11))  # the list has them backwards
    assert read_frames(fake.folder / "x", np.array([0, 10]), fake.frames).shape == (2, 224, 224, 3)


def test_an_empty_validation_part_is_taken_from_train_by_pair(tree):
    listing = listing_of(tree)
    split = make_split(listing, SplitConfig(val_fraction=0.3), check=True)
    parts = {
        part: {clip.unit for clip in split.select(listing.clips, part)} for part in ("train", "val", "test")
    }
    assert parts["val"]
    assert not (parts["train"] & parts["val"])
    assert not (parts["val"] & parts["test"])


def test_copied_parts_are_told_and_nothing_is_trained_and_tested_on(tmp_path, caplog):
    for name in ("a", "b"):
        draw_frames(tmp_path / "x/frames" / name, 1, fake=False, seed=1)
    a, b = (entry(f"x/frames/{name}") for name in "ab")
    write_list(tmp_path, {"A_real": {"train": {"a": a, "b": b}, "val": {"b": b}, "test": {"b": b}}})
    listing = listing_of(tmp_path)
    assert {clip.clip_id.rpartition("/")[2]: clip.split for clip in listing.clips} == {
        "a": "train",
        "b": "test",
    }
    assert "1 of 1 validation videos are in another part" in caplog.text
    assert "1 of 2 training videos are in the test part, too" in caplog.text


@pytest.mark.parametrize("style", ["windows", "linux"])
def test_a_store_holds_the_same_frames(tree, tmp_path, style):
    root = shutil.copytree(tree, tmp_path / "bench")
    move_into_store(root, style=style)
    plain, stored = listing_of(tree).clips, listing_of(root).clips
    assert [clip.clip_id for clip in plain] == [clip.clip_id for clip in stored]
    places = np.array([0, 3])
    for one, other in zip(plain[:4], stored[:4], strict=True):
        frames = [read_frames(clip.folder / "x", places, clip.frames) for clip in (one, other)]
        assert (frames[0] == frames[1]).all()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("CelebDFv2_real", 0),
        ("DFDCP_Real", 0),
        ("DFDCP_FakeA", 1),
        ("DFDC_Fake", 1),
        ("FF-FH", 1),
        ("DFD_fake", 1),
    ],
)
def test_the_end_of_a_label_is_its_class(tmp_path, name, label):
    draw_frames(tmp_path / "x/a", 1, fake=False, seed=1)
    write_list(tmp_path, {name: {"test": {"a": entry("x/a", label=name)}}})
    assert [clip.label for clip in listing_of(tmp_path).clips] == [label]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"FF-XY": {"test": {"a": entry("x/a")}}}, "FF-XY.* does not say whether it is real or fake"),
        ({"A_real": {"test": {"a": {"frames": []}}}}, "A_real, test, a: expected"),
        ({"A_real": {"test": {"a": {"frames": ["x/a/0.png", "x/b/0.png"]}}}}, "2 folders"),
        ({"A_real": {"test": {"a": {"frames": ["x/a/0.png", "x/a/0.png"]}}}}, "listed twice"),
        ({"A_real": {"test": {"a": {"frames": ["x/a/0.txt"]}}}}, "no PNG or JPEG"),
        ({"A_real": {"test": {"a": entry("../x/a")}}}, "leads outside the data root"),
        ({"A_real": {"test": {"a": entry("x/a", label="A_fake")}}}, "the video's own label is 'A_fake'"),
        ({"A_real": {"test": ["a"]}}, "expected a JSON object"),
        ({"A_real": {"test": {"a": entry("x/a", 2)}}}, "lack listed frames"),
        ({"A_real": {"test": {"a": entry("/home/else/rgb/x/a")}}}, "--path_prefix /home/else/rgb="),
    ],
)
def test_what_is_wrong_in_a_list_is_named(tmp_path, content, message):
    draw_frames(tmp_path / "x/a", 1, fake=False, seed=1)
    write_list(tmp_path, content)
    with pytest.raises(DatasetError, match=message):
        listing_of(tmp_path)


def test_list_and_compression_are_chosen(tmp_path):
    for name in ("c23", "c40"):
        draw_frames(tmp_path / name / "a", 1, fake=False, seed=1)
    levels = {name: {"a": entry(f"{name}/a")} for name in ("c40", "c23")}
    write_list(tmp_path, {"A_real": {"test": levels}}, "one")
    write_list(tmp_path, {"A_real": {"test": {"b": entry("c23/a")}}}, "two")
    with pytest.raises(UsageError, match="--list_name, one of one, two"):
        listing_of(tmp_path)
    with pytest.raises(UsageError, match="there are one, two"):
        listing_of(tmp_path, list_name="three")
    for variant, folder in (("", "c23"), ("c40", "c40")):
        (clip,) = listing_of(tmp_path, list_name="one", variant=variant).clips
        assert clip.folder.parent.name == folder
    with pytest.raises(UsageError, match="no such version"):
        listing_of(tmp_path, list_name="two", variant="c40")
