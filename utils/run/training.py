"""One epoch of training, in one process or several, and what its steps are made of."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.errors import FrameworkError
from utils.run import distributed
from utils.run.device import autocast
from utils.run.log import RunLog
from utils.run.resume import TrainingState
from utils.types import ClipBatch

log = logging.getLogger("train")


class NotFiniteError(FrameworkError):
    """A loss or a score is NaN or infinite."""


def require_finite(values: Mapping[str, float], clip_ids: Iterable[str]) -> None:
    """Raise NotFiniteError that names the term and the clips if a value is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value} on the batch of clips {', '.join(clip_ids)}; look at them with "
                "preprocess.verify, or lower --learning_rate"
            )


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


def compile_model(model: nn.Module) -> None:
    """torch.compile in place, but for modules that say of themselves that they stay eager."""
    for module in model.modules():
        if getattr(module, "stays_eager", False):
            module.forward = torch.compiler.disable(module.forward)
    model.compile()


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


def train_epoch(
    step: nn.Module,
    state: TrainingState,
    batches: Any,
    run_log: RunLog,
    *,
    precision: str,
    accumulate_steps: int,
    max_grad_norm: float,
    after_step: Callable[[Callable[[], None]], bool],
) -> dict[str, float] | None:
    """The rest of one pass over the training clips, from `state.progress` on, which is kept up to date.

    Returns the mean of every loss term over the whole epoch; None if `after_step`, called after every step
    but the epoch's last, said that training stops here. It is given a function that brings `progress` and
    the curves up to date, to be called before they are saved. `batches`: a loader whose `batch_sampler` is a
    loaders.batches.samplers.TrainingBatches. Gradients are clipped to `max_grad_norm`, 0 = not.
    """
    optimizer, scheduler, progress, device = state.optimizer, state.scheduler, state.progress, state.device
    batches.batch_sampler.first_step = progress.step
    step.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    num_parts, num_steps = accumulate_steps, batches.batch_sampler.num_steps
    reader, part_terms = StepReader(device), []
    start, num_clips, step_ids = time.monotonic(), 0, ()
    waiting = WaitingTime(batches)
    bar = tqdm(
        waiting, f"epoch {progress.epoch}", len(batches), leave=False, unit="batch",
        disable=not distributed.is_main(),
    )  # fmt: skip

    def record(finished: list[dict[str, float]]) -> None:
        for numbers in finished:
            run_log.train_step(numbers)
            for name in terms:
                progress.sums[name] = progress.sums.get(name, 0.0) + numbers[name]
            rate = num_clips / (time.monotonic() - start)
            bar.set_postfix(loss=f"{numbers['total']:.3f}", clips_per_s=f"{rate:.1f}")

    for number, batch in enumerate(bar, start=1):
        is_last_part = number % num_parts == 0
        batch, clip_ids = distributed.pad_to_longest(batch)
        batch = batch.to(device)
        with shares_gradients(step, now=is_last_part):
            with autocast(device, precision):
                terms = step(batch, clip_ids)
            (terms["total"] / num_parts).backward()
        part_terms.append({name: value.detach() for name, value in terms.items()})
        step_ids += clip_ids
        if not is_last_part:
            continue
        grad_norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf, error_if_nonfinite=False)
        num_clips += len(step_ids)
        means = {name: sum(part[name] for part in part_terms) / num_parts for name in terms}
        rate = {"learning_rate": scheduler.get_last_lr()[0]}
        record(reader.submit(means | {"grad_norm": grad_norm}, step_ids, rate))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        part_terms, step_ids = [], ()
        progress.step += 1
        if progress.step < num_steps and after_step(lambda: record(reader.flush())):
            return None
    record(reader.flush())
    seconds = time.monotonic() - start
    share = waiting.seconds / seconds
    log.info("epoch %d: %d clips, %.1f clips/s, data wait %.1f %%",
             progress.epoch, num_clips, num_clips / seconds, 100 * share)  # fmt: skip
    run_log.curves({"speed/data_wait": share}, run_log.step - 1)
    return {f"train_{name}": value / num_steps for name, value in progress.sums.items()}
