"""Raw video -> forgeries -> prepare -> verify -> train -> resume -> test, on real talking faces.

The raw set is built from the real clips next to the project; where they are absent, from the demo generator,
and the test says so. It proves that the software runs on real video: three people are no basis for a number.
"""

import json
import logging

import numpy as np
import pytest

from preprocess.clip.make import ClipConfig, prepare_clip
from preprocess.demo.forgeries import resynthesise_mouth, swap_faces
from preprocess.demo.speech import revoice
from tests.clip_factory import write_metadata
from tests.commands import run_command
from tests.conftest import SHARED
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, SAMPLE_RATE_HZ, VIDEO_NAME
from utils.clip.frames import read_frames, read_video_header
from utils.clip.sound import read_waveform
from utils.media.writer import VideoWriter

WINDOW_S = 1.2
SMALL = (
    "--image_size 32 --video_channels 4 8 8 --audio_channels 8 8 8 --feature_dim 16 --feedforward_dim 16 "
    "--classifier_hidden_dim 16 --window_s 1.0 --batch_size 2 --num_workers 1 --val_fraction 0.34 "
    "--test_fraction 0.34 --learning_rate 1e-3 --schedule constant --device cpu"
).split()


def run(*words):
    result = run_command(*words)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


class Window:
    """Part of a prepared clip: frames (T, 224, 224, 3), landmarks in pixels (T, 478, 2), waveform (N,)."""

    def __init__(self, folder, start_s):
        self.fps, _ = read_video_header(folder / VIDEO_NAME)
        indices = round(start_s * self.fps) + np.arange(round(WINDOW_S * self.fps))
        self.frames = read_frames(folder / VIDEO_NAME, indices)
        self.landmarks = np.load(folder / LANDMARKS_NAME)[indices] * self.frames.shape[1]
        self.waveform = read_waveform(
            folder / AUDIO_NAME, SAMPLE_RATE_HZ, start_s=start_s, duration_s=WINDOW_S
        )

    def write(self, path, frames=None, waveform=None):
        frames = self.frames if frames is None else frames
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, fps=self.fps, width=frames.shape[2], height=frames.shape[1]) as writer:
            writer.add_audio_stream(SAMPLE_RATE_HZ)
            for frame in frames:
                writer.write(frame)
            writer.write_audio(self.waveform if waveform is None else waveform)


def write_raw_set(clips_dir, work_dir):
    """FakeAVCeleb's raw layout from real videos: two windows of each as reals, one forgery per category."""
    folders = []
    for source in sorted(clips_dir.glob("*.mp4")):
        folder = work_dir / "people" / source.stem
        folder.mkdir(parents=True)
        prepare_clip(source, folder, ClipConfig())
        folders.append(folder)
    rng = np.random.default_rng(0)
    raw, rows = work_dir / "raw", []
    for number, folder in enumerate(folders):
        identity, donor = f"id{number:05d}", f"id{(number + 1) % len(folders):05d}"
        first, second = Window(folder, 0.5), Window(folder, 3.0)
        other = Window(folders[(number + 1) % len(folders)], 0.5)
        openings = 0.05 + 0.05 * np.sin(np.arange(len(second.frames)) * 0.9)
        mouth = resynthesise_mouth(second.frames, second.landmarks, openings, rng)
        swap = swap_faces(first.frames, first.landmarks, other.frames[::8], other.landmarks[::8], rng)
        voice = revoice(first.waveform, SAMPLE_RATE_HZ, rng).astype(np.float32)
        for category, letter, method, name, target, window, frames, waveform in (
            ("RealVideo-RealAudio", "A", "real", "00001.mp4", "-", first, None, None),
            ("RealVideo-RealAudio", "A", "real", "00002.mp4", "-", second, None, None),
            ("RealVideo-FakeAudio", "B", "rtvc", "00001_fake.mp4", "-", first, None, voice),
            ("FakeVideo-RealAudio", "C", "faceswap", f"00001_{donor}.mp4", donor, first, swap, None),
            (
                "FakeVideo-FakeAudio",
                "D",
                "wav2lip",
                "00002_wavtolip.mp4",
                "-",
                second,
                mouth,
                voice[: len(second.waveform)],
            ),
        ):
            place = f"{category}/African/men/{identity}"
            window.write(raw / place / name, frames, waveform)
            rows.append(
                (
                    identity,
                    target,
                    "-",
                    method,
                    letter,
                    category,
                    "African",
                    "men",
                    name,
                    f"FakeAVCeleb/{place}",
                )
            )
    write_metadata(raw / "meta_data.csv", rows)
    return raw, len(rows)


@pytest.mark.slow
def test_raw_video_to_a_tested_checkpoint(tmp_path):
    if SHARED.is_dir():
        raw, num_clips = write_raw_set(SHARED / "data" / "real_clips", tmp_path)
    else:
        logging.getLogger(__name__).warning(
            "no ../shared: running on the generated demo set instead of real video"
        )
        raw, num_clips = tmp_path / "raw", 3 * 8
        run("-m", "preprocess.demo", "--output", raw, "--num_identities", 3, "--duration_s", WINDOW_S)
    prepared, run_dir = tmp_path / "prepared", tmp_path / "run"
    run(
        "-m",
        "preprocess.prepare",
        "--dataset",
        "fakeavceleb",
        "--source",
        raw,
        "--output",
        prepared,
        "--num_workers",
        2,
    )
    assert len(list(prepared.rglob("clip.json"))) == num_clips
    run("-m", "preprocess.verify", "--data_root", prepared, "--num_workers", 2)
    arguments = ("train.py", "--data_root", prepared, "--run_dir", run_dir, *SMALL)
    run(*arguments, "--epochs", "2")
    run(*arguments, "--epochs", "3", "--resume")
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 1 + 3
    arguments = ("test.py", "--checkpoint", run_dir / "best.pt", "--data_root", prepared, "--report", "false")
    metrics = json.loads(run(*arguments).stdout)
    assert metrics["per_category"].keys() == {
        "RealVideo-FakeAudio",
        "FakeVideo-RealAudio",
        "FakeVideo-FakeAudio",
    }
    assert 0 <= metrics["overall"]["auc"] <= 1
    assert metrics["overall"]["num_real"] + metrics["overall"]["num_fake"] == num_clips // 3
