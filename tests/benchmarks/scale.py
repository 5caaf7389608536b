"""Whether a clip costs the same in a large data set as in a small one: python -m preprocess.prepare on 100,
1,000 and 10,000 clips.

    python -m tests.benchmarks.scale [--sizes 100 1000 10000]

The raw videos are one video of 12 frames under as many names (hard links). The first call of the command
prepares all of them; the second one finds them finished by their checksums. Printed are CPU time, workers
included, and the peak memory of the command's own process; the fits say what starting costs, and one more
clip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.moving_face import clicks, moving_face, write_video
from utils.config import opt, parse_command
from utils.errors import run_command

ROOT = Path(__file__).resolve().parents[2]
NUM_FRAMES = 12
CLIPS_PER_FOLDER = 50


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """tests/benchmarks/scale.py"""

    sizes: tuple[int, ...] = opt((100, 1000, 10_000), "numbers of clips, rising")
    num_workers: int = opt(2, "processes of the command")

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must be at least two and rise, got {self.sizes}")


def _name(index: int) -> str:
    return f"id{index // CLIPS_PER_FOLDER:05}/{index:07}"


def _measure_command(flags: Sequence[object]) -> dict[str, float]:
    """CPU seconds of preprocess.prepare with its workers, those of its own, and its own peak memory in MB."""
    command = [sys.executable, "-m", "preprocess.prepare", *map(str, flags)]
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(command, cwd=ROOT, stderr=messages)
        place, own_ticks, peak_kb = Path("/proc", str(process.pid)), 0, 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            # the resource usage of a process does not tell its own memory from that of its children
            values = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
            peak_kb = max(peak_kb, int(values.get("VmHWM", "0 kB").split()[0]))
            own_ticks = sum(map(int, (place / "stat").read_text().rpartition(")")[2].split()[11:13]))
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        messages.seek(0)
        if process.returncode:
            raise RuntimeError(messages.read()[-3000:])
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "own_cpu_s": own_ticks / os.sysconf("SC_CLK_TCK"),
        "own_peak_mb": peak_kb / 1024,
    }


def _fit(sizes: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """seconds = start + per clip x size, by least squares on relative errors, and the cost of one more clip
    between the two largest sizes relative to that between the two smallest.
    """
    weights = 1 / np.array(seconds)
    columns = np.stack([np.ones(len(sizes)), np.array(sizes, float)], axis=1)
    (start, slope), *_ = np.linalg.lstsq(columns * weights[:, None], np.array(seconds) * weights, rcond=None)
    slopes = np.diff(seconds) / np.diff(sizes)
    return {
        "start_s": round(float(start), 2),
        "per_clip_ms": round(1000 * float(slope), 3),
        "last_slope_to_first": round(float(slopes[-1] / slopes[0]), 2),
    }


def measure(sizes: Sequence[int] = (100, 1000, 10_000), num_workers: int = 2) -> dict[str, Any]:
    """Per size the figures of the first call ("prepare") and of the second ("resume"), and linear fits."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            rows.append(_measure_size(root, size, num_workers))
    prepare, resume = ([row[call]["cpu_s"] for row in rows] for call in ("prepare", "resume"))
    return {
        "sizes": rows,
        "prepare_fit": _fit(sizes, prepare),
        "resume_fit": _fit(sizes, resume),
        "own_resume_fit": _fit(sizes, [row["resume"]["own_cpu_s"] for row in rows]),
        "prepare_per_clip_ms": [
            round(1000 * seconds / size, 1) for seconds, size in zip(prepare, sizes, strict=True)
        ],
        "own_peak_mb": [round(row["prepare"]["own_peak_mb"], 1) for row in rows],
    }


def _measure_size(root: Path, size: int, num_workers: int) -> dict[str, Any]:
    video = write_video(
        root / "video.mp4",
        moving_face(NUM_FRAMES, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120)),
        waveform=clicks(NUM_FRAMES / 25),
    )
    for index in range(size):
        raw = root / "raw" / f"{_name(index)}.mp4"
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.hardlink_to(video)
    flags = ["--input", root / "raw", "--output", root / "out", "--num_workers", num_workers]
    row: dict[str, Any] = {"num_clips": size}
    for call in ("prepare", "resume"):
        row[call] = {name: round(value, 2) for name, value in _measure_command(flags).items()}
    return row


def main() -> None:
    config = parse_command(ScaleConfig, __doc__)
    json.dump(measure(config.sizes, config.num_workers), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    run_command(main)
