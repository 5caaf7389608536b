"""How fast and how large preprocessing is: python -m tests.benchmarks.preprocess [--video a.mp4] [--repeats
3]

Prints milliseconds of CPU time per frame on one core: decoding alone (as plain PyAV code does it, and as ours
does), Face Mesh alone on the finished crops, and `prepare_clip` with all that it does besides (detection,
tracking, crop, encoding, sound, checksums). "share" is the rate of `prepare_clip` relative to decoding and
Face Mesh alone, one after the other. Peak memory is that of a process that has prepared the video.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2

from preprocess.face_mesh import FaceMesh
from preprocess.prepare import ClipConfig, prepare_clip
from tests.moving_face import clicks, moving_face, write_video
from utils.clip_files import VIDEO_NAME
from utils.config import opt, parse_command
from utils.errors import run_command
from utils.media import iterate_frames


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """tests/benchmarks/preprocess.py"""

    video: Path | None = opt(None, "a video of a face; default: 240 frames of 1280x720 made for the purpose")
    repeats: int = opt(3, "the best of so many runs counts")


def decode_plainly(path: Path) -> None:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")


def best_ms(run: Callable[[], object], repeats: int, num_frames: int) -> float:
    """CPU time per frame of the fastest of several runs, in ms."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return round(1000 * min(spent) / num_frames, 2)


def main() -> None:
    config = parse_command(BenchmarkConfig, __doc__)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        video = config.video or write_video(
            root / "video.mp4",
            moving_face(240, size=(1280, 720), face_height=220, path=lambda i: (500 + i, 330)),
            waveform=clicks(240 / 25),
        )
        folders = iter([root / str(index) for index in range(config.repeats + 1)])

        def prepare() -> Path:
            folder = next(folders)
            folder.mkdir()
            prepare_clip(video, folder, ClipConfig())
            return folder

        crops = [image for _, image in iterate_frames(prepare() / VIDEO_NAME)]
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        mesh = FaceMesh()
        count = len(crops)
        figures = {
            "frames": count,
            "decode_plain_ms": best_ms(lambda: decode_plainly(video), config.repeats, count),
            "decode_ms": best_ms(lambda: sum(1 for _ in iterate_frames(video)), config.repeats, count),
            "mesh_ms": best_ms(lambda: [mesh(crop) for crop in crops], config.repeats, count),
            "prepare_ms": best_ms(prepare, config.repeats, count),
            "peak_memory_mb": memory_mb,
        }
    for name in ("decode_plain", "decode"):
        bare = figures[f"{name}_ms"] + figures["mesh_ms"]
        figures[f"share_of_{name}_and_mesh"] = round(bare / figures["prepare_ms"], 2)
    json.dump(figures, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    run_command(main)
