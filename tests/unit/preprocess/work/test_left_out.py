"""What is not taken is named, and what operating systems leave in folders is nobody's video."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.judging.command import find_videos
from preprocess.work.batch import InputConfig, clip_folders, find_jobs
from preprocess.work.left_out import describe_left_out
from preprocess.work.raw_layouts import read_raw_dataset
from utils.clip.packed import walk
from utils.errors import DatasetError

LITTER = (
    *("._a.mp4", "__MACOSX/a.mp4", "__MACOSX/sub/._a.mp4", ".DS_Store", ".Trash-1000/files/old.mp4"),
    *("$RECYCLE.BIN/S-1-5/$R1.mp4", "@eaDir/a.mp4/b.mp4", "lost+found/c.mp4"),
)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def taken(**flags) -> list[str]:
    return [job.name for job in find_jobs(InputConfig(**flags)).jobs]


def test_other_suffixes_and_unfinished_downloads_are_counted(tmp_path, caplog):
    raw = touch(tmp_path / "raw", "a.mp4", "b.WMV", "c.wmv", "d.flv", "sub/e.mp4.part", "f.MKV.crdownload")
    touch(raw, "notes.txt", "sound.wav", "old/cropped_video.mp4", "g.part")
    assert taken(input=raw, output=tmp_path / "out") == ["a.mp4"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "not taken: 1 .flv, 1 .mkv.crdownload, 1 .mp4.part, 2 .wmv, such as b.WMV" in line


def test_a_folder_of_other_files_only_says_what_it_holds(tmp_path):
    raw = touch(tmp_path / "raw", "a.vob", "b.rmvb")
    with pytest.raises(DatasetError, match=r"no video in it; .*; it holds 1 \.rmvb, 1 \.vob"):
        taken(input=raw, output=tmp_path / "out")
    assert describe_left_out([Path("a.txt"), Path("b.wav"), Path("c.mp3")]) == ""


def test_a_data_set_names_the_videos_that_its_layout_does_not_take(tmp_path, caplog):
    raw = touch(tmp_path / "raw", "meta_data.csv", "RealVideo-RealAudio/a.mp4", "RealVideo-RealAudio/b.webm")
    touch(raw, "extra/c.mp4")
    taken(dataset="fakeavceleb", source=raw, output=tmp_path / "out")
    assert "not taken: 1 .mp4, 1 .webm, such as RealVideo-RealAudio/b.webm" in caplog.text


@pytest.mark.parametrize("suffix", [".MP4", ".Mp4", ".mP4"])
def test_suffixes_are_compared_without_case_in_every_layout(tmp_path, suffix):
    for dataset, files, name in (
        ("fakeavceleb", ("meta_data.csv",), f"RealVideo-RealAudio/a{suffix}"),
        ("ravdess", (), f"Video_Speech_Actor_01/Actor_01/01-01-01-01-01-01-01{suffix}"),
        ("manifest", ("manifest.csv",), f"clips/a{suffix}"),
    ):
        raw = touch(tmp_path / dataset, *files, name)
        assert taken(dataset=dataset, source=raw, output=tmp_path / "out") == [name]
    raw = touch(tmp_path / "some", f"a{suffix}", "b.avi")
    assert taken(input=raw, output=tmp_path / "out", only=("*.mp4",)) == [f"a{suffix}"]


def test_a_side_sound_is_found_whatever_the_case_of_its_suffix(tmp_path):
    raw = touch(tmp_path / "raw", "higher_quality/fadg0/sa1-video-fram1.AVI", "higher_quality/fadg0/sa1.WAV")
    (sound,) = read_raw_dataset("deepfaketimit", raw).sounds.values()
    assert sound == Path("higher_quality/fadg0/sa1.WAV")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_operating_systems_leave_is_no_video_anywhere(tmp_path, caplog, scheme):
    raw = touch(tmp_path / "raw", "a.mp4", *LITTER)
    assert taken(input=f"{scheme}{raw}", output=f"{scheme}{tmp_path}/out") == ["a.mp4"]
    touch(raw, "manifest.csv")
    assert taken(dataset="manifest", source=f"{scheme}{raw}", output=f"{scheme}{tmp_path}/out") == ["a.mp4"]
    assert find_videos(raw, tmp_path / "out") == [raw / "a.mp4"]
    assert "not taken" not in caplog.text
    prepared = touch(tmp_path / "prepared", "a/cropped_video.mp4", "a/._clip.json")
    touch(prepared, "__MACOSX/a/cropped_video.mp4")
    assert clip_folders(prepared) == [prepared / "a"]
    assert [files for folder, _, files in walk(prepared) if folder.name == "a"] == [["cropped_video.mp4"]]


def test_judging_a_folder_names_what_it_does_not_take(tmp_path, caplog):
    raw = touch(tmp_path / "raw", "a.mp4", "b.wmv", "c.mp4.part")
    (raw / "folder.mp4").mkdir()
    assert find_videos(raw, tmp_path / "out") == [raw / "a.mp4"]
    assert "not taken: 1 .mp4.part, 1 .wmv" in caplog.text
