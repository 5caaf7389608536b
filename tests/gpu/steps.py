"""The measurements of tests/gpu.sh, each in a process of its own:

    python -m tests.gpu.steps STEP cuda|cpu FIGURES.json

FIGURES.json is written again after every row, so a step that is stopped keeps the rows that it has.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.beyond_masking.config import BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from tests.benchmarks import memory, train
from tests.benchmarks.loader import write_clip
from tests.benchmarks.processes import in_new_process
from tests.gpu import plain_files
from utils.run.device import set_float32_math

Row = dict[str, Any]


def sizes(device: torch.device) -> dict[str, int]:
    """The paper's clips, or tiny ones for a rehearsal."""
    if device.type == "cuda":
        return {"num_frames": 60, "image_size": 224}
    return {"num_frames": 4, "image_size": 16}


def batch_sizes(device: torch.device, *, is_slow: bool = False) -> tuple[int, ...]:
    """The larger and the smaller batch; of what `is_slow`, a rehearsal has the smaller one alone."""
    if device.type == "cuda":
        return (16, 4)
    return (2,) if is_slow else (4, 2)


def precisions(device: torch.device, *, is_slow: bool = False) -> tuple[str, ...]:
    """What is compared; of what `is_slow`, a rehearsal has bf16 alone."""
    return ("bf16",) if is_slow and device.type != "cuda" else ("bf16", "fp32")


def peak(device: torch.device) -> Iterator[Row]:
    """TFLOP/s of a large matrix product in each arithmetic."""
    for kind, tflops in train.matrix_peaks(device).items():
        yield {"arithmetic": kind, "tflops": tflops}


def _train(device: torch.device, variants: list[Row], *, compiled: bool) -> Iterator[Row]:
    options = sizes(device) | {"num_steps": 10 if device.type == "cuda" else 1, "model": {}}
    variants = [{"compiled": compiled} | variant for variant in variants]
    yield from train.measure_rows(device, batch_sizes(device, is_slow=compiled), variants, **options)


def train_eager(device: torch.device) -> Iterator[Row]:
    """Training steps as they are by default, and the baseline without TF32."""
    baseline = [train.BASELINE] if device.type == "cuda" else []
    variants: list[Row] = [{"precision": name} for name in precisions(device)]
    yield from _train(device, [*variants, *baseline], compiled=False)


def train_compiled(device: torch.device) -> Iterator[Row]:
    """Training steps with --compile."""
    variants: list[Row] = [{"precision": name} for name in precisions(device, is_slow=True)]
    yield from _train(device, variants, compiled=True)


def _evaluate(device: torch.device, *, compiled: bool) -> Iterator[Row]:
    from tests.benchmarks import evaluate  # imports scikit-learn, which takes seconds

    size, peaks = sizes(device), train.matrix_peaks(device)
    set_float32_math(device)  # convolutions in TF32, as test.py has it
    model = BeyondMaskingDetector(BeyondMaskingConfig(image_size=size["image_size"])).to(device).eval()
    batch = train.paper_batch(2, **size).to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(batch)
    tflop_per_clip = counter.get_total_flops() / len(batch.clip_ids) / 1e12
    for batch_size in batch_sizes(device, is_slow=compiled):
        for precision in precisions(device, is_slow=compiled):
            options = {"batch_size": batch_size, "num_batches": 10 if device.type == "cuda" else 1}
            row = evaluate.measure(str(device), **options, **size, precision=precision, compiled=compiled)
            tflops = tflop_per_clip * row["clips_per_s"]
            share = tflops / peaks[train.arithmetic(device, row)]
            yield row | {"tflops": tflops, "share_of_peak": share, "tflop_per_clip": tflop_per_clip}


def evaluate_eager(device: torch.device) -> Iterator[Row]:
    """Scoring windows."""
    yield from _evaluate(device, compiled=False)


def evaluate_compiled(device: torch.device) -> Iterator[Row]:
    """Scoring windows with a compiled model."""
    yield from _evaluate(device, compiled=True)


def memory_peaks(device: torch.device) -> Iterator[Row]:
    """Peak memory of a bf16 training step, with and without --checkpoint_activations."""
    size = tuple(sizes(device).values())
    for batch_size in batch_sizes(device, is_slow=True):
        for checkpointed in (False, True):
            yield in_new_process(memory.measure_steps, str(device), size, batch_size, checkpointed)


def write_short(write: Callable[[Path, int], Path], folder: Path, _: int) -> Path:
    """A clip of three seconds, for a rehearsal."""
    return write(folder, 3)


def data_wait(device: torch.device) -> Iterator[Row]:
    """Share of the time of bf16 training steps in which the loop waits for its loader."""
    is_plain, on_gpu = plain_files.are_needed(), device.type == "cuda"
    write = plain_files.write_plain_clip if is_plain else write_clip
    if not on_gpu:
        write = functools.partial(write_short, write)
    model = {"image_size": sizes(device)["image_size"]}  # windows of 60 frames in any case
    for batch_size in batch_sizes(device, is_slow=True):
        with plain_files.plain_sound() if is_plain else contextlib.nullcontext():
            share = train.measure_data_wait(device, batch_size, 12 if on_gpu else 1, model, write=write)
        readers = "OpenCV and a plain wav reader" if is_plain else "PyAV and soundfile"
        yield {"batch_size": batch_size, "precision": "bf16", "data_wait_share": share, "readers": readers}


STEPS: dict[str, Callable[[torch.device], Iterator[Row]]] = {
    function.__name__: function
    for function in (
        *(peak, train_eager, evaluate_eager, memory_peaks, data_wait, train_compiled, evaluate_compiled),
    )
}


def main(name: str, device: str, output: Path) -> None:
    """Run a step; each of its rows is written at once."""
    rows: list[Row] = []
    if device == "cpu":  # in a rehearsal every step is to be short; to compile C++ takes minutes
        train.MATRIX_SIZES["cpu"] = 512
        method = functools.partialmethod(nn.Module.compile, backend="aot_eager")
        nn.Module.compile = method  # type: ignore[assignment, method-assign]
    for row in STEPS[name](torch.device(device)):
        rows.append(row)
        output.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
