"""What one optimiser step is made of, beside the model and its loss: see the loop in train.py."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from utils import distributed
from utils.evaluation import require_finite
from utils.types import ClipBatch


class TrainingStep(nn.Module):
    """Model and loss as one module, (ClipBatch, ids of the global batch) -> loss terms.

    Of several processes each puts its clips through the model, and all compute the loss of all of them.
    """

    def __init__(self, model: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, batch: ClipBatch, clip_ids: tuple[str, ...]) -> dict[str, Tensor]:
        output = self.model(batch)
        if distributed.world_size() > 1:
            output, batch = distributed.gather_batch(output, batch, clip_ids)
        return self.criterion(output, batch)


def parallel(step: TrainingStep) -> nn.Module:
    """The step, its gradients shared between the processes; itself in a single one."""
    if distributed.world_size() == 1:
        return step
    return nn.parallel.DistributedDataParallel(step)


def shares_gradients(step: nn.Module, *, now: bool) -> contextlib.AbstractContextManager[None]:
    """The context of a forward and backward pass after which the processes share gradients, or do not yet."""
    is_parallel = isinstance(step, nn.parallel.DistributedDataParallel)
    return step.no_sync() if is_parallel and not now else contextlib.nullcontext()


def learning_rate_factor(schedule: str, warmup_steps: float, total_steps: int) -> Callable[[int], float]:
    """step -> factor on the learning rate: linear warm-up, then "constant" or a "cosine" down to 0."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if schedule == "constant":
            return 1.0
        progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


class WaitingTime:
    """Passes batches on and adds up the seconds in which the loop waited for them."""

    def __init__(self, batches: Iterable[ClipBatch]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[ClipBatch]:
        iterator = iter(self.batches)
        while True:
            start = time.monotonic()
            batch = next(iterator, None)
            self.seconds += time.monotonic() - start
            if batch is None:
                return
            yield batch


class StepReader:
    """Brings the numbers of every step to the CPU in one transfer and checks that they are finite.

    On a GPU they are read one step late, so that it need not stand still meanwhile: what is not finite is
    then found a step later, before anything of it was saved.
    """

    def __init__(self, device: torch.device) -> None:
        self.lag = 1 if device.type == "cuda" else 0
        self.pending: deque[tuple[Any, ...]] = deque()

    def submit(
        self, values: dict[str, Tensor], clip_ids: tuple[str, ...], known: dict[str, float]
    ) -> list[dict[str, float]]:
        """Take the 0-d tensors of a step, and what the CPU knows of it; returns the numbers of the steps that
        are readable by now. Raises NotFiniteError that names their clips.
        """
        row = torch.stack([value.detach().float() for value in values.values()])
        copy, done = row.to("cpu", non_blocking=True), None
        if row.is_cuda:
            done = torch.cuda.Event()
            done.record()
        self.pending.append((list(values), copy, done, clip_ids, known))
        return list(self._read(self.lag))

    def flush(self) -> list[dict[str, float]]:
        """The numbers of the steps that were not yet read."""
        return list(self._read(0))

    def _read(self, num_left: int) -> Iterator[dict[str, float]]:
        while len(self.pending) > num_left:
            names, copy, done, clip_ids, known = self.pending.popleft()
            if done is not None:
                done.synchronize()
            numbers = dict(zip(names, copy.tolist(), strict=True))
            require_finite(numbers, clip_ids)
            yield numbers | known
