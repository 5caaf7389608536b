"""Leaks in published lists, without any media."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from loaders.audit.ids import SUMS, main
from loaders.datasets.fakeavceleb import list_fakeavceleb
from loaders.listing import MetadataConfig
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split, read_split
from loaders.splits.lists import read_list
from loaders.splits.overlap import Named, named_by_clip, named_by_name
from tests.clip_factory import make_clip, write_fakeavceleb_tree
from utils.errors import DatasetError, UsageError


def lists(folder, suffix=".csv", **parts):
    """A list for each part, as AVH-Align and SSR-DFD publish them."""
    paths = []
    for part, names in parts.items():
        paths.append(folder / f"{part}_labels{suffix}")
        paths[-1].write_text("\n".join(["path,label", *(f"{name}.mp4,1" for name in names)]) + "\n")
    return paths


def audited(paths, out, *flags, dataset="av_deepfake1m", status=1):
    words = ["--ids_only", *map(str, paths), "--dataset", dataset, "--output_dir", str(out), *map(str, flags)]
    assert main(words) == status
    return json.loads((out / "ids_audit.json").read_text())


def shared(report, kind, one="train", other="test"):
    rows = report["overlaps"][kind]["shared"]
    return next(row["number"] for row in rows if row["parts"] == [one, other])


def test_each_planted_overlap_is_counted_exactly(tmp_path):
    """40 speakers to train on, 20 to test: 7 in both, of these 4 with a video, of these 2 with a clip."""
    train = [f"id{i:05d}/v{k}/0000{c}/real" for i in range(40) for k in range(2) for c in range(2)]
    test = []
    for i in range(33, 53):
        video = "v0" if i in (33, 34, 35, 36) else "w0"
        clip = "00000" if i in (33, 34) else "00009"
        test += [f"id{i:05d}/{video}/{clip}/{kind}" for kind in ("real", "fake_video_fake_audio")]
    test.append("id00060/w0/00009/real")
    report = audited(lists(tmp_path, train=train, test=test), tmp_path / "out")
    numbers = {kind: row["numbers"] for kind, row in report["overlaps"].items()}
    assert numbers["persons"] == {"train": 40, "test": 21}
    assert numbers["videos"] == {"train": 80, "test": 21}
    assert numbers["files"] == {"train": 160, "test": 41}
    found = {kind: shared(report, kind) for kind in ("persons", "videos", "families", "files")}
    assert found == {"persons": 7, "videos": 4, "families": 2, "files": 2}
    assert report["overlaps"]["persons"]["shared"][0]["examples"][0] == "id00033"


def test_lists_that_share_nothing_pass(tmp_path):
    parts = {part: [f"id{i:05d}/v/1/real" for i in range(k, k + 5)] for k, part in ((0, "train"), (9, "val"))}
    report = audited(lists(tmp_path, **parts), tmp_path / "out", status=0)
    assert shared(report, "persons", "train", "val") == 0


def test_donors_are_found_where_persons_on_screen_are_disjoint(tmp_path):
    """FakeAVCeleb's names, in the spelling of SSR-DFD."""

    def fake(person, donor):
        return f"FakeVideo-FakeAudio/Asian_East/men/id{person:05d}/00109_10_id{donor:05d}_wavtolip"

    paths = lists(tmp_path, train=[fake(1, 2), fake(3, 4)], test=[fake(2, 9), fake(5, 4)])
    report = audited(paths, tmp_path / "out", dataset="fakeavceleb")
    assert (shared(report, "persons"), shared(report, "donors")) == (0, 2)
    assert "reason" in report["overlaps"]["videos"]


@pytest.mark.parametrize(
    ("dataset", "name", "known"),
    [
        ("fakeavceleb", "RealVideo-FakeAudio/African/men/id00076/00109_fake.mp4",
         ("id00076", (), "", "id00076/00109")),
        ("fakeavceleb", "FakeVideo-FakeAudio/African/men/id01179/00160_id02005_7_E_faceswap_id01528_wavtolip",
         ("id01179", ("id01528", "id02005"), "", "id01179/00160")),
        ("av_deepfake1m", "train/id00168/7RBk8ybLJ5E/00088/real.mp4",
         ("id00168", (), "id00168/7RBk8ybLJ5E", "id00168/7RBk8ybLJ5E/00088")),
        ("celebdf", "Celeb-synthesis/id0_id12_0003.mp4", ("id0", ("id12",), "", "id0_0003")),
        ("celebdf", "YouTube-real/00170.mp4", ("", (), "", "")),
        ("ffpp", "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4", ("000", ("003",), "000", "000")),
        ("kodf", "x/1.mp4", ("", (), "", "")),
    ],
)  # fmt: skip
def test_what_names_tell(dataset, name, known):
    found = named_by_name(dataset, name)
    assert (found.person, found.donors, found.video, found.family) == known


def test_what_metadata_tell():
    about = {
        "dataset": "lavdf",
        "identity": "lavdf/train/1",
        "pair_key": "lavdf/train/1",
        "target_id": "lavdf/train/1",
    }
    clip = make_clip(Path("x"), clip_id="lavdf/train/2", identity_is="family", **about)
    assert named_by_clip(clip) == Named("train/2", family="train/1")
    clip = make_clip(Path("x"), clip_id="test/2", source_ids=("test/id9",))
    assert named_by_clip(clip) == Named("2", "id1", ("id9",))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fakeavceleb_tree(tmp_path_factory.mktemp("lists") / "data", num_identities=40, clips=False)


def leaky_lists(root, folder):
    """Parts of half of the set in which every person is on both sides."""
    names = [
        clip.clip_id.removeprefix("fakeavceleb/") for clip in list_fakeavceleb(root, MetadataConfig()).clips
    ]
    return lists(folder, train=names[0:80:2], val=names[80:120], test=names[1:80:2])


def test_a_disjoint_alternative_is_written_with_checksums(root, tmp_path):
    paths, folder = leaky_lists(root, tmp_path), tmp_path / "disjoint"
    flags = ("--write_disjoint", folder, "--data_root", root, "--split_seed", 3, "--val_fraction", 0.2)
    report = audited(paths, tmp_path / "out", *flags, dataset="fakeavceleb")
    assert shared(report, "persons") == 20
    drawn = report["disjoint"]
    assert all(
        row["number"] == 0
        for kind in ("persons", "donors", "files")
        for row in drawn["overlaps"][kind]["shared"]
    )
    sums = dict(line.split("  ")[::-1] for line in (folder / SUMS).read_text().splitlines())
    assert sums.keys() == {"fakeavceleb.csv", "train.txt", "val.txt", "test.txt"}
    assert all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in sums.items()
    )
    written = [row.name for part in ("train", "val", "test") for row in read_list(folder / f"{part}.txt")]
    listed = [row.name for path in paths for row in read_list(path)]
    assert set(written) <= set(listed)
    assert len(written) == len(listed) - drawn["num_left_out"]
    again = tmp_path / "again"
    audited(paths, tmp_path / "out", *flags[2:], "--write_disjoint", again, dataset="fakeavceleb")
    assert (again / SUMS).read_bytes() == (folder / SUMS).read_bytes()
    audited(
        paths,
        tmp_path / "out",
        *flags[2:4],
        "--split_seed",
        4,
        "--write_disjoint",
        again,
        dataset="fakeavceleb",
    )
    assert (again / SUMS).read_bytes() != (folder / SUMS).read_bytes()
    # training takes the split file as it is, with the clips of no list in no part
    listing = list_fakeavceleb(root, MetadataConfig())
    split = make_split(listing, SplitConfig(split_file=(folder / "fakeavceleb.csv",)))
    assert len(split.split_of) == len(written)
    assert split == read_split(folder / "fakeavceleb.csv")


def test_a_split_of_ours_is_a_list_by_its_columns(tmp_path):
    """The columns say who is seen, in a data set whose names do not."""
    path = tmp_path / "split.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("clip_id", "identity", "source_ids", "split"))
        writer.writerows([("kodf/a", "kodf/p1", "", "train"), ("kodf/b", "kodf/p2", "kodf/p1", "test")])
    report = audited([path], tmp_path / "out", dataset="kodf")
    assert (shared(report, "persons"), shared(report, "donors")) == (0, 1)


def test_a_data_sets_own_split_is_audited_by_its_folder(tmp_path):
    root = tmp_path / "celeb"
    root.mkdir()
    rows = [
        ("a", "train", "p1", ""),
        ("b", "test", "p1", ""),
        ("c", "test", "p3", "p2"),
        ("d", "train", "p2", ""),
    ]
    lines = [f"{name},0,{person},{donor},{part}" for name, part, person, donor in rows]
    (root / "manifest.csv").write_text("\n".join(["path,label,identity,source_id,split", *lines]) + "\n")
    report = audited([root], tmp_path / "out", dataset="manifest")
    assert (shared(report, "persons"), shared(report, "donors")) == (1, 2)


def test_names_without_the_folder_of_their_part_are_looked_up(tmp_path):
    """AV-Deepfake1M's: a published test list is of its validation part, whose clips may be in train, too."""
    for part, speakers in (("train", (1, 2)), ("val", (2, 3))):
        about = {
            "original": None,
            "modify_type": "real",
            "audio_fake_segments": [],
            "visual_fake_segments": [],
        }
        entries = [{"file": f"id{n:05d}/v/1/real.mp4", **about} for n in speakers]
        (tmp_path / f"{part}_metadata.json").write_text(json.dumps(entries))
    paths = lists(tmp_path, train=["id00001/v/1/real"], test=["id00002/v/1/real", "id00003/v/1/real"])
    flags = ("--data_root", tmp_path)
    report = audited(paths, tmp_path / "out", *flags, status=0)
    assert shared(report, "persons") == 0
    assert report["parts"]["test"]["num_clips"] == 2


def test_what_cannot_be_compared_is_refused(root, tmp_path):
    paths = lists(tmp_path, train=["x/1", "x/2"], test=["x/3"])
    with pytest.raises(DatasetError, match="nothing tells who is seen"):
        audited(paths, tmp_path / "out", dataset="kodf")
    with pytest.raises(DatasetError, match="one part only"):
        audited(paths[:1], tmp_path / "out")
    with pytest.raises(DatasetError, match="are not in fakeavceleb's metadata"):
        audited(paths, tmp_path / "out", "--data_root", root, dataset="fakeavceleb")
    with pytest.raises(DatasetError, match="names no split"):
        audited([root], tmp_path / "out", dataset="fakeavceleb")
    leaky = leaky_lists(root, tmp_path)
    with pytest.raises(UsageError, match="draws by person"):
        audited(
            leaky,
            tmp_path / "out",
            "--write_disjoint",
            tmp_path / "d",
            "--hold_out_method",
            "rtvc",
            dataset="fakeavceleb",
        )
