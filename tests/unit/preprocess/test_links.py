"""Links in a tree: none leads a command in a circle, out of the tree, or past a clip without a word."""

from __future__ import annotations

import shutil
import signal

import pytest

from loaders import DATASETS
from loaders.listing import ListingConfig
from preprocess import pack, prepare, verify
from tests.clip_factory import write_clip_folder
from utils.clip.packed import Pack
from utils.errors import ClipError, DatasetError, FrameworkError, UsageError


@pytest.fixture
def prepared(tmp_path):
    """Two clips of a manifest data set, and a third one on another disk."""
    for name in ("real/a", "fake/b"):
        write_clip_folder(tmp_path / "prepared" / name, num_frames=12)
    write_clip_folder(tmp_path / "elsewhere/clips/c", num_frames=12)
    (tmp_path / "elsewhere/secret.txt").write_text("not to be given away")
    return tmp_path / "prepared"


@pytest.fixture(autouse=True)
def no_endless_walk():
    """A walk without an end fails the test, long before it fills the memory."""

    def stop(*_: object) -> None:
        raise TimeoutError("the walk does not end")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def run(command, monkeypatch, *flags: object) -> int:
    monkeypatch.setattr("sys.argv", [command.__name__, *map(str, flags), "--num_workers", "1"])
    return command.main()


@pytest.mark.parametrize("target", ["elsewhere", "elsewhere/secret.txt"])
def test_pack_takes_nothing_from_outside_unless_asked_to(prepared, tmp_path, monkeypatch, target):
    (prepared / "notes").symlink_to(tmp_path / target)
    flags = ("--data_root", prepared, "--output", tmp_path / "pack")
    with pytest.raises(ClipError, match="notes: a link leads out of .*--allow_links"):
        run(pack, monkeypatch, *flags)
    assert not list((tmp_path / "pack").rglob("*secret*")) + list((tmp_path / "pack").rglob("notes"))
    assert run(pack, monkeypatch, *flags, "--allow_links") == 0
    copy = tmp_path / "pack/notes" / ("secret.txt" if target == "elsewhere" else "")
    assert copy.read_text() == "not to be given away"


def test_pack_takes_no_clip_from_outside_unless_asked_to(prepared, tmp_path, monkeypatch):
    crop = prepared / "real/a/cropped_video.mp4"
    shutil.move(crop, tmp_path / "elsewhere/crop.mp4")
    crop.symlink_to(tmp_path / "elsewhere/crop.mp4")
    flags = ("--data_root", prepared, "--output", tmp_path / "pack")
    with pytest.raises(ClipError, match=r"a/cropped_video.mp4: a link leads out of"):
        run(pack, monkeypatch, *flags)
    assert run(pack, monkeypatch, *flags, "--allow_links") == 0


@pytest.mark.parametrize("command", [pack, verify])
def test_a_link_to_a_folder_above_ends_the_command_with_its_name(prepared, tmp_path, monkeypatch, command):
    (prepared / "real/loop").symlink_to(prepared)
    output = tmp_path / ("pack" if command is pack else "bad.csv")
    with pytest.raises(DatasetError, match="real/loop"):
        run(command, monkeypatch, "--data_root", prepared, "--output", output)


@pytest.mark.parametrize("names", [["loop"], ["loop", "again"]])
@pytest.mark.parametrize("kind", ["dataset", "dataset with --allow_links", "input with --allow_links"])
def test_a_raw_tree_with_links_to_itself_is_an_error_that_names_one(tmp_path, monkeypatch, names, kind):
    raw = tmp_path / "raw"
    (raw / "RealVideo-RealAudio").mkdir(parents=True)
    for name in ("RealVideo-RealAudio/a.mp4", "meta_data.csv"):
        (raw / name).write_text("no video")
    for name in names:
        (raw / "RealVideo-RealAudio" / name).symlink_to(raw / "RealVideo-RealAudio")
    flags = ["--input", raw] if kind.startswith("input") else ["--dataset", "fakeavceleb", "--source", raw]
    flags += ["--allow_links"] if kind.endswith("links") else []
    with pytest.raises(FrameworkError, match="|".join(f"RealAudio/{name}" for name in names)):
        run(prepare, monkeypatch, *flags, "--output", tmp_path / "out")


def test_a_raw_tree_at_a_url_with_links_to_itself_is_listed_once(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.mp4").write_text("no video")
    for name in ("loop", "again"):
        (tmp_path / "raw" / name).symlink_to(tmp_path / "raw")
    assert run(prepare, monkeypatch, "--input", f"file://{tmp_path}/raw", "--output", tmp_path / "out") == 1
    assert len((tmp_path / "out/failures.csv").read_text().splitlines()) == 1 + 1


def test_a_link_at_a_url_leads_out_of_it_only_if_asked_to(tmp_path, monkeypatch):
    for name in ("raw/a.mp4", "elsewhere/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("no video")
    (tmp_path / "raw/b.mp4").symlink_to(tmp_path / "elsewhere/b.mp4")
    flags = ("--input", f"file://{tmp_path}/raw", "--output", tmp_path / "out")
    for more, reason in ((), "a link leads out of"), (("--allow_links",), "cannot be decoded"):
        assert run(prepare, monkeypatch, *flags, *more) == 1
        lines = (tmp_path / "out/failures.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["path", "a.mp4", "b.mp4"]
        assert reason in lines[2]


def test_a_linked_folder_of_input_is_taken_if_asked_to_and_named_if_not(tmp_path, monkeypatch, caplog):
    for name in ("raw/a.mp4", "elsewhere/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("no video")
    (tmp_path / "raw/more").symlink_to(tmp_path / "elsewhere")
    flags = ("--input", tmp_path / "raw", "--output", tmp_path / "out")
    for more, names in ((), ["a.mp4"]), (("--allow_links",), ["a.mp4", "more/b.mp4"]):
        assert run(prepare, monkeypatch, *flags, *more) == 1
        lines = (tmp_path / "out/failures.csv").read_text().splitlines()[1:]
        assert [line.split(",")[0] for line in lines] == names
    assert caplog.text.count(f"{tmp_path / 'raw/more'}: is a link to a folder") == 1


def test_linked_clips_are_verified_and_packed_as_training_finds_them(prepared, tmp_path, monkeypatch, caplog):
    (prepared / "fake/more").symlink_to(tmp_path / "elsewhere/clips")
    (prepared / "fake/one").symlink_to(tmp_path / "elsewhere/clips/c")
    found = DATASETS["manifest"](prepared, ListingConfig(allow_links=True)).clips
    names = sorted(clip.folder.relative_to(prepared).as_posix() for clip in found)
    assert names == ["fake/b", "fake/more/c", "fake/one", "real/a"]
    with caplog.at_level("INFO"):
        assert run(verify, monkeypatch, "--data_root", prepared) == 0
        assert "4 clips checked, 0 bad" in caplog.text
        (tmp_path / "elsewhere/clips/c/landmarks.npy").write_bytes(b"damaged")
        assert run(verify, monkeypatch, "--data_root", prepared) == 1
        assert "4 clips checked, 2 bad" in caplog.text
    shutil.copy(prepared / "real/a/landmarks.npy", tmp_path / "elsewhere/clips/c")
    target = tmp_path / "pack"
    assert run(pack, monkeypatch, "--data_root", prepared, "--output", target, "--allow_links") == 0
    ours = DATASETS["manifest"](target, ListingConfig()).clips
    assert sorted(clip.folder.relative_to(target).as_posix() for clip in ours) == names
    assert not list(target.rglob("*.mp4"))  # no clip is copied as metadata


@pytest.mark.parametrize("frames", ["video", "rgb"])
def test_verify_checks_the_clips_of_a_pack(prepared, tmp_path, monkeypatch, caplog, frames):
    flags = ("--data_root", prepared, "--output", tmp_path / "pack", "--frames", frames)
    assert run(pack, monkeypatch, *flags) == 0
    with caplog.at_level("INFO"):
        for deep in ([], ["--deep"]):
            assert run(verify, monkeypatch, "--data_root", tmp_path / "pack", *deep) == 0
            assert "2 clips checked, 0 bad" in caplog.text
            caplog.clear()
        members = Pack(tmp_path / "pack").members("real/a")
        with (tmp_path / "pack/shard-000000.tar").open("r+b") as shard:
            shard.seek(members["landmarks.npy"].start)
            shard.write(b"damaged")
        assert run(verify, monkeypatch, "--data_root", tmp_path / "pack") == 1
        assert "real/a/landmarks.npy: " in caplog.text
        assert "2 clips checked, 1 bad" in caplog.text


def test_a_pack_is_not_packed_again(prepared, tmp_path, monkeypatch):
    assert run(pack, monkeypatch, "--data_root", prepared, "--output", tmp_path / "pack") == 0
    with pytest.raises(UsageError, match="is a pack already"):
        run(pack, monkeypatch, "--data_root", tmp_path / "pack", "--output", tmp_path / "other")
