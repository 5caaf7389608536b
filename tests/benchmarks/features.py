"""Extracting features against the bare backbone, and memory as the number of clips grows.

Both in turn on the same pieces, from prepared clips with the command and already on the device without it; of
several rounds the fastest of each counts. A share is the bare backbone's time over the command's.
"""

from __future__ import annotations

import math
import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from models.backbones.menu import BACKBONES
from preprocess.extract_features import ExtractConfig, extract, make_encoder
from tests.benchmarks.loader import FPS, write_clip
from tests.benchmarks.processes import in_new_process, peak_mb
from tests.benchmarks.train import finish
from utils.clip.files import CROP_SIZE
from utils.clip.packed import FEATURES
from utils.run.device import exact_float32

CLIP_S = 10
MEASURED = ("marlin_small", "marlin_base", "marlin_large", "efficientface", "audio_resnet18")


def measure(
    scratch: Path, device: str, *, backbones: tuple[str, ...] = MEASURED, num_clips: int = 4, rounds: int = 3
) -> dict[str, Any]:
    """{figure: value}; memory with a cheap backbone."""
    folders = _clips(write_clip(scratch / "clip", CLIP_S), scratch / "set", num_clips)
    rows = [_of_backbone(name, folders, torch.device(device), rounds) for name in backbones]
    few, many = (in_new_process(_peak_mb, scratch / "clip", scratch / str(n), n) for n in (4, 40))
    return {
        "backbones": rows,
        "least_share_of_bare": min(row["share_of_bare"] for row in rows),
        "peak_mb_4_clips": few,
        "peak_mb_40_clips": many,
    }


def _clips(clip: Path, place: Path, count: int) -> list[Path]:
    return [Path(shutil.copytree(clip, place / str(number))) for number in range(count)]


def _peak_mb(clip: Path, place: Path, count: int) -> float:
    """Peak memory of a process that extracts from `count` clips."""
    config = ExtractConfig(backbone="audio_resnet18", random_weights=True, device="cpu")
    extract(config, _clips(clip, place, count), [])
    return peak_mb()


def _of_backbone(name: str, folders: list[Path], device: torch.device, rounds: int) -> dict[str, Any]:
    backbone = BACKBONES[name]
    config = ExtractConfig(backbone=name, random_weights=True, device=str(device))
    rate = backbone.sample_rate_hz or FPS
    plan = backbone.plan(Fraction(rate), CLIP_S * rate)
    num_pieces, size = len(plan.pieces) * len(folders), backbone.batch_size
    if backbone.sample_rate_hz:
        pieces = torch.rand(size, backbone.piece_samples, device=device)
    else:
        shape = (size, plan.pieces.shape[1], CROP_SIZE, CROP_SIZE, 3)
        pieces = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    bare_s, ours_s = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        encoder = make_encoder(config)[0].to(device)
        with torch.inference_mode(), exact_float32():
            for _ in range(math.ceil(num_pieces / size)):
                encoder(pieces)
        finish(device)
        bare_s.append(time.perf_counter() - started)
        for folder in folders:
            shutil.rmtree(folder / FEATURES, ignore_errors=True)
        started = time.perf_counter()
        extract(config, folders, [])
        ours_s.append(time.perf_counter() - started)
    return {
        "backbone": name,
        "share_of_bare": min(bare_s) / min(ours_s),
        "pieces_per_s": num_pieces / min(ours_s),
        "clip_s_per_s": len(folders) * CLIP_S / min(ours_s),
    }
