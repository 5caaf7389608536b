"""A video that is judged while it is played: delay of the verdicts, memory, and the scores of the file.

A talking face is repeated up to the length; frames and sound are handed over when they are due. A verdict's
delay is counted from the moment at which the last frame of its window was due. Weights are random.
"""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

import train
from models import MODELS
from models.judging.config import JudgeConfig
from models.judging.detector import LoadedDetector
from preprocess.clip.all_faces import track_video
from tests.trees.media import FPS, Media
from utils.clip.files import SAMPLE_RATE_HZ
from utils.media.sound import iterate_audio
from utils.media.video import iterate_pictures
from utils.media.writer import VideoWriter

ROUND_S = 10.0  # of the face that is repeated
HOW = JudgeConfig(lag_frames=0, explain=False, judge_despite_generated=True)
SMALL = "--image_size 64 --video_channels 8 16 --audio_channels 16 16 16 --feature_dim 32".split()
SMALL += "--feedforward_dim 32 --classifier_hidden_dim 32".split()


def write_video(path: Path, seconds: float) -> Path:
    """A talking face with sound, the same ROUND_S again and again."""
    frames, waveform = Media(seed=3).make(0, duration_s=min(ROUND_S, seconds))
    waveform = np.resize(waveform, round(len(frames) / FPS * SAMPLE_RATE_HZ))  # it speaks again, all the time
    with VideoWriter(path, fps=Fraction(FPS), width=frames.shape[2], height=frames.shape[1]) as writer:
        writer.add_audio_stream(SAMPLE_RATE_HZ)
        for _ in range(max(1, round(seconds / ROUND_S))):
            for frame in frames:
                writer.write(frame)
            writer.write_audio(waveform)
    return path


def make_detector() -> LoadedDetector:
    """A small network with random weights."""
    torch.manual_seed(0)
    config = train.parse_args(["--model", "beyond_masking", *SMALL])
    method = MODELS["beyond_masking"](config.model)
    return LoadedDetector(method, config.data, None, device=torch.device("cpu"))


def rss_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def play(detector: LoadedDetector, video: Path) -> tuple[list[Any], list[float], list[tuple[float, float]]]:
    """Verdicts, their delays in s, and (time, memory) while the video is played."""
    stream = detector.stream(FPS, SAMPLE_RATE_HZ, HOW)
    verdicts: list[Any] = []
    delays: list[float] = []
    memory: list[tuple[float, float]] = []
    sounds = iterate_audio(video, SAMPLE_RATE_HZ)
    heard = next(sounds, None)
    began = time.monotonic()

    def take(found: list[Any]) -> None:
        verdicts.extend(found)
        delays.extend(time.monotonic() - began - verdict.end_s for verdict in found)

    for time_s, picture in iterate_pictures(video):
        while heard is not None and heard[0] + len(heard[1]) / SAMPLE_RATE_HZ <= time_s:
            take(stream.write_sound(heard[1], heard[0]))
            heard = next(sounds, None)
        time.sleep(max(0.0, began + time_s - time.monotonic()))
        take(stream.write_frame(picture, time_s))
        if not memory or time_s - memory[-1][0] >= 1.0:
            memory.append((time_s, rss_mb()))
    while heard is not None:
        take(stream.write_sound(heard[1], heard[0]))
        heard = next(sounds, None)
    take(stream.close())
    return verdicts, delays, memory


def measure(scratch: Path, seconds: float = 600.0) -> dict[str, Any]:
    """The figures of one video of this length."""
    video, detector = write_video(scratch / "clip.mp4", seconds), make_detector()
    used = time.process_time()
    verdicts, delays, memory = play(detector, video)
    used = time.process_time() - used
    tracked = track_video(video, scratch / "tracks")
    faces = [detector._judge_face(track, tracked, HOW, "file", []) for track in tracked.tracks]
    of_file = sorted(
        (face.first_frame + start, logit)
        for face in faces
        for start, logit in zip(face.window_starts, face.window_logits, strict=True)
    )
    streamed = sorted((round(verdict.start_s * FPS), verdict.window_logit) for verdict in verdicts)
    same_windows = [start for start, _ in streamed] == [start for start, _ in of_file]
    differences = [abs(one - other) for (_, one), (_, other) in zip(streamed, of_file, strict=False)]
    # from a tenth on, when all that is bounded has been filled
    times_s, sizes_mb = np.array([(time_s, mb) for time_s, mb in memory if time_s >= 0.1 * seconds]).T
    tenth = max(1, len(sizes_mb) // 9)
    return {
        "seconds": seconds,
        "verdicts": len(verdicts),
        "median_delay_s": float(np.median(delays)),
        "largest_delay_s": max(delays),
        "cpu_share": used / seconds,
        "memory_after_a_tenth_mb": float(np.median(sizes_mb[:tenth])),
        "memory_at_the_end_mb": float(np.median(sizes_mb[-tenth:])),
        "memory_slope_mb_per_minute": 60 * float(np.polyfit(times_s, sizes_mb, 1)[0]),
        "same_windows": same_windows,
        "largest_difference": max(differences) if same_windows else None,
    }
