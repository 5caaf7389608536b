"""The commands as a user calls them, on a folder that somebody else has filled: good videos among files that
mean harm. Each of those costs itself, is listed with its reason, and nothing else happens.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from models import load_detector
from models.judging.config import JudgeConfig
from preprocess.perturb.kinds import Perturbation
from preprocess.perturb.variants import make_variants
from tests.clip_factory import clip_info
from tests.commands import run_command
from tests.e2e.test_video import write_checkpoint
from tests.hostile_media import (
    claim_sample_rate,
    write_external_reference,
    write_jpeg_bomb,
    write_png,
    write_small,
)
from tests.moving_face import clicks, moving_face, write_video
from tests.unit.preprocess.test_ffpp_audio import missing_of, write_sequence
from tests.unit.preprocess.work.test_batch import touch
from utils.clip_type import Clip
from utils.errors import ClipError, DatasetError

GOOD = ("good.mp4", "-i.mp4", "concat:a|b.mp4", "%03d.mp4", "$(touch x).mp4", "http:x.mp4")


def talking(path: Path, num_frames: int = 10) -> Path:
    frames = moving_face(num_frames, size=(240, 180), face_height=80, path=lambda i: (110 + i, 95))
    return write_video(path, frames, waveform=clicks(num_frames / 25))


@pytest.fixture(scope="module")
def server():
    """(port, connections): whoever calls is noted."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                calls.append(connection.recv(200))
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], calls


@pytest.fixture(scope="module")
def raw(tmp_path_factory, server) -> tuple[Path, dict[str, str]]:
    """A folder, and of each bad file in it a word of the reason."""
    root = tmp_path_factory.mktemp("hostile") / "raw"
    root.mkdir()
    made = talking(root / "good.mp4")
    for name in GOOD[1:]:  # names that a shell or FFmpeg would read otherwise
        shutil.copy(made, root / name)
    outside = write_small(root.parent / "outside.mp4")
    url = f"http://127.0.0.1:{server[0]}/x.mp4"
    (root / "hls.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
    (root / "list.mp4").write_text(f"ffconcat version 1.0\nfile {url}\n")
    (root / "local_list.mp4").write_text(f"ffconcat version 1.0\nfile {outside}\n")
    write_external_reference(root / "reference.mp4", outside)
    write_png(root / "picture.mp4")
    write_small(root / "raw.avi", codec="rawvideo", container="avi")
    write_small(root / "streams.mkv", container="matroska", num_streams=64)
    write_jpeg_bomb(root / "bomb.avi", 16000, 16000, honest_header=True)
    write_jpeg_bomb(root / "lying_bomb.avi", 16000, 16000, honest_header=False)
    content = made.read_bytes()
    (root / "cut.mp4").write_bytes(content[: len(content) // 2])
    rng = np.random.default_rng(0)
    damaged = bytearray(content)
    start = content.index(b"mdat") + 4
    for place in rng.integers(
        start, content.index(b"moov") - 4 if content.index(b"moov") > start else len(content), 2000
    ):
        damaged[place] ^= 1 << rng.integers(8)
    (root / "damaged.mp4").write_bytes(damaged)
    os.mkfifo(root / "pipe.mp4")  # reading it would hang
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "device.mp4").symlink_to("/dev/zero")
    (root / "link.mp4").symlink_to(outside)
    return root, {
        "hls.mp4": "a playlist",
        "list.mp4": "a list of other files",
        "local_list.mp4": "a list of other files",
        "reference.mp4": "",
        "link.mp4": "a link leads out of",
        "picture.mp4": "a picture",
        "raw.avi": "rawvideo",
        "streams.mkv": "streams",
        "bomb.avi": "--max_pixels",
        "lying_bomb.avi": "cannot be decoded",
        "cut.mp4": "cannot be decoded",
        "damaged.mp4": "",
    }


def reasons_in(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_prepare_makes_the_good_and_lists_the_bad(raw, server, tmp_path):
    root, bad = raw
    before = {path.name for path in root.iterdir()}
    output = tmp_path / "out"
    done = run_command(
        "-m", "preprocess.prepare", "--input", root, "--output", output, "--num_workers", 2, "--allow_silent"
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{len(GOOD)} prepared, 0 already there, {len(bad)} failed" in done.stderr
    reasons = reasons_in(output / "failures.csv")
    assert sorted(reasons) == sorted(bad)
    for name, words in bad.items():
        assert words in reasons[name]
    assert {path.name for path in output.iterdir()} == {Path(name).stem for name in GOOD} | {"failures.csv"}
    # equal input, equal output, whatever the name
    crops = {(output / Path(name).stem / "cropped_video.mp4").read_bytes() for name in GOOD}
    assert len(crops) == 1
    assert server[1] == []  # nobody called
    assert {path.name for path in root.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_single_steps_and_verify_list_the_same(raw, tmp_path):
    root, bad = raw
    output = tmp_path / "out"
    done = run_command(
        "-m", "preprocess.extract_audio", "--input", root, "--output", output, "--allow_silent"
    )
    assert done.returncode == 1
    reasons = reasons_in(output / "failures.csv")
    for name in ("hls.mp4", "list.mp4", "picture.mp4", "raw.avi", "streams.mkv", "bomb.avi"):
        assert bad[name] in reasons[name]
    # a prepared tree may be somebody else's, too
    clips = tmp_path / "clips"
    for name in ("hls.mp4", "bomb.avi"):
        (clips / name).mkdir(parents=True)
        shutil.copy(root / name, clips / name / "cropped_video.mp4")
    done = run_command("-m", "preprocess.verify", "--data_root", clips, "--output", tmp_path / "bad.csv")
    assert done.returncode == 1
    found = reasons_in(tmp_path / "bad.csv")
    assert "a playlist" in found["hls.mp4/cropped_video.mp4"]
    assert "--max_pixels" in found["bomb.avi/cropped_video.mp4"]


def test_limits_are_flags(raw, tmp_path):
    root, _ = raw
    for flag, value, words in (
        ("--clip_timeout_s", 0.01, "took longer"),
        ("--max_frames", 9, "--max_frames 9"),
        ("--max_pixels", 1000, "240x180"),
        ("--max_duration_s", 0.1, "--max_duration_s 0.1"),
    ):
        output = tmp_path / flag
        done = run_command(
            "-m", "preprocess.prepare", "--input", root / "good.mp4", "--output", output, flag, value
        )
        assert done.returncode == 1
        assert words in reasons_in(output / "failures.csv")["good.mp4"]
        assert [path.name for path in output.iterdir()] == ["failures.csv"]


def test_judging_a_folder_survives_all_of_it(raw, server, tmp_path):
    root, bad = raw
    checkpoint = write_checkpoint(tmp_path / "best.pt")
    folder = tmp_path / "videos"
    folder.mkdir()
    names = ("good.mp4", "concat:a|b.mp4", "hls.mp4", "bomb.avi", "damaged.mp4", "picture.mp4")
    for name in names:
        shutil.copy(root / name, folder / name)
    done = run_command(
        "test.py",
        "--video",
        folder,
        "--checkpoint",
        checkpoint,
        "--output_dir",
        tmp_path / "out",
        "--device",
        "cpu",
        "--lag_frames",
        0,
        "--explain",
        "false",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    judged = {Path(json.loads(line)["video"]).name for line in done.stdout.splitlines()}
    assert judged >= {"good.mp4", "concat:a|b.mp4"}
    assert judged.isdisjoint({"hls.mp4", "bomb.avi", "picture.mp4"})
    for name in ("hls.mp4", "bomb.avi", "picture.mp4"):
        assert any(name in line and bad[name] in line for line in done.stderr.splitlines())
    assert (tmp_path / "out" / "good" / "annotated.mp4").is_file()
    assert not list((tmp_path / "out").rglob(".work_*"))
    assert server[1] == []


def test_judging_from_python_raises_what_the_limits_say_and_goes_on(raw, tmp_path):
    video = raw[0] / "good.mp4"
    detector = load_detector(write_checkpoint(tmp_path / "best.pt"), device="cpu")

    def judge(**limits: float) -> str:
        return detector.judge(video, JudgeConfig(lag_frames=0, explain=False, **limits)).verdict

    with pytest.raises(ClipError, match="took longer"):
        judge(clip_timeout_s=0.01)
    with pytest.raises(ClipError, match="max_frames 9"):
        judge(max_frames=9)
    assert judge() in {"real", "fake", "undecided"}


def test_perturb_refuses_what_prepare_refuses(raw, tmp_path):
    output = tmp_path / "out.mp4"
    done = run_command(
        "-m", "preprocess.perturb", "--input", raw[0] / "hls.mp4", "--output", output, "--kind", "blur"
    )
    assert done.returncode == 1
    assert "a playlist" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_sounds_and_pictures_of_data_sets_are_judged_alike(tmp_path):
    """preprocess.ffpp_audio and preprocess.vidtimit."""
    write_sequence(tmp_path / "ffpp", "000", video="rate")
    write_sequence(tmp_path / "ffpp", "001", video="list")
    claim_sample_rate(tmp_path / "ffpp/downloaded_videos/rate.wav", 1_000_000)
    (tmp_path / "ffpp/downloaded_videos/list.m4a").write_text("#EXTM3U\n/etc/passwd\n")
    done = run_command("-m", "preprocess.ffpp_audio", "--source", tmp_path / "ffpp")
    assert done.returncode == 1, done.stderr
    reasons = missing_of(tmp_path / "ffpp")
    assert "1000000 samples per second" in reasons["000"]
    assert "a playlist" in reasons["001"]

    frames = tmp_path / "VidTIMIT/fadg0/video/sa1"
    frames.mkdir(parents=True)
    (tmp_path / "VidTIMIT/fadg0/audio").mkdir()
    claim_sample_rate(tmp_path / "VidTIMIT/fadg0/audio/sa1.wav", 48_000)
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = b"\x40\x00\x40\x00"
    (frames / "001").write_bytes(jpeg)
    done = run_command(
        "-m", "preprocess.vidtimit", "--source", tmp_path / "VidTIMIT", "--output", tmp_path / "timit"
    )
    assert done.returncode == 1, done.stderr
    (reason,) = reasons_in(tmp_path / "timit/real/failures.csv").values()
    assert "16384x16384" in reason


def test_a_clip_json_does_not_name_videos_outside_the_raw_data_set(tmp_path):
    folder = touch(tmp_path, "prepared/clip/clip.json") / "prepared" / "clip"
    for source in ("../outside.mp4", "/etc/passwd", "a/../../b.mp4"):
        (folder / "clip.json").write_text(json.dumps(clip_info(source=source)))
        clip = Clip(
            clip_id="x",
            place=str(folder),
            label=0,
            video_label=0,
            audio_label=0,
            category="",
            method="",
            identity="",
            source_ids=(),
            target_id="",
            pair_key="",
            stratum="",
            dataset="",
        )
        with pytest.raises(DatasetError, match="outside the raw data set"):
            make_variants(
                [clip],
                [Perturbation("blur", 1)],
                dataset="",
                data_root=folder.parent,
                raw_root=tmp_path,
                cache_dir=tmp_path / "cache",
                num_workers=1,
            )
    assert not (tmp_path / "cache").exists()
