"""Logits over time: what the windows that slide over a clip say of its steps.

A stream is what is looked for: a forged "video" (the picture), "audio" (the sound), or either, "clip".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.evaluation.metrics import Floats
from utils.evaluation.scoring import evaluation_mode
from utils.run import distributed
from utils.run.device import autocast
from utils.run.training import NotFiniteError
from utils.types import ClipBatch, DetectorOutput

STREAMS = ("clip", "video", "audio")
POOLS: dict[str, Callable[..., Any]] = {"mean": np.nanmean, "min": np.nanmin}
# logits of a window: (3, 1), or (3, steps) one for each of its steps; NaN where the method has no such head
WindowLogits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClipTimeline:
    """Logits of windows that cover a clip of T steps, the frames that a model sees."""

    num_steps: int  # T
    step_s: float
    starts: Sequence[int]  # n, the step at which a window begins
    length: int  # steps of a window
    logits: Sequence[WindowLogits]  # n

    @property
    def duration_s(self) -> float:
        return self.num_steps * self.step_s

    def has(self, stream: str) -> bool:
        """Whether there are logits of a stream."""
        return bool(self.logits) and not bool(np.isnan(self.logits[0][STREAMS.index(stream)]).any())

    def pooled(self, stream: str, pool: str) -> Floats:
        """(T,) logits: `pool` (of POOLS) of the windows that show a step, linear between them.

        A window is fake if it shows something forged. So where the method is right, the least of the windows
        that show a step is its own label, but for steps that all windows show together with a forged one.
        """
        table = np.full((len(self.starts), self.num_steps), np.nan)
        for row, start, values in zip(table, self.starts, self.logits, strict=True):
            of_stream = values[STREAMS.index(stream)]
            shown = row[start : start + max(self.length, len(of_stream))]
            shown[: len(of_stream) if len(of_stream) > 1 else None] = of_stream[: len(shown)]
        known = np.flatnonzero(~np.isnan(table).all(axis=0))
        return np.interp(np.arange(self.num_steps), known, POOLS[pool](table[:, known], axis=0))


@torch.no_grad()
def score_windows(
    model: nn.Module,
    batches: Iterable[ClipBatch],
    device: torch.device,
    precision: str,
    *,
    description: str,
    alone: bool = False,
) -> dict[str, list[WindowLogits]]:
    """Clip id -> the logits of its windows, in the order of the batches.

    With N processes all call it with their share of the batches, and all get everything, unless this one is
    `alone` with all of them. Raises NotFiniteError if a logit is not finite, naming the clips of its batch.
    """
    quiet = not distributed.is_main()
    progress = tqdm(batches, desc=description, leave=False, disable=quiet, unit="batch")
    here: list[list[tuple[str, WindowLogits]]] | None = None
    # `collect` raises it in all processes
    with evaluation_mode(model), contextlib.suppress(*(() if alone else (distributed.StopWaiting,))):
        here = [_score(model, batch, device, precision) for batch in progress]
    found: dict[str, list[WindowLogits]] = {}
    for rows in here if alone and here is not None else distributed.collect(here):
        for clip_id, row in rows:
            found.setdefault(clip_id, []).append(row)
    return found


def _score(
    model: nn.Module, batch: ClipBatch, device: torch.device, precision: str
) -> list[tuple[str, WindowLogits]]:
    """(clip id, logits) of each window of a batch."""
    with autocast(device, precision):
        output: DetectorOutput = model(batch.to(device))
    logits = logits_of_streams(output).float().cpu()  # (B, 3, 1 or T)
    has_head = torch.tensor([True, output.video_logits is not None, output.audio_logits is not None])
    if not logits[:, has_head].isfinite().all():
        raise NotFiniteError(f"a score is not finite on the batch of clips {', '.join(batch.clip_ids)}")
    lengths = (~batch.video_padding_mask).sum(dim=1).tolist()
    pairs = zip(batch.clip_ids, logits.numpy(), lengths, strict=True)
    return [(clip_id, row[:, :length].copy()) for clip_id, row, length in pairs]


def logits_of_heads(output: DetectorOutput) -> Tensor:
    """(B, 3) logits: clip, picture, sound; NaN if the method lacks the head."""
    nothing = torch.full_like(output.logits, torch.nan)
    heads = [nothing if head is None else head for head in (output.video_logits, output.audio_logits)]
    return torch.stack([output.logits, *heads], dim=1)


def logits_of_streams(output: DetectorOutput) -> Tensor:
    """(B, 3, 1), or (B, 3, T) of a method that judges frames: those of the picture, too, if it only sees."""
    values = logits_of_heads(output)[..., None]
    if output.frame_logits is None:
        return values
    values = values.repeat(1, 1, output.frame_logits.shape[1])
    values[:, 0] = output.frame_logits
    if output.video_logits is not None and output.audio_logits is None:
        values[:, 1] = output.frame_logits
    return values
