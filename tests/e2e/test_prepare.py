"""The preprocessing commands as a user calls them, MediaPipe and all, on videos of a real face."""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from preprocess.clip.make import ClipConfig, prepare_clip
from tests.clip_factory import write_metadata
from tests.commands import run_command
from tests.kill import tree
from tests.moving_face import clicks, moving_face, turn_by_metadata, write_video
from utils.clip.files import read_clip_info
from utils.errors import ClipError
from utils.media.times import read_video_times
from utils.media.video import iterate_frames

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *flags: object) -> tuple[int, str]:
    """(exit status, stderr) of a command."""
    result = run_command("-m", f"preprocess.{name}", *flags)
    return result.returncode, result.stderr


def talking(path: Path, num_frames: int = 20, **options) -> Path:
    """A video of a moving face with sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = moving_face(num_frames, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120))
    return write_video(path, frames, **{"waveform": clicks(num_frames / 25, at_s=[0.2]), **options})


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Three good videos and four that cannot be used."""
    root = tmp_path_factory.mktemp("raw")
    talking(root / "a" / "one.mp4")
    talking(root / "a" / "two.mp4", 30)
    talking(root / "b" / "one.mp4", 25)
    talking(root / "silent.mp4", waveform=None)
    write_video(root / "nobody.mp4", moving_face(10, path=lambda i: None), waveform=clicks(0.4))
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("this is not a video\n" * 50)
    whole = (root / "a" / "one.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory) -> tuple[Path, int, str]:
    """(output, exit status, stderr) of an unbroken run."""
    output = tmp_path_factory.mktemp("prepared") / "out"
    return output, *run("prepare", "--input", raw, "--output", output, "--num_workers", 2)


def test_prepare_makes_good_clips_and_lists_the_bad(prepared):
    output, status, errors = prepared
    assert status == 1
    assert "3 prepared, 0 already there, 5 failed" in errors.splitlines()[-1]
    assert "XNNPACK" not in errors  # the native libraries' noise stays out of the progress bar
    assert "Traceback" not in errors
    with (output / "failures.csv").open(newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert sorted(reasons) == ["cut.mp4", "empty.mp4", "nobody.mp4", "silent.mp4", "text.mp4"]
    assert "cut off" in reasons["cut.mp4"]
    assert "0 bytes" in reasons["empty.mp4"]
    assert "no face" in reasons["nobody.mp4"]
    assert "has no sound" in reasons["silent.mp4"]
    assert "not a video" in reasons["text.mp4"]
    assert sorted(path.name for path in output.iterdir()) == ["a", "b", "failures.csv"]
    for name, num_frames in (("a/one", 20), ("a/two", 30), ("b/one", 25)):
        folder = output / name
        info = read_clip_info(folder)
        assert info.source == f"{name}.mp4"
        assert len(list(iterate_frames(folder / "cropped_video.mp4"))) == num_frames == info.num_frames
        landmarks = np.load(folder / "landmarks.npy")
        assert (landmarks.shape, landmarks.dtype) == ((num_frames, 478, 2), np.float32)
        assert np.isfinite(landmarks).all()
        sound = soundfile.info(folder / "cropped_video.wav")
        assert (sound.frames, sound.samplerate, sound.channels) == (num_frames * 48_000 // 25, 48_000, 1)
        assert sound.subtype == "PCM_16"


def test_verify_accepts_what_prepare_made_and_finds_a_changed_byte(prepared, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(prepared[0], output)
    assert run("verify", "--data_root", output, "--deep")[0] == 0
    content = bytearray((output / "a/one/landmarks.npy").read_bytes())
    content[-1] ^= 1
    (output / "a/one/landmarks.npy").write_bytes(content)
    status, _ = run("verify", "--data_root", output, "--output", tmp_path / "bad.csv")
    assert status == 1
    ((_, *header), (path, reason)) = csv.reader((tmp_path / "bad.csv").open(newline=""))
    assert header == ["reason"]
    assert path == "a/one/landmarks.npy"
    assert "checksum" in reason


def test_a_second_run_redoes_only_what_is_missing_damaged_or_stale(raw, prepared, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(prepared[0], output)
    before = tree(output)
    (output / "a/one/clip.json").unlink()
    (output / "b/one/cropped_video.wav").write_bytes(b"damaged")
    status, errors = run("prepare", "--input", raw, "--output", output, "--num_workers", 2)
    assert status == 1
    assert "2 prepared, 1 already there, 5 failed" in errors
    assert tree(output) == before
    # a flag that shapes the files makes them stale, one that judges them does not
    (good := tmp_path / "good").mkdir()
    shutil.copytree(raw / "a", good / "a")
    flags = ("--input", good, "--output", output, "--num_workers", 1)
    assert "0 prepared, 2 already there" in run("prepare", *flags, "--min_face_fraction", 0.9)[1]
    assert "2 prepared, 0 already there" in run("prepare", *flags, "--sample_rate_hz", 16000)[1]
    assert soundfile.info(output / "a/one/cropped_video.wav").samplerate == 16_000
    assert not (output / "failures.csv").exists()  # nothing failed this time


def test_the_single_steps_make_the_same_crop_and_sound(raw, prepared, tmp_path):
    output = tmp_path / "steps"
    for step, flags in (
        ("crop_faces", ("--input", raw / "a" / "two.mp4", "--output", output)),
        ("extract_landmarks", ("--data_root", output)),
        ("extract_audio", ("--input", raw / "a" / "two.mp4", "--output", output)),
        ("verify", ("--data_root", output, "--deep")),
    ):
        status, errors = run(step, *flags)
        assert status == 0, errors
    assert sorted(path.name for path in output.iterdir()) == ["two"]
    made, whole = output / "two", prepared[0] / "a" / "two"
    for name in ("cropped_video.mp4", "cropped_video.wav"):
        assert (made / name).read_bytes() == (whole / name).read_bytes()
    difference = np.load(made / "landmarks.npy") - np.load(whole / "landmarks.npy")
    assert (
        np.linalg.norm(difference, axis=2).mean() * 224 < 1.5
    )  # found on encoded pixels, and on the source's


def test_a_whole_data_set_mirrors_its_tree_and_takes_its_metadata(raw, tmp_path):
    source = tmp_path / "raw" / "FakeAVCeleb_v1.2"
    clip = "RealVideo-RealAudio/Asian (East)/men/id00001/00109"
    (source / clip).parent.mkdir(parents=True)
    shutil.copy(raw / "a" / "one.mp4", source / f"{clip}.mp4")
    kind, race, gender, person, _ = clip.split("/")
    place = f"FakeAVCeleb/{kind}/{race}/{gender}/{person}"
    row = (person, "-", "-", "real", "A", kind, race, gender, "00109.mp4", place)
    write_metadata(source / "meta_data.csv", [row])
    flags = ("--dataset", "fakeavceleb", "--source", source.parent, "--output", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in source.parent.rglob("*")}
    status, errors = run("prepare", *flags)
    assert status == 0, errors
    assert "fakeavceleb: 1 listed and there, 0 listed and not there, 0 there and not listed" in errors
    # the raw tree may be on a read-only disk
    assert {path: path.stat().st_mtime_ns for path in source.parent.rglob("*")} == before
    assert read_clip_info(tmp_path / "out" / clip).source == f"{clip}.mp4"
    copied = tmp_path / "out" / "meta_data.csv"
    assert copied.read_bytes() == (source / "meta_data.csv").read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "RealVideo-RealAudio",
        "meta_data.csv",
    ]


def test_usage_errors_exit_with_2_and_data_errors_with_1(tmp_path):
    assert run("prepare", "--nonsense", 1)[0] == 2
    assert run("prepare", "--input", tmp_path, "--output", tmp_path, "--shard", "5/3")[0] == 2
    status, errors = run("prepare", "--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert status == 1
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_whatever_people_call_their_videos_they_are_prepared_and_verified_alike(tmp_path):
    names = [
        "with space & (brackets) [1080p].mp4",
        'it\'s "quoted".mp4',
        "line\nbreak.mp4",
        "-rf.mp4",
        "=cmd|calc.mp4",
    ]
    names += [
        "세종대왕_01.mp4",
        unicodedata.normalize("NFD", "été.mp4"),
        "\U0001f600.mp4",
        "trailing .mp4",
        "concat:a|b.mp4",
    ]
    names += ["v1.2.final.mp4", "a" * 251 + ".mp4", "100% #1 ?x=1&y=%03d.mp4", "UPPER.MP4", "Mixed.MoV"]
    content = talking(tmp_path / "plain.mp4", 10).read_bytes()
    (raw := tmp_path / "raw").mkdir()
    for name in names:
        (raw / name).write_bytes(content)
    output = tmp_path / "out"
    status, errors = run("prepare", "--input", raw, "--output", output, "--num_workers", 1)
    assert status == 0, errors
    assert {read_clip_info(folder).source for folder in output.iterdir()} == set(names)
    assert len({(folder / "cropped_video.mp4").read_bytes() for folder in output.iterdir()}) == 1
    status, errors = run("verify", "--data_root", output, "--deep", "--num_workers", 1)
    assert status == 0, errors


def prepare_one(source: Path, folder: Path, **flags):
    folder.mkdir()
    return prepare_clip(source, folder, ClipConfig(**flags))


def test_rotated_metadata_and_varying_rate_are_straightened(tmp_path):
    upright = list(moving_face(20, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120)))
    times_ms = [
        0,
        20,
        60,
        120,
        140,
        200,
        240,
        280,
        300,
        420,
        440,
        460,
        520,
        580,
        600,
        640,
        660,
        700,
        720,
        800,
    ]
    source = write_video(
        tmp_path / "video.mp4", [np.rot90(f) for f in upright], times_ms=times_ms, waveform=clicks(0.85)
    )
    turn_by_metadata(source, 90)
    info = prepare_one(source, tmp_path / "clip")
    assert (info.source_width, info.source_height) == (320, 240)
    assert info.variable_frame_rate
    assert info.num_frames == 20
    assert info.frames_without_face == []
    x, y, side = info.face_boxes[10]
    assert (x + side / 2, y + side / 2) == pytest.approx((130, 120), abs=8)
    crop = read_video_times(tmp_path / "clip" / "cropped_video.mp4")
    assert crop.constant
    seconds = soundfile.info(tmp_path / "clip" / "cropped_video.wav").duration
    assert abs(seconds - len(crop.starts_s) / crop.fps) < 1 / crop.fps


def test_a_face_in_too_few_frames_is_a_failure_with_figures(tmp_path):
    def path(i):
        return (160, 120) if i < 12 else None

    frames = moving_face(40, size=(320, 240), face_height=90, path=path)
    source = write_video(tmp_path / "video.mp4", frames, waveform=clicks(1.6))
    with pytest.raises(ClipError, match=r"a face in 12 of 40 frames \(30%\)"):
        prepare_one(source, tmp_path / "clip")
    info = prepare_one(source, tmp_path / "kept", min_face_fraction=0.25)
    assert info.frames_without_face == list(range(12, 40))


def test_a_silent_video_is_kept_when_allowed_and_marked(raw, tmp_path):
    info = prepare_one(raw / "silent.mp4", tmp_path / "clip", allow_silent=True)
    assert info.silent
    assert soundfile.info(tmp_path / "clip" / "cropped_video.wav").frames == 20 * 48_000 // 25


def test_clip_json_holds_all_that_its_class_names_and_no_time_stamp(prepared):
    values = json.loads((prepared[0] / "a" / "one" / "clip.json").read_text())
    assert len(values["face_boxes"]) == values["num_frames"]
    assert set(values["files"]) == {"cropped_video.mp4", "cropped_video.wav", "landmarks.npy"}
    assert values["num_face_tracks"] == 1
    assert not [name for name in values if "time" in name or "date" in name]


def test_real_talking_faces_are_found_in_every_frame(shared, tmp_path):
    videos = shared / "data" / "real_clips"
    if not videos.is_dir():
        pytest.skip("no real clips in ../shared")
    for name, num_frames in (("video01", 300), ("video02", 195), ("video03", 240)):
        info = prepare_one(videos / f"{name}.mp4", tmp_path / name)
        assert info.num_frames == num_frames == len(np.load(tmp_path / name / "landmarks.npy"))
        assert len(info.frames_without_face) <= 0.01 * num_frames
        seconds = soundfile.info(tmp_path / name / "cropped_video.wav").duration
        assert abs(seconds - num_frames / Fraction(info.fps)) < 1 / Fraction(info.fps)
