"""A training run while it lives: where it is, what it logs and saves, and when it stops."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from tqdm import tqdm

from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import CheckpointError
from utils.run import distributed
from utils.run.bad_clips import BadClips
from utils.run.log import RunLog
from utils.run.loop_config import LoopConfig
from utils.run.resume import Progress, StopRequest, TrainingState
from utils.run.seed import seed_everything
from utils.run.training import Plateau, StepReader, WaitingTime, shares_gradients
from utils.types import ClipBatch

log = logging.getLogger("train")
SAID = {  # after each epoch, where a run has it: name for the log <- column
    "train_total": "train loss",
    "val_loss": "val loss",
    "val_auc": "val AUC",
    "val_eer": "EER",
    "val_accuracy": "accuracy",
}
NOT_TERMS = ("grad_norm", "learning_rate")  # of a step's numbers: those that are not loss terms


class TrainingLoader(Protocol):
    """What a run reads: see loaders.batches.data_loader.training_loader."""

    batch_sampler: Any  # a TrainingBatches, with `first_step`, `num_steps` and the sampler that has `epoch`
    bad_clips: BadClips

    def __iter__(self) -> Iterator[ClipBatch]: ...
    def __len__(self) -> int: ...


@dataclass
class Run:
    """Everything of a training that is not its mathematics; train.py's loop shows the order of the calls."""

    run_dir: Path
    config: LoopConfig
    state: TrainingState
    loader: TrainingLoader
    request: StopRequest
    known: Mapping[str, Any]  # what every checkpoint repeats: config, environment, split_checksums
    save_every_steps: int
    keep_checkpoints: int
    is_step: bool = False  # the current batch is the last part of its step
    clip_ids: tuple[str, ...] = ()  # of the current batch, over all processes

    def __post_init__(self) -> None:
        self.bad_clips = self.loader.bad_clips
        self.num_steps: int = self.loader.batch_sampler.num_steps
        self.parameters = [p for group in self.state.optimizer.param_groups for p in group["params"]]
        done = self.progress.epoch * self.num_steps + self.progress.step
        self.log = RunLog(self.run_dir, first_step=done, num_epochs=self.progress.epoch)
        self._reader, self._bar = StepReader(self.state.device), tqdm(disable=True)
        self._start, self._num_clips = 0.0, 0  # of this epoch, in this process's life
        self._sums: dict[str, Tensor] = {}  # of the loss terms over the parts of this step
        self._step_ids: tuple[str, ...] = ()

    @property
    def progress(self) -> Progress:
        """The next step to compute."""
        return self.state.progress

    def epochs(self) -> Iterator[int]:
        """Numbers of the epochs that are left, one that was begun included. Ends early on a signal, after
        `patience` epochs without a better one, or at the lowest learning rate of a plateau.
        """
        while self.progress.epoch < self.config.epochs and not self.request.heard():
            if self.config.patience and self.state.best.epochs_since >= self.config.patience:
                text = "stopped: %d epochs without a better %s"
                log.info(text, self.state.best.epochs_since, self.config.select_by)
                return
            if isinstance(self.state.scheduler, Plateau) and self.state.scheduler.is_over():
                log.info("stopped: the learning rate is down to %.1e", self.state.scheduler.get_last_lr()[0])
                return
            if self.progress.step == 0:
                seed_everything(self.config.seed, self.progress.epoch + 1, distributed.rank())
                if self.config.schedule == "waves":
                    self.state.optimizer.state.clear()
            self.loader.batch_sampler.sampler.epoch = self.bad_clips.epoch = self.progress.epoch
            yield self.progress.epoch

    def batches(self) -> Iterator[ClipBatch]:
        """This process's batches for the rest of the epoch, on the device; sets `is_step` and `clip_ids`.

        Processes share gradients in a step's last part only.
        """
        self.loader.batch_sampler.first_step = self.progress.step
        self.state.step.train()
        self._start, self._num_clips = time.monotonic(), 0
        waiting = WaitingTime(self.loader)
        title, is_quiet = f"epoch {self.progress.epoch}", not distributed.is_main()
        self._bar = tqdm(waiting, title, len(self.loader), leave=False, unit="batch", disable=is_quiet)
        for number, batch in enumerate(self._read_all(), start=1):
            self.is_step = number % self.config.accumulate_steps == 0
            padded, self.clip_ids = distributed.pad_to_longest(batch)
            with shares_gradients(self.state.step, now=self.is_step):
                yield padded.to(self.state.device)
        self._record(self._reader.flush())
        seconds = time.monotonic() - self._start
        share, rate = waiting.seconds / seconds, self._num_clips / seconds
        log.info("%s: %d clips, %.1f clips/s, data wait %.1f %%", title, self._num_clips, rate, 100 * share)
        self.log.curves({"speed/data_wait": share}, self.log.step - 1)
        distributed.same_buffers(self.state.model)

    def _read_all(self) -> Iterator[ClipBatch | None]:
        """The batches, at last None if a stop request ended the wait for one."""
        try:
            yield from self._bar
        except distributed.StopWaiting:
            yield None  # `pad_to_longest` tells the other processes

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        """Add the gradients of a batch: of its share of the step's loss."""
        (terms["total"] / self.config.accumulate_steps).backward()
        for name, value in terms.items():
            before = self._sums.get(name)
            self._sums[name] = value.detach() if before is None else before + value.detach()
        self._step_ids += self.clip_ids

    def optimize(self) -> None:
        """Clip the gradients, log the step's numbers, and move weights and learning rate one step on."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf)
        means = {name: value / self.config.accumulate_steps for name, value in self._sums.items()}
        self._num_clips += len(self._step_ids)
        rate = {"learning_rate": float(self.state.scheduler.get_last_lr()[0])}
        self._record(self._reader.submit(means | {"grad_norm": norm}, self._step_ids, rate))
        self.state.optimizer.step()
        self.state.scheduler.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self._sums, self._step_ids = {}, ()
        self.progress.step += 1

    def must_stop(self) -> bool:
        """Whether a signal stops the run within the epoch. Saves then, and every `save_every_steps` steps."""
        if self.progress.step >= self.num_steps:
            return False  # the end of the epoch saves
        due = self.save_every_steps and self.progress.step % self.save_every_steps == 0
        stop = self.request.heard()
        if due or stop:
            self._record(self._reader.flush())
            self._save_last({})
        return bool(stop)

    def stop_here(self) -> None:
        """Save, as a signal ended the wait for a batch of training or validation.

        Not in the middle of a step, whose first parts have moved running statistics: the save before counts.
        """
        if self._step_ids:
            log.info("stopped in the middle of a step: the run goes on from the last save before it")
            return
        self._record(self._reader.flush())
        self._save_last({})

    def end_epoch(self, validation: Mapping[str, float], result: Mapping[str, Any]) -> None:
        """Log the epoch's row and save last.pt with `result`, and best.pt if no epoch before was better."""
        row = {f"train_{name}": value / self.num_steps for name, value in self.progress.sums.items()}
        row |= {**validation, "bad_clips": len(self.bad_clips.found)}
        if isinstance(self.state.scheduler, Plateau):
            losses = distributed.gather_objects(row["train_total"])
            self.state.scheduler.step(sum(losses) / len(losses))
        is_better = self.state.best.update(row[self.config.select_by])
        self.log.epoch(self.progress.epoch, row)
        numbers = [f"{said} {row[name]:.4f}" for name, said in SAID.items() if name in row]
        numbers += ["best so far"] if is_better else []
        log.info("epoch %d: %s", self.progress.epoch, ", ".join(numbers))
        self.state.progress = Progress(epoch=self.progress.epoch + 1)
        if is_better and distributed.is_main():
            weights = {"model": self.state.model.state_dict()}
            save_checkpoint(self.run_dir / "best.pt", {**self.known, **result, **weights})
        self._save_last(result)

    def amend_best(self, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        """After the last epoch, save best.pt again with the values that `change` gives of its content."""
        path = self.run_dir / "best.pt"
        if self.request.heard() or not distributed.is_main() or not path.is_file():
            return
        try:
            content = load_checkpoint(path)
            changed = change(content)
        except CheckpointError as error:
            log.warning("%s", error)
            return
        if any(content.get(name) != value for name, value in changed.items()):
            save_checkpoint(path, content | changed)

    def close(self) -> None:
        """Close the log, and say which epoch was the best."""
        self.log.close()
        if self.state.best.value is None:
            log.info("no epoch has ended yet: there is no best.pt")
        else:
            best = self.run_dir / "best.pt"
            log.info("best %s %.4f, checkpoint %s", self.config.select_by, self.state.best.value, best)

    def _save_last(self, result: Mapping[str, Any]) -> None:
        self.log.flush()
        self.bad_clips.share()
        content = {**self.known, **self.state.as_plain(), "bad_clips": self.bad_clips.found, **result}
        if distributed.is_main():
            save_checkpoint(self.run_dir / "last.pt", content, keep_older=self.keep_checkpoints - 1)

    def _record(self, finished: list[dict[str, float]]) -> None:
        """Bring curves, sums over the epoch and progress bar up to date."""
        for numbers in finished:
            self.log.train_step(numbers)
            for name in [name for name in numbers if name not in NOT_TERMS]:
                self.progress.sums[name] = self.progress.sums.get(name, 0.0) + numbers[name]
            rate = self._num_clips / (time.monotonic() - self._start)
            self._bar.set_postfix(loss=f"{numbers['total']:.3f}", clips_per_s=f"{rate:.1f}")
