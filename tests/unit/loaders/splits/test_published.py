"""Protocols that are published as lists."""

import json
from collections import Counter

import pytest

from loaders.datasets.av_deepfake1m import list_av_deepfake1m
from loaders.datasets.celebdf import list_celebdf
from loaders.datasets.fakeavceleb import list_fakeavceleb
from loaders.datasets.mavos_dd import list_mavos_dd
from loaders.listing import MetadataConfig
from loaders.splits import published
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split, read_split, split_checksum, split_of_run, write_split
from loaders.splits.published import METADATA_PROTOCOLS, ListProtocol, protocol_results
from tests.clip_factory import write_fakeavceleb_tree
from tests.trees.celebdf import write_celebdf_pp
from tests.trees.mavos_dd import write_mavos_dd
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError, UsageError
from utils.files import names_sha256


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    root = write_fakeavceleb_tree(tmp_path_factory.mktemp("lists") / "data", num_identities=10, clips=False)
    return list_fakeavceleb(root, MetadataConfig())


def write_lists(folder, **parts):
    folder.mkdir(exist_ok=True)
    for part, names in parts.items():
        lines = [
            f"{name.removeprefix('fakeavceleb/').replace(' (European)', '_European')}.mp4,0" for name in names
        ]
        (folder / f"{part}_labels.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return folder


def parts_of(listing):
    """Persons 0-6, 7 and 8-9, but one clip of person 0 is also in the test list."""
    ids = [clip.clip_id for clip in listing.clips]
    return {"train": ids[:28], "val": ids[28:31], "test": [*ids[32:], ids[1]]}


def asked(folder, protocol="fakeavceleb_avh"):
    return SplitConfig(protocol=protocol, protocol_files=folder)


def test_a_protocol_is_its_lists_and_says_what_they_share(listing, tmp_path):
    parts = parts_of(listing)
    split = make_split(listing, asked(write_lists(tmp_path / "lists", **parts)))
    expected = dict.fromkeys(parts["train"], "train") | dict.fromkeys(parts["val"], "val")
    assert split.split_of == expected | dict.fromkeys(parts["test"], "test")
    assert set(split.dropped.values()) == {"protocol fakeavceleb_avh: in none of its lists"}
    assert len(split.dropped) == 1
    results = protocol_results(listing, split.split_of, split.published, tells_overlaps=True)
    assert results["name"] == "fakeavceleb_avh"
    shared = {tuple(row["parts"]): row["number"] for row in results["overlaps"]["persons"]["shared"]}
    assert shared == {("train", "val"): 0, ("train", "test"): 1, ("val", "test"): 0}
    donors = {tuple(row["parts"]): row["number"] for row in results["overlaps"]["donors"]["shared"]}
    assert donors == {("train", "val"): 1, ("train", "test"): 1, ("val", "test"): 1}  # the next one's face
    said = results["said"]
    assert "not as published: train has 28 clips, published are 13380" in said[0]
    assert results["ids_sha256"] in said[0]
    assert any("persons on screen: 1 are in both, of 7 of train and 3 of test" in line for line in said)
    json.dumps(results)
    others = protocol_results(listing, split.split_of, split.published, tells_overlaps=False)
    assert others == results | {"overlaps": None, "said": said[:1]}  # of a detector of another split


def test_the_checksum_tells_other_lists_apart_but_not_their_order(listing, tmp_path):
    parts = parts_of(listing)
    first = make_split(listing, asked(write_lists(tmp_path / "a", **parts))).published
    reverse = {part: names[::-1] for part, names in parts.items()}
    assert make_split(listing, asked(write_lists(tmp_path / "b", **reverse))).published == first
    parts["val"], parts["test"] = [*parts["val"], parts["test"][-1]], parts["test"][:-1]
    assert (
        make_split(listing, asked(write_lists(tmp_path / "c", **parts))).published.ids_sha256
        != first.ids_sha256
    )


def test_figures_that_fit_are_said_to_fit(listing, tmp_path, monkeypatch):
    parts = parts_of(listing)
    figures = {("train", "clips"): 28, ("test", "persons"): 3, ("test", "RealVideo-FakeAudio"): 3}
    protocol = ListProtocol(dataset="fakeavceleb", figures=figures)
    monkeypatch.setitem(published.LIST_PROTOCOLS, "fakeavceleb_avh", protocol)
    split = make_split(listing, asked(write_lists(tmp_path / "lists", **parts)))
    assert split.published.misfits == ""
    results = protocol_results(listing, split.split_of, split.published, tells_overlaps=True)
    assert "figures as published" in results["said"][0]


def test_the_split_file_keeps_the_protocol(listing, tmp_path):
    split = make_split(listing, asked(write_lists(tmp_path / "lists", **parts_of(listing))))
    write_split(tmp_path, split)
    assert read_split(tmp_path / "fakeavceleb.csv") == split
    mrdf = make_split(listing, SplitConfig(protocol="mrdf5", fold="1/5"))
    assert (mrdf.published.name, mrdf.published.misfits) == ("mrdf5", "its folds are drawn by --split_seed")
    drawn = make_split(listing, SplitConfig())
    assert drawn.published is None
    shared = protocol_results(listing, drawn.split_of, None, tells_overlaps=True)
    assert shared["name"] is None
    assert shared["overlaps"]["persons"]["shared"][0]["number"] == 0
    said = shared["said"]  # of what is not shared there is nothing to say
    assert said
    assert all("as donors" in line for line in said)


def test_av_deepfake1m_tests_on_its_official_validation(tmp_path):
    """Lists leave out train/ and val/, and one clip of a name is in either."""
    for part, speakers in (("train", (1, 2)), ("val", (2, 3))):
        entries = [
            {"file": f"id{n:05d}/v/1/{name}.mp4", "original": original and f"id{n:05d}/v/1/{original}.mp4",
             "modify_type": kind, "audio_fake_segments": [],
             "visual_fake_segments": [[0, 1]] * (kind != "real")}
            for n in speakers
            for name, kind, original in (
                ("real", "real", None), ("fake_video_real_audio", "visual_modified", "real")
            )
        ]  # fmt: skip
        (tmp_path / f"{part}_metadata.json").write_text(json.dumps(entries))
    listing = list_av_deepfake1m(tmp_path, MetadataConfig())
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train_labels.csv").write_text("path,label\nid00001/v/1/real.mp4,0\nid00002/v/1/real.mp4,0\n")
    (lists / "test_labels.csv").write_text(
        "path,label\nid00002/v/1/real.mp4,0\nid00003/v/1/fake_video_real_audio.mp4,1\n"
    )
    split = make_split(listing, asked(lists, "av1m_ssr"))
    assert split.split_of == {
        "av_deepfake1m/train/id00001/v/1/real": "train",
        "av_deepfake1m/train/id00002/v/1/real": "train",
        "av_deepfake1m/val/id00002/v/1/real": "test",
        "av_deepfake1m/val/id00003/v/1/fake_video_real_audio": "test",
    }
    found = protocol_results(listing, split.split_of, split.published, tells_overlaps=True)["overlaps"]
    assert [found[kind]["shared"][0]["number"] for kind in ("persons", "videos", "families")] == [1, 1, 1]


def test_lists_that_do_not_fit_are_refused(listing, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        make_split(listing, asked(tmp_path / "nowhere"))
    folder = write_lists(tmp_path / "lists", train=["fakeavceleb/x/y"])
    with pytest.raises(DatasetError, match="no list whose name has the word test; it holds train_labels.csv"):
        make_split(listing, asked(folder))
    write_lists(folder, test=["fakeavceleb/x/y"])
    with pytest.raises(DatasetError, match="train_labels.csv, line 2: x/y.mp4 is not a clip of fakeavceleb"):
        make_split(listing, asked(folder))
    (folder / "the_test.txt").write_text("a\n")
    with pytest.raises(DatasetError, match="are both lists of test"):
        make_split(listing, asked(folder))
    with pytest.raises(UsageError, match="av1m_avh is for av_deepfake1m, not for fakeavceleb"):
        make_split(listing, asked(folder, "av1m_avh"))
    for flags in ({}, {"protocol_files": folder, "fold": "1/5"}):
        with pytest.raises(ValueError, match="needs --protocol_files, and has no --fold"):
            SplitConfig(protocol="fakeavceleb_avh", **flags)


@pytest.fixture(scope="module")
def mavos(tmp_path_factory):
    raw, root = (tmp_path_factory.mktemp(name) for name in ("raw", "prepared"))
    return list_mavos_dd(prepare_empty(write_mavos_dd(raw, EmptyFiles()), root), MetadataConfig())


MAVOS_TESTS = {  # the tree has no real or fake with a new model and a new language but Roop's
    "mavos_in": {"real": 1, "fake": 2},
    "mavos_model": {"real": 1, "fake": 2, "fake_open_model": 1},
    "mavos_language": {"real": 1, "fake": 2, "real_open_language": 2, "fake_open_language": 1},
    "mavos_full": {
        "real": 1, "fake": 2, "fake_open_model": 1, "real_open_language": 2, "fake_open_language": 1,
        "fake_open_both": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MAVOS_TESTS)
def test_the_tests_of_mavos_follow_from_its_table(mavos, name):
    split = make_split(mavos, SplitConfig(protocol=name))
    assert Counter(clip.category for clip in split.select(mavos.clips, "test")) == MAVOS_TESTS[name]
    assert Counter(split.split_of.values()) == {
        "train": 7, "val": 4, "test": sum(MAVOS_TESTS[name].values())
    }  # fmt: skip
    assert len(split.dropped) == 8 - sum(MAVOS_TESTS[name].values())
    assert all("its test has no" in reason for reason in split.dropped.values())
    ids = (f"{clip.split} {clip.clip_id}" for clip in mavos.clips if clip.clip_id in split.split_of)
    assert split.published.ids_sha256 == names_sha256(ids)
    said = protocol_results(mavos, split.split_of, split.published, tells_overlaps=True)["said"]
    assert said[0] == (
        f"protocol {name}, no published figures are known; ids sha256 {split.published.ids_sha256}, of the "
        "published ids no checksum is known"
    )


def test_all_tests_of_mavos_are_open_to_one_run(mavos, tmp_path):
    """A run with the official split is tested by each protocol, and not on what it has seen."""
    trained = make_split(mavos, SplitConfig())
    write_split(tmp_path / "splits", trained)
    run = tmp_path / "best.pt", {"mavos_dd": split_checksum(trained)}, ("mavos_dd",)
    split = split_of_run(mavos, SplitConfig(protocol="mavos_in"), *run, all_clips=False)
    assert split == make_split(mavos, SplitConfig(protocol="mavos_in"))
    drawn = make_split(mavos, SplitConfig(split_source="identity"))
    write_split(tmp_path / "splits", drawn)
    with pytest.raises(UsageError, match="is not the split"):
        split_of_run(mavos, SplitConfig(protocol="mavos_in"), *run, all_clips=False)
    run = tmp_path / "best.pt", {"mavos_dd": split_checksum(drawn)}, ("mavos_dd",)
    with pytest.raises(UsageError, match=r"of its 3 test clips were trained on, or validated with"):
        split_of_run(mavos, SplitConfig(protocol="mavos_in"), *run, all_clips=False)


def test_the_tests_of_celebdf_pp_are_its_official_part(tmp_path):
    tree = write_celebdf_pp(tmp_path / "raw", EmptyFiles())
    listing = list_celebdf(prepare_empty(tree, tmp_path / "root"), MetadataConfig())
    official = {clip.clip_id for clip in listing.clips if clip.split == "test"}
    names = [name for name in METADATA_PROTOCOLS if name.startswith("celebdfpp_")]
    splits = {name: make_split(listing, SplitConfig(protocol=name)) for name in names}
    assert len(splits) == 3
    for name, split in splits.items():
        tested = split.select(listing.clips, "test")
        assert {clip.clip_id for clip in tested} == official
        assert Counter(clip.category for clip in tested) == {
            "Celeb-real": 1, "FaceSwap": 2, "FaceReenact": 1, "TalkingFace": 2
        }  # fmt: skip
        wanted = {"train", "val", "test"} if name != "celebdfpp_gfd" else {"test"}
        assert set(split.split_of.values()) == wanted
        assert "test has 6 clips, published are 5278" in split.published.misfits
        assert "test has 2 FaceSwap, published are 1600" in split.published.misfits
    other = make_split(listing, SplitConfig(protocol="celebdfpp_gf", val_fraction=0.4, split_seed=7))
    assert other.published.ids_sha256 == splits["celebdfpp_gf"].published.ids_sha256
    assert set(splits["celebdfpp_gfd"].dropped.values()) == {
        "protocol celebdfpp_gfd: another data set is trained on"
    }


def test_protocols_by_metadata_need_no_files(listing, tmp_path):
    with pytest.raises(UsageError, match="mavos_in is for mavos_dd, not for fakeavceleb"):
        make_split(listing, SplitConfig(protocol="mavos_in"))
    with pytest.raises(ValueError, match="needs no --protocol_files"):
        SplitConfig(protocol="mavos_in", protocol_files=tmp_path)
    assert "val_fraction" in SplitConfig(protocol="mavos_in").unused()
    assert "val_fraction" not in SplitConfig(protocol="celebdfpp_gf").unused()
