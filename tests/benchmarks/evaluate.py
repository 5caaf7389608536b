"""How fast clips are scored: utils.evaluation.scoring.evaluate on random batches, decoding left out."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from models.beyond_masking.config import BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from tests.clip_factory import make_batch
from utils.evaluation.scoring import evaluate
from utils.run.device import resolve_precision
from utils.run.training import compile_model


def measure(
    device: str = "cpu",
    *,
    batch_size: int | None = None,
    num_batches: int | None = None,
    num_frames: int = 60,
    image_size: int = 224,
    precision: str = "auto",
    compiled: bool = False,
) -> dict[str, Any]:
    """Windows per second of the default model, after one batch that is not counted."""
    where = torch.device(device)
    on_gpu = where.type == "cuda"
    batch_size, num_batches = batch_size or (16 if on_gpu else 2), num_batches or (20 if on_gpu else 3)
    precision = resolve_precision(precision, where)
    torch.manual_seed(0)
    model = BeyondMaskingDetector(BeyondMaskingConfig(image_size=image_size)).to(where)
    if compiled:
        torch.compiler.reset()  # or another batch size would be compiled for any size
        compile_model(model)
    batch = make_batch(batch_size, num_frames, size=image_size, seconds=num_frames / 25)
    batch = dataclasses.replace(batch, video_fps=25.0)
    if on_gpu:
        batch = batch.pin_memory()
    evaluate(model, [batch], where, precision=precision)
    start = time.perf_counter()
    evaluate(model, [batch] * num_batches, where, precision=precision)
    seconds = time.perf_counter() - start
    return {
        "device": torch.cuda.get_device_name(where) if on_gpu else "cpu",
        "precision": precision,
        "compiled": compiled,
        "batch_size": batch_size,
        "num_frames": num_frames,
        "image_size": image_size,
        "clips_per_s": batch_size * num_batches / seconds,
        "batch_s": seconds / num_batches,
    }
