"""Time, storage, price and slowest part for a data set of any size, computed from measured figures.

    python -m tests.benchmarks --json figures.json
    python -m tests.benchmarks.plan --figures figures.json --cores 64 --gpus 8

Rates are the measured ones per core or device, times the number of cores or devices; CPU rates are scaled by
the measured two-process ratio. A training epoch takes as long as its slower side, loading or computing.
Storage is what lies on disk afterwards.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.config import opt, parse_command
from utils.errors import UsageError, run_command

# MB a second of a prepared clip: crop at CRF 18, mono 48 kHz PCM16, float32 landmarks at 25 fps, clip.json
PREPARED_MB_PER_S = 0.09 + 0.096 + 0.0956 + 0.002
DECODED_MB_PER_S = 25 * 224 * 224 * 3 / 1e6


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """python -m tests.benchmarks.plan"""

    figures: Path = opt(Path("figures.json"), "what python -m tests.benchmarks --json wrote")
    num_clips: tuple[int, ...] = opt((21_000, 240_000, 1_100_000), "sizes of data sets")
    clip_s: float = opt(8.0, "mean length of a clip in seconds")
    fps: float = opt(25.0, "frames per second of the raw videos")
    cores: int = opt(2, "CPU cores, over all machines")
    gpus: int = opt(0, "GPUs, over all machines; 0: train on the CPU that was measured")
    gpu_clips_per_s: float = opt(
        0.0, "training clips a second of one GPU; 0: what the figures say, if they are from one"
    )
    core_hour_price: float = opt(0.04, "of one core for an hour, in any currency")
    gpu_hour_price: float = opt(2.5, "of one GPU for an hour")


def plan(figures: dict[str, dict[str, float]], num_clips: int, config: PlanConfig) -> dict[str, float | str]:
    """Hours of preprocessing, packing and one epoch, GB and price, for one size."""
    seconds = num_clips * config.clip_s
    scaling = figures["preprocess"]["two_process_ratio"] / 2  # what a core is worth among others
    cores = config.cores * scaling if config.cores > 1 else 1.0
    prepare_h = seconds * config.fps / figures["preprocess"]["frames_per_second"] / cores / 3600
    pack_h = seconds / figures["loader"]["pack_seconds_per_s"] / cores / 3600
    load_h = num_clips / figures["loader"]["cold_clips_per_s_10s"] / cores / 3600
    packed_h = num_clips * figures["loader"]["packed_equalized_ms_10s"] / 1000 / cores / 3600
    per_device = config.gpu_clips_per_s or figures["train"]["clips_per_s"]
    compute_h = num_clips / per_device / max(1, config.gpus) / 3600
    epoch_h = max(load_h, compute_h)
    parts = {"preprocessing": prepare_h, "loading an epoch": load_h, "computing an epoch": compute_h}
    return {
        "clips": num_clips,
        "prepare_h": prepare_h,
        "pack_h": pack_h,
        "epoch_h": epoch_h,
        "epoch_packed_h": max(packed_h, compute_h),
        "prepared_gb": seconds * PREPARED_MB_PER_S / 1000,
        "decoded_gb": seconds * DECODED_MB_PER_S / 1000,
        "price": (prepare_h + pack_h + 30 * epoch_h) * config.cores * config.core_hour_price
        + 30 * epoch_h * config.gpus * config.gpu_hour_price,
        "bottleneck": max(parts, key=parts.__getitem__),
    }


def main() -> None:
    config = parse_command(PlanConfig, __doc__)
    if not config.figures.is_file():
        raise UsageError(
            f"{config.figures}: no such file; python -m tests.benchmarks --json {config.figures}"
        )
    figures = json.loads(config.figures.read_text(encoding="utf-8"))
    head = ("clips", "prepare h", "pack h", "epoch h", "packed h", "prepared GB", "decoded GB", "price", "")
    sys.stdout.write("".join(f"{name:>13}" for name in head) + "\n")
    for num_clips in config.num_clips:
        row = plan(figures, num_clips, config)
        slowest = row.pop("bottleneck")
        cells = "".join(f"{value:>13,.0f}" if value >= 100 else f"{value:>13,.2f}" for value in row.values())
        sys.stdout.write(f"{cells}   slowest: {slowest}\n")
    sys.stdout.write("price: preprocessing, packing and 30 epochs\n")


if __name__ == "__main__":
    run_command(main)
