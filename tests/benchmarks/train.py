"""How fast a training step is: the paper's model on batches of random clips, as train.py computes it.

    measure("cuda")                                             # 60x224x224; batch 4 and 16
    measure("cpu")                                              # batch 2: minutes
    measure("cpu", num_frames=6, image_size=32, batch_sizes=(2,), num_steps=2)     # seconds

Every variant is a row: precision (float32 with TF32 on a GPU, bf16), compiled or not, and at the end the
baseline, float32 without any of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, training_loader
from losses.beyond_masking import BeyondMaskingLoss, BeyondMaskingLossConfig
from models.beyond_masking.config import BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from tests.benchmarks.loader import write_clip
from tests.benchmarks.processes import peak_mb
from tests.clip_factory import make_batch, make_clip
from utils.run.device import autocast
from utils.run.training import StepReader, TrainingStep, WaitingTime, compile_model
from utils.types import ClipBatch

FRAME_SIZE = 224
BASELINE = {"precision": "fp32", "compiled": False, "tf32": False, "fast": False}
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}


def arithmetic(device: torch.device, row: dict[str, Any]) -> str:
    """What a row of `measure_variant` computes in: "bf16", "fp32", or on a GPU "tf32"."""
    uses_tf32 = device.type == "cuda" and row["precision"] == "fp32" and row.get("tf32", True)
    return "tf32" if uses_tf32 else str(row["precision"])


def matrix_peaks(device: torch.device) -> dict[str, float]:
    """`matrix_peak` of each arithmetic that the device has."""
    kinds = ("bf16", "tf32", "fp32") if device.type == "cuda" else ("bf16", "fp32")
    return {kind: matrix_peak(device, kind) for kind in kinds}


def matrix_peak(device: torch.device, precision: str = "bf16", repeats: int = 20) -> float:
    """TFLOP/s of a large matrix product on this device: what its convolutions could reach at best.

    precision: "bf16", "fp32" or, on a GPU, "tf32".
    """
    size = MATRIX_SIZES[device.type]
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats if device.type == "cuda" else 3):
        finish(device)
        start = time.perf_counter()
        a @ b
        finish(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Trainer:
    """A model with what a training step needs; called with a batch in the CPU's memory, it takes a step as
    train.py does. `fused` false: an optimiser that is not.
    """

    def __init__(
        self,
        device: torch.device,
        precision: str,
        detector: nn.Module,
        criterion: nn.Module,
        *,
        fused: bool = True,
    ) -> None:
        self.device, self.precision = device, precision
        self.detector = detector.to(device)
        self.step = TrainingStep(self.detector, criterion.to(device)).train()
        self.parameters = [parameter for parameter in self.step.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=fused)
        self.reader = StepReader(device)

    def __call__(self, batch: ClipBatch) -> None:
        batch = batch.to(self.device)
        with autocast(self.device, self.precision):
            terms = self.step(batch, batch.clip_ids)
        terms["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.reader.submit(terms | {"grad_norm": norm}, batch.clip_ids, {})
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def flops_per_clip(self, num_frames: int, image_size: int) -> float:
        """Floating-point operations of one forward and backward pass, in products and convolutions."""
        batch = paper_batch(2, num_frames, image_size)
        with FlopCounterMode(display=False) as counter:
            self(batch)
        return counter.get_total_flops() / len(batch.clip_ids)


def paper_trainer(
    device: torch.device, precision: str, model: dict[str, Any], *, fused: bool = True
) -> Trainer:
    """A trainer of the paper's model; `model`: fields of its config."""
    torch.manual_seed(0)
    detector = BeyondMaskingDetector(BeyondMaskingConfig(**model))
    return Trainer(device, precision, detector, BeyondMaskingLoss(BeyondMaskingLossConfig()), fused=fused)


def paper_batch(batch_size: int, num_frames: int, image_size: int) -> ClipBatch:
    """Random clips at 25 frames per second."""
    batch = make_batch(batch_size, num_frames, size=image_size, seconds=num_frames / 25)
    return dataclasses.replace(batch, video_fps=25.0)


def measure_data_wait(
    device: torch.device,
    batch_size: int,
    num_steps: int,
    model: dict[str, Any],
    precision: str = "bf16",
    write: Callable[[Path, int], Path] = write_clip,
) -> float:
    """Share of the time of training steps in which the loop waits for its loader, with the workers that
    train.py would start, on clip folders of 10 s and full windows. The first batch does not count. `write`:
    what writes the first of these folders.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "0", 10)
        copies = [shutil.copytree(source, Path(folder) / str(n)) for n in range(1, 2 * batch_size)]
        clips = [make_clip(place) for place in (source, *copies)]
        workers = WorkerConfig(batch_size=batch_size)
        batches, sampler = training_loader(clips, DataConfig(), workers, balance="none", seed=0)
        trainer = paper_trainer(device, precision, model)

        def endless() -> Iterator[ClipBatch]:
            while True:
                yield from batches
                sampler.epoch += 1

        waiting = WaitingTime(itertools.islice(endless(), 1 + num_steps))
        start = first_wait = 0.0
        for number, batch in enumerate(waiting):
            if number == 1:
                finish(device)
                start, first_wait = time.perf_counter(), waiting.seconds
            trainer(batch)
        finish(device)
        return (waiting.seconds - first_wait) / (time.perf_counter() - start)


def measure_variant(
    device: torch.device, batch: ClipBatch, *, precision: str, compiled: bool, tf32: bool = True,
    fast: bool = True, num_steps: int, flops_per_clip: float, model: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Median seconds of a step on batches from pinned memory, after the first two. `fast` false: an optimiser
    that is not fused. Batches only come from the CPU's memory: for the loader, see `measure_data_wait`.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.cuda.reset_peak_memory_stats(device)
        batch = batch.pin_memory()
    trainer, seconds = paper_trainer(device, precision, model, fused=fast), []
    if compiled:
        torch.compiler.reset()  # or another batch size would be compiled for any size
        compile_model(trainer.detector)
    finish(device)
    start = time.perf_counter()
    for _ in range(2 + num_steps):
        trainer(batch)
        if len(seconds) < 2 or device.type == "cpu":  # later, a GPU is not waited for between steps
            finish(device)
        now = time.perf_counter()
        seconds.append(now - start)
        start = now
    finish(device)
    seconds[-1] += time.perf_counter() - start  # what was still under way belongs to the last steps
    step_s = statistics.mean(seconds[2:]) if device.type == "cuda" else statistics.median(seconds[2:])
    num_clips = len(batch.clip_ids)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "batch_size": num_clips,
        "precision": precision,
        "compiled": compiled,
        "tf32": tf32 and device.type == "cuda",
        "fused_optimizer": fast,
        "step_s": step_s,
        "clips_per_s": num_clips / step_s,
        "tflops": flops_per_clip * num_clips / step_s / 1e12,
        "peak_memory_gb": peak,
    }


def measure_rows(
    device: torch.device,
    batch_sizes: Sequence[int],
    variants: Sequence[dict[str, Any]],
    *,
    num_frames: int,
    image_size: int,
    num_steps: int,
    model: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """A row of figures for each batch size and variant (arguments of `measure_variant`), with its share of
    the matrix peak in its own arithmetic.
    """
    peaks, model = matrix_peaks(device), {"image_size": image_size} | model
    flops_per_clip = paper_trainer(device, "bf16", model).flops_per_clip(num_frames, image_size)
    for batch_size in batch_sizes:
        batch = paper_batch(batch_size, num_frames, image_size)
        for variant in variants:
            row = measure_variant(
                device, batch, **variant, num_steps=num_steps, flops_per_clip=flops_per_clip, model=model
            )
            peak = peaks[arithmetic(device, row)]
            yield row | {
                "share_of_peak": row["tflops"] / peak,
                "peak_tflops": peak,
                "tflop_per_clip": flops_per_clip / 1e12,
            }


def measure(
    device: str = "cpu",
    *,
    batch_sizes: Sequence[int] | None = None,
    num_frames: int = 60,
    image_size: int = FRAME_SIZE,
    num_steps: int | None = None,
    compile_too: bool | None = None,
    checkpoint_activations: bool = False,
) -> dict[str, Any]:
    """All variants of the default model on clips of `num_frames` at 25 fps; the figures of the fastest bf16
    row stand at the top, `bf16_ratio` against the eager float32 baseline of the same batch size.
    """
    where = torch.device(device)
    on_gpu = where.type == "cuda"
    compile_too = on_gpu if compile_too is None else compile_too
    num_steps = num_steps or (10 if on_gpu else 2)  # on a CPU a step of the paper's size takes a minute
    model = {"image_size": image_size, "checkpoint_activations": checkpoint_activations}
    variants: list[dict[str, Any]] = [
        {"precision": p, "compiled": c} for p in ("fp32", "bf16") for c in (False, compile_too)
    ]
    variants = [variant for n, variant in enumerate(variants) if variant not in variants[:n]]
    if on_gpu:
        variants.append(BASELINE)
    sizes = {"num_frames": num_frames, "image_size": image_size, "num_steps": num_steps}
    batch_sizes = batch_sizes or ((4, 16) if on_gpu else (2,))
    rows = list(measure_rows(where, batch_sizes, variants, **sizes, model=model))
    largest = max(row["batch_size"] for row in rows)
    at_largest = [row for row in rows if row["batch_size"] == largest]
    fastest = min((row for row in at_largest if row["precision"] == "bf16"), key=lambda row: row["step_s"])
    baseline = [row for row in at_largest if row["precision"] == "fp32" and not row["compiled"]][-1]
    return {
        "device": torch.cuda.get_device_name(where) if on_gpu else "cpu",
        "num_frames": num_frames,
        "image_size": image_size,
        "tflop_per_clip": fastest["tflop_per_clip"],
        "matrix_peak_tflops": fastest["peak_tflops"],
        "step_s": fastest["step_s"],
        "clips_per_s": fastest["clips_per_s"],
        "tflops": fastest["tflops"],
        "share_of_peak": fastest["share_of_peak"],
        "data_wait_share": measure_data_wait(where, largest, num_steps, model),
        "bf16_ratio": baseline["step_s"] / fastest["step_s"],
        "peak_memory_gb": fastest["peak_memory_gb"] if on_gpu else peak_mb() / 1024,  # all variants together
        "rows": rows,
    }
