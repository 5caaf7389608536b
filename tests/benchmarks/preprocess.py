"""How fast and how large preprocessing is.

    python -m tests.benchmarks.preprocess [--video clip.mp4] [--repeats 3]

The generated videos are as a camera's: a face that sways before a still room, sensor noise, and an encoder's
usual settings (x264 medium at CRF 23, with B-frames), since a clean drawing is decoded at three times the
rate of a recording. `mbit_per_s` and `decode_ms` tell how hard they are to decode.

Speed is CPU time on one core. The limit is what no preprocessing can do without: plain PyAV decoding of every
frame to RGB on one thread, and MediaPipe's own Face Mesh on every finished crop, one after the other.
`share_of_limit` is the rate of `prepare_clip` (with detection, tracking, crop, encoding, sound, checksums)
relative to that. `two_process_ratio` is the rate of two processes on two cores relative to one. Memory is the
peak of a process that has prepared 10 s, and 60 s, of the same content.

Prints JSON. Other load on the machine costs `prepare_clip` more than the two bare loops, since it uses more
of the caches, and halves the ratio; the best of the repeats counts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from preprocess.image_graph import import_mediapipe
from preprocess.prepare import ClipConfig, prepare_clip
from tests.moving_face import clicks, moving_face, write_video
from utils.clip_files import VIDEO_NAME
from utils.config import opt, parse_command
from utils.errors import run_command
from utils.media import iterate_frames

SIZES = {"640x480": 150, "1280x720": 220, "1920x1080": 330, "1080x1920": 300}  # height of the face
MAIN_SIZE = "1280x720"
FPS = 25
NOISE = 3.0  # standard deviation in grey levels: a webcam indoors


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """tests/benchmarks/preprocess.py"""

    video: Path | None = opt(None, "a video of a face; default: 240 frames of each of four sizes, made here")
    repeats: int = opt(3, "the best of so many runs counts")


def make_video(path: Path, size: str, num_frames: int) -> Path:
    """A talking head's size and sway before a still room, as a camera sees it, at 25 frames per second."""
    width, height = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    noise = rng.normal(0, NOISE, (2 * height, 2 * width, 3)).astype(np.int8)

    def place(index: int) -> tuple[int, int]:
        return (
            round(width / 2 + width / 20 * np.sin(index / 40)),
            round(height / 2 + 8 * np.sin(index / 7)),
        )

    def record(frame: np.ndarray) -> np.ndarray:
        y, x = rng.integers(height), rng.integers(width)
        return cv2.add(frame, noise[y : y + height, x : x + width], dtype=cv2.CV_8U)

    frames = moving_face(num_frames, size=(width, height), face_height=SIZES[size], path=place)
    waveform = clicks(num_frames / FPS)
    return write_video(path, map(record, frames), fps=FPS, waveform=waveform, crf=23, preset="medium")


def decode_plainly(path: Path) -> None:
    """What anybody would write to decode a video on one thread."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")


def prepare(video: Path) -> int:
    """Prepare a video into a folder that is thrown away; returns its number of frames."""
    with tempfile.TemporaryDirectory() as folder:
        return prepare_clip(video, Path(folder), ClipConfig(allow_silent=True)).num_frames


def cpu_s(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def pin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    cv2.setNumThreads(1)


def measure_share(video: Path, repeats: int, core: int) -> dict[str, float]:
    """The limit and `prepare_clip` in ms of CPU time per frame; pins the process to a core."""
    pin(core)
    spent: dict[str, list[float]] = {"decode": [], "mesh": [], "mesh_and_reading": [], "prepare": []}
    with tempfile.TemporaryDirectory() as folder:
        prepare_clip(video, Path(folder), ClipConfig(allow_silent=True))
        crops = [image for _, image in iterate_frames(Path(folder) / VIDEO_NAME)]
    with import_mediapipe().solutions.face_mesh.FaceMesh(refine_landmarks=True) as mesh:

        def read(crop: np.ndarray) -> None:
            for face in mesh.process(crop).multi_face_landmarks or []:
                np.array([(point.x, point.y) for point in face.landmark], np.float32)

        for _ in range(repeats):  # taking turns, so that other load meets all alike
            spent["decode"].append(cpu_s(lambda: decode_plainly(video)))
            spent["mesh"].append(cpu_s(lambda: [mesh.process(crop) for crop in crops]))
            spent["mesh_and_reading"].append(cpu_s(lambda: [read(crop) for crop in crops]))
            spent["prepare"].append(cpu_s(lambda: prepare(video)))
    with av.open(str(video)) as container:
        mbit_per_s = container.bit_rate / 1e6
    ms = {name: 1000 * min(values) / len(crops) for name, values in spent.items()}
    return {
        "frames": len(crops),
        "mbit_per_s": round(mbit_per_s, 2),
        **{f"{name}_ms": round(value, 2) for name, value in ms.items()},
        "frames_per_second": round(1000 / ms["prepare"], 1),
        "share_of_limit": round((ms["decode"] + ms["mesh"]) / ms["prepare"], 3),
        # the same, if the bare Face Mesh also has to give its landmarks as an array
        "share_of_limit_with_reading": round((ms["decode"] + ms["mesh_and_reading"]) / ms["prepare"], 3),
    }


def peak_mb(video: Path) -> float:
    """Largest memory that this process has held, after preparing the video."""
    prepare(video)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak_kb,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(peak_kb) / 1024, 1)


def _race(video: Path, core: int, rounds: int, barrier: Any, results: Any) -> None:
    pin(core)
    prepare(video)
    for _ in range(rounds):
        barrier.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        num_frames = prepare(video)
        cpu = time.process_time() - cpu
        barrier.wait()  # the slower one counts
        results.put((time.perf_counter() - wall, 1000 * cpu / num_frames))


def _race_of(video: Path, cores: list[int], rounds: int) -> tuple[float, float]:
    """(wall seconds per video, CPU ms per frame) of the best round, with a process on each of the cores."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(cores)), context.Queue()
    racers = [context.Process(target=_race, args=(video, core, rounds, barrier, results)) for core in cores]
    for racer in racers:
        racer.start()
    rows = [results.get(timeout=600) for _ in range(rounds * len(cores))]
    for racer in racers:
        racer.join()
    return min(wall for wall, _ in rows) / len(cores), min(cpu for _, cpu in rows)


def measure_two_processes(video: Path, repeats: int, cores: list[int]) -> dict[str, float]:
    """The rate of two processes, each on its own core, relative to that of one, by the clock."""
    one, one_cpu = _race_of(video, cores[:1], repeats)
    two, two_cpu = _race_of(video, cores[:2], repeats)
    return {
        "two_process_ratio": round(one / two, 2),
        "one_process_cpu_ms": round(one_cpu, 2),
        "two_process_cpu_ms": round(two_cpu, 2),
    }


def in_new_process(function: Callable[..., Any], *arguments: object) -> Any:
    """The function's result, from a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(video: Path | None = None, *, repeats: int = 3) -> dict[str, Any]:
    """All figures of this benchmark, of `video` or of generated ones of four sizes.

    `share_of_limit` is that of `share_video`; `shares` has those of all videos, with milliseconds per frame.
    `two_process_ratio` is left out on a machine of one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if video is None:
            videos = {size: make_video(root / f"{size}.mp4", size, 240) for size in SIZES}
        else:
            videos = {video.name: video}
        main = videos.get(MAIN_SIZE) or video
        shares = {
            name: in_new_process(measure_share, path, repeats, cores[0]) for name, path in videos.items()
        }
        share_video = next(name for name, path in videos.items() if path == main)
        figures = {
            "share_video": share_video,
            "share_of_limit": shares[share_video]["share_of_limit"],
            "frames_per_second": shares[share_video]["frames_per_second"],
            "shares": shares,
        }
        if len(cores) > 1:
            figures |= measure_two_processes(main, repeats, cores)
        for seconds in (10, 60):
            long = make_video(root / f"{seconds}s.mp4", "640x480", seconds * FPS)
            figures[f"peak_mb_{seconds}s"] = in_new_process(peak_mb, long)
    return figures


def main() -> None:
    config = parse_command(BenchmarkConfig, __doc__)
    json.dump(measure(config.video, repeats=config.repeats), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    run_command(main)
