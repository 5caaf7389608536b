"""What the steps of a training are made of, in one process or several."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from utils.errors import FrameworkError
from utils.run import distributed
from utils.run.loop_config import LoopConfig
from utils.types import ClipBatch

log = logging.getLogger("train")
HALF_WAVE_STEPS = 150  # of the learning rate in the published code of Exposing the Deception


class NotFiniteError(FrameworkError):
    """A loss or a score is NaN or infinite."""


def require_finite(numbers: Mapping[str, float], clip_ids: Iterable[str]) -> None:
    """Raise NotFiniteError, naming number and clips, if a number of a batch is NaN or infinite."""
    for name, value in numbers.items():
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
        if names := untaught_outputs(self.criterion):
            output = dataclasses.replace(output, **{name: getattr(output, name).detach() for name in names})
        if distributed.world_size() > 1:
            output, batch = distributed.gather_batch(output, batch, clip_ids)
        return self.criterion(output, batch)


def untaught_outputs(criterion: nn.Module) -> tuple[str, ...]:
    """Fields of the output that the objective sends no gradient to, as it says in `untaught_outputs`.

    Of several processes each would send a gradient of 0, which lets Adam decay the weights of such a head.
    """
    return tuple(getattr(criterion, "untaught_outputs", ()))


def compile_model(model: nn.Module) -> None:
    """torch.compile in place, but for modules that say of themselves that they stay eager.

    Transformer layers lose torch's fused inference path: when compiled, its inputs are not cast under
    a CPU's autocast, so bf16 activations meet float32 weights ("m1 and m2 ... BFloat16 != float").
    """
    for module in model.modules():
        if getattr(module, "stays_eager", False):
            module.forward = torch.compiler.disable(module.forward)
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # to torch: an activation that the fused path does not have
    model.compile()


def parallel(step: TrainingStep) -> nn.Module:
    """The step, its gradients shared between the processes; itself in a single one."""
    if distributed.world_size() == 1:
        return step
    without_gradient = bool(untaught_outputs(step.criterion))
    return nn.parallel.DistributedDataParallel(step, find_unused_parameters=without_gradient)


def shares_gradients(step: nn.Module, *, now: bool) -> contextlib.AbstractContextManager[None]:
    """Context of a forward and backward pass, after which processes share gradients (`now`) or not yet."""
    if now or not isinstance(step, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = step.no_sync()
    return context


def loss_groups(criterion: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of an objective: its own `parameter_groups()`, or one of all its parameters."""
    own: Callable[[], list[dict[str, Any]]] | None = getattr(criterion, "parameter_groups", None)
    return own() if own else [{"params": [p for p in criterion.parameters() if p.requires_grad]}]


class Plateau(ReduceLROnPlateau):
    """Halves the learning rate when the training loss has not fallen for eight epochs (published code of
    2D3MF, with its numbers).
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, factor=0.5, patience=7, min_lr=1e-8)

    def step(  # type: ignore[override]  # as torch's own
        self, metrics: SupportsFloat | None = None, epoch: int | None = None
    ) -> None:
        """Nothing after a step of the optimiser; after an epoch, with its training loss, see above."""
        if metrics is not None:
            super().step(metrics, epoch)

    def is_over(self) -> bool:
        """Whether the rate is so low that the published code trains no further epoch."""
        return max(map(float, self.get_last_lr())) <= 1e-6


def make_optimizer(
    config: LoopConfig, groups: list[dict[str, Any]], steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, LambdaLR | Plateau]:
    """The optimiser of these parameter groups, and the schedule of its learning rate, one step at a time:
    linear warm-up, then "constant" or a "cosine" down to `min_learning_rate`; or "waves" of a cosine, the
    same in every epoch; or "plateau". A group's "lr_scale" multiplies its rate.
    """
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    trained = [dict(group) for group in groups if group["params"]]
    for group in trained:
        group["lr"] = group.get("lr", config.learning_rate) * group.pop("lr_scale", 1.0)
    options = {"lr": config.learning_rate, "betas": config.adam_betas, "weight_decay": config.weight_decay}
    optimizer = kind(trained, fused=True, **options)
    if config.schedule == "plateau":
        return optimizer, Plateau(optimizer)
    warmup_steps, total_steps = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    floor = config.min_learning_rate / config.learning_rate

    def factor(step: int) -> float:
        if config.schedule == "waves":
            return 0.5 * (1 + math.cos(math.pi * (step % steps_per_epoch) / HALF_WAVE_STEPS))
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if config.schedule == "constant":
            return 1.0
        progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return optimizer, LambdaLR(optimizer, factor)


class WaitingTime:
    """Passes batches on and adds up the seconds in which the loop waited for them."""

    def __init__(self, batches: Iterable[ClipBatch]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[ClipBatch]:
        start = time.monotonic()
        for batch in self.batches:
            self.seconds += time.monotonic() - start
            yield batch
            start = time.monotonic()


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
