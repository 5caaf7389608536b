"""How much memory a training step takes, with and without `--checkpoint_activations`.

The peak of a process that has taken a step of the paper's model in bf16 on random clips, after one on two of
them that gave the optimiser its state. On a CPU all is counted, Python and its libraries, too; on a GPU the
tensors in its memory. Each batch has its own process.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from tests.benchmarks.processes import in_new_process, peak_mb
from tests.benchmarks.train import FRAME_SIZE, paper_batch, paper_trainer

BATCHES = ((2, False), (4, False), (4, True), (16, True))  # clips, with checkpointing


def measure_steps(device: str, size: tuple[int, int], batch_size: int, checkpoint: bool) -> dict[str, Any]:
    """Peak in GB and seconds of a step; `size`: frames of a clip, pixels of their side."""
    num_frames, image_size = size
    where = torch.device(device)
    trainer = paper_trainer(where, "bf16", {"image_size": image_size, "checkpoint_activations": checkpoint})
    for num_clips in (2, batch_size):
        batch = paper_batch(num_clips, num_frames, image_size)
        start = time.perf_counter()
        trainer(batch)
        trainer.reader.flush()
        step_s = time.perf_counter() - start
    if where.type == "cuda":
        peak_gb = torch.cuda.max_memory_allocated(where) / 2**30
    else:
        peak_gb = peak_mb() / 1024
    return {"batch_size": batch_size, "checkpointed": checkpoint, "peak_gb": peak_gb, "step_s": step_s}


def measure(device: str = "cpu", *, num_frames: int = 60, image_size: int = FRAME_SIZE) -> dict[str, Any]:
    """GB of each batch, and of each further clip; `checkpointed_step_ratio` is what checkpointing costs in
    time, at 4 clips.
    """
    size = num_frames, image_size
    rows = [in_new_process(measure_steps, device, size, *batch) for batch in BATCHES]
    plain, checkpointed = rows[:2], rows[2:]
    figures: dict[str, Any] = {"num_frames": num_frames, "image_size": image_size}
    for name, (small, large) in {"plain": plain, "checkpointed": checkpointed}.items():
        for row in (small, large):
            figures[f"{name}_gb_batch_{row['batch_size']}"] = row["peak_gb"]
        further_clips = large["batch_size"] - small["batch_size"]
        figures[f"{name}_gb_per_clip"] = (large["peak_gb"] - small["peak_gb"]) / further_clips
    figures["checkpointed_step_ratio"] = checkpointed[0]["step_s"] / plain[1]["step_s"]
    return figures | {"rows": rows}
