"""Resuming a run: what last.pt holds besides the weights, and signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from utils.checkpoint.files import newest_checkpoint
from utils.config import Sections
from utils.errors import CheckpointError, UsageError
from utils.names import brief
from utils.run import distributed
from utils.run.config_file import require_same
from utils.run.training import Plateau

STATE = {"config", "split_checksums", "bad_clips", "model", "criterion", "optimizer", "scheduler"}
STATE |= {"best_value", "epochs_since_best", "progress", "random"}


class Best:
    """The one place that decides whether an epoch is better, and how long ago the last better one was."""

    def __init__(self, *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self.value: float | None = None
        self.epochs_since = 0

    def is_better(self, value: float) -> bool:
        """Whether `update` would take a value for the best so far."""
        if self.value is None:
            return True
        return value > self.value if self.higher_is_better else value < self.value

    def update(self, value: float) -> bool:
        """Take an epoch's value; True if it is the best so far (a tie is not)."""
        if self.is_better(value):
            self.value, self.epochs_since = value, 0
            return True
        self.epochs_since += 1
        return False


@dataclass
class Progress:
    """How far a training has come: the next step to compute."""

    epoch: int = 0
    step: int = 0  # steps of this epoch that are done
    sums: dict[str, float] = field(default_factory=dict)  # of the loss terms over these steps


@dataclass
class TrainingState:
    """All that the next step depends on; the data come from (seed, epoch, step) alone."""

    model: nn.Module
    criterion: nn.Module
    step: nn.Module  # (batch, clip ids) -> loss terms: a TrainingStep of both
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR | Plateau
    best: Best
    device: torch.device
    progress: Progress = field(default_factory=Progress)

    def as_plain(self) -> dict[str, Any]:
        """The state for last.pt. All processes call it together: each has its own random generators."""
        within = self.progress.step > 0  # an epoch begins with new seeds
        return {
            "model": self.model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best_value": self.best.value,
            "epochs_since_best": self.best.epochs_since,
            "progress": dataclasses.asdict(self.progress),
            "random": distributed.gather_objects(_random_state(self.device)) if within else [],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `as_plain` gave. Raises UsageError if it was made by another number of processes in
        the middle of an epoch, CheckpointError if it is of another model.
        """
        try:
            for name in ("model", "criterion", "optimizer", "scheduler"):
                getattr(self, name).load_state_dict(saved[name])
            _take_layout_of_weights(self.optimizer)
            self.progress = Progress(**saved["progress"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the saved state does not fit the run ({brief(str(error))})") from error
        self.best.value, self.best.epochs_since = saved["best_value"], saved["epochs_since_best"]
        if not self.progress.step:
            return
        states = saved["random"]
        if len(states) != distributed.world_size():
            raise UsageError(
                f"the run stopped in the middle of an epoch of {len(states)} process(es): go on with as "
                f"many, not {distributed.world_size()}"
            )
        _restore_random_state(states[distributed.rank()], self.device)


def _take_layout_of_weights(optimizer: torch.optim.Optimizer) -> None:
    """Lay moments out in memory as their weights are: the fused optimisers read both in that order.

    A checkpoint may be of a version whose weights had another layout.
    """
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if torch.is_tensor(value) and value.shape == weight.shape and value.stride() != weight.stride():
                moments[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _random_state(device: torch.device) -> dict[str, Any]:
    """Python's, NumPy's and torch's generators as tensors and plain values."""
    state: Any = np.random.get_state()  # noqa: NPY002 (third-party code may use the global generator)
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def saved_state(run_dir: Path, config: Sections) -> dict[str, Any]:
    """What --resume continues: the newest whole last.pt. Raises UsageError if there is none, or if it is
    another run's, CheckpointError if it cannot be read or holds no state of a run.
    """
    found = newest_checkpoint(run_dir / "last.pt")
    if not found:
        raise UsageError(f"{run_dir / 'last.pt'}: there is nothing to resume; start without --resume")
    path, saved = found
    if missing := sorted(STATE - saved.keys()):
        raise CheckpointError(
            f"{path}: holds no run to go on with, but other weights (it has no {', '.join(missing)})"
        )
    before = saved["config"]
    asked = {  # a flag that the run is older than had its default then
        section: {name: value for name, value in values.items() if name in before.get(section, {})}
        for section, values in config.items()
    }
    require_same(before, asked)
    return saved


def require_no_run(run_dir: Path) -> None:
    """Raise UsageError if a run has saved a checkpoint in its folder."""
    if any(run_dir.glob("last*.pt")):
        raise UsageError(f"{run_dir} already holds a run: --resume continues it, or choose another --run_dir")


class StopRequest:
    """SIGTERM or Ctrl-C, of which the training loop hears after its step, or while it waits for a batch; a
    second Ctrl-C ends it at once.
    """

    current: ClassVar[StopRequest | None] = None  # within `stop_request`

    def __init__(self) -> None:
        self.number, self.is_waiting = 0, False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self.is_waiting:
            raise distributed.StopWaiting

    def heard(self) -> int:
        """The signal's number, whichever process got it; 0 if none did."""
        return max(distributed.gather_objects(self.number))


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Signals are remembered while the context lasts."""
    request = StopRequest()
    StopRequest.current = request
    before = {number: signal.signal(number, request._remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        StopRequest.current = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A wait that may last: a stop request, also one from before, raises StopWaiting in it."""
    request = StopRequest.current
    if request is None:
        yield
        return
    request.is_waiting = True
    try:
        if request.number:
            raise distributed.StopWaiting
        yield
    finally:
        request.is_waiting = False
