"""Clips -> an iterable of ClipBatch, in worker processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info
from torch.utils.data._utils import signal_handling

from loaders.batches.collate import Collate, TrainingBatches, TrainingSampler
from loaders.batches.windows import ClipDataset, ClipWindow, DataConfig, Draw, clip_labels
from utils.config import opt
from utils.errors import FrameworkError
from utils.run.bad_clips import BadClips
from utils.run.distributed import deal_out, local_processes
from utils.run.memory import keep_freed_memory
from utils.types import Clip, ClipBatch

TYPICAL_WINDOW_BYTES = 60 * 224 * 224 * 3 * 1.1  # picture, and a tenth for the rest


class LoaderError(FrameworkError):
    """A loader's worker process died, or hangs."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """loaders/batches/data_loader.py: how batches are made."""

    batch_size: int = opt(16, "clips per training step, over all processes; windows per batch in evaluation")
    num_workers: int = opt(
        -1, "processes that decode clips; 0 = none beside the main one, -1 = from the machine's cores"
    )
    prefetch_factor: int = opt(
        0, "batches that each worker makes ahead; 0 = from the machine's memory, at most 4"
    )

    loader_timeout_s: float = opt(
        600.0, "stop, and name the clips, if no worker has given a batch for so long; 0 = wait for ever"
    )

    def __post_init__(self) -> None:
        least_values = {"batch_size": 1, "num_workers": -1, "prefetch_factor": 0, "loader_timeout_s": 0}
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")

    @property
    def resolved_workers(self) -> int:
        """`num_workers`, or one less than this process's share of the cores (at least 1, at most 8)."""
        if self.num_workers >= 0:
            return self.num_workers
        cores = len(os.sched_getaffinity(0)) // local_processes()
        return max(1, min(8, cores - 1))

    @property
    def resolved_prefetch(self) -> int:
        """`prefetch_factor`, or as many batches as fit into an eighth of the machine's memory (1 to 4)."""
        if self.prefetch_factor:
            return self.prefetch_factor
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 8 / local_processes()
        per_worker = memory / max(1, self.resolved_workers)
        return max(1, min(4, int(per_worker / (self.batch_size * TYPICAL_WINDOW_BYTES))))


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A window, None where there is none, and what could not be read on the way: (clip id, error).

    A DataLoader would turn an error into a RuntimeError around a traceback.
    """

    window: ClipWindow | None
    unreadable: tuple[tuple[str, FrameworkError], ...] = ()


class _WorkerDataset(ClipDataset):
    """Items of windows. `at_work` says at which clip each worker process is, -1 = at none.

    In training, with `replaces`, the next clip of the same label stands in for one that cannot be read, so
    that batches keep their size and their balance.
    """

    at_work: Tensor | None = None
    replaces = False

    def __getitem__(self, key: tuple[int, Draw]) -> _Item:
        drawn, draw = key
        unreadable: list[tuple[str, FrameworkError]] = []
        for index in self._candidates(drawn):
            try:
                self._report(index)
                return _Item(window=super().__getitem__((index, draw)), unreadable=tuple(unreadable))
            except FrameworkError as error:
                unreadable.append((self.clips[index].clip_id, error))
            finally:
                self._report(-1)
        return _Item(window=None, unreadable=tuple(unreadable))

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        if self.training and self.replaces:
            label = clip_labels(self.clips[index], self.config.label_rule)[0]
            for other in (*range(index + 1, len(self.clips)), *range(index)):
                if clip_labels(self.clips[other], self.config.label_rule)[0] == label:
                    yield other

    def _report(self, index: int) -> None:
        worker = get_worker_info()
        if worker is not None:
            self.at_work[worker.id] = index


class _OtherSound(_WorkerDataset):
    """Evaluation windows whose sound is another clip's: of its window of the same number, as long as needed.

    `sound_from` has the index of that clip, or None for a clip that keeps its own sound.
    """

    def __init__(self, clips: Sequence[Clip], config: DataConfig, sound_from: Sequence[int | None]) -> None:
        super().__init__(clips, config, training=False)
        self.sound_from = sound_from
        self.num_windows = Counter(index for index, _ in self.evaluation_keys())

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        index, draw = key
        partner, item = self.sound_from[index], super().__getitem__(key)
        if partner is None or item.window is None:
            return item
        other = super().__getitem__((partner, min(draw, self.num_windows[partner] - 1)))
        if other.window is None:
            return other
        length, waveform = len(item.window.waveform), other.window.waveform
        waveform = waveform.repeat(-(-length // max(1, len(waveform))))[:length]
        return _Item(window=dataclasses.replace(item.window, waveform=waveform))


class _Collate(Collate):
    """(the batch of the windows that there are, None if there are none, or an error; what was unreadable)."""

    def __call__(
        self, items: Sequence[_Item]
    ) -> tuple[ClipBatch | FrameworkError | None, list[tuple[str, FrameworkError]]]:
        unreadable = [found for item in items for found in item.unreadable]
        windows = [item.window for item in items if item.window is not None]
        try:
            return (super().__call__(windows) if windows else None), unreadable
        except FrameworkError as error:  # clips that do not go together
            return error, unreadable


class EvaluationBatches(Sampler):
    """This process's batches of evaluation keys (see utils.run.distributed.deal_out), without the clips
    that an earlier epoch has set aside.
    """

    def __init__(
        self, keys: Sequence[tuple[int, int]], clips: Sequence[Clip], batch_size: int, bad_clips: BadClips
    ) -> None:
        self.keys, self.clips, self.batch_size, self.bad_clips = keys, clips, batch_size, bad_clips

    def _batches(self) -> list[list[tuple[int, int]]]:
        left_out = self.bad_clips.left_out()
        keys = [key for key in self.keys if self.clips[key[0]].clip_id not in left_out]
        return deal_out([keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)])

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self._batches())


class _WorkerDeaths:
    """A handler of SIGCHLD that raises the death of a worker only where the main process waits for one.

    torch's own raises wherever the process is at that moment: in a training step, or halfway through here.
    """

    def __init__(self) -> None:
        self.waiting = self.installed = False

    def install(self) -> None:
        """Take the place of torch's handler, which it sets at most once."""
        if self.installed or threading.current_thread() is not threading.main_thread():
            return
        before = None if signal_handling._SIGCHLD_handler_set else signal.getsignal(signal.SIGCHLD)
        signal_handling._set_SIGCHLD_handler()
        of_torch = signal.getsignal(signal.SIGCHLD)  # calls the one before it

        def handle(number: int, frame: FrameType | None) -> None:
            handler = of_torch if self.waiting else before
            if callable(handler):
                handler(number, frame)

        signal.signal(signal.SIGCHLD, handle)
        self.installed = True

    @contextlib.contextmanager
    def are_raised(self) -> Iterator[None]:
        """Of a worker that has died already, or dies in this context. Raises torch's RuntimeError."""
        self.waiting = True
        try:
            signal_handling._error_if_any_worker_fails()
            yield
        finally:
            self.waiting = False


_worker_deaths = _WorkerDeaths()


class ClipLoader(DataLoader):
    """A DataLoader of ClipBatch. A clip that cannot be read stops it with its ClipError, or is set aside, as
    `bad_clips` says; a worker process that dies or hangs stops it with LoaderError.
    """

    def __init__(self, dataset: _WorkerDataset, *, bad_clips: BadClips, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.bad_clips = bad_clips
        dataset.replaces = bad_clips.limit > 0
        dataset.at_work = torch.full((max(1, self.num_workers),), -1).share_memory_()

    def __iter__(self) -> Iterator[ClipBatch]:
        before = self._iterator
        _worker_deaths.install()
        iterator = super().__iter__()
        if self.num_workers and iterator is not before:
            Finalize(None, _kill_workers_left, (weakref.ref(iterator),), exitpriority=10)
        try:
            while (item := self._next(iterator)) is not None:
                batch, unreadable = item
                for clip_id, error in unreadable:
                    self.bad_clips.add(clip_id, error)
                if isinstance(batch, FrameworkError):
                    raise batch
                if batch is not None:  # else all windows of an evaluation batch were unreadable
                    yield batch
        except FrameworkError:
            # ends the workers now: the error's traceback would keep them, and a later fork would inherit them
            self._iterator = iterator = None
            raise

    def _next(self, iterator: Iterator[Any]) -> Any:
        """The next item, None at the end. Raises LoaderError that names the clips at which workers were."""
        try:
            with _worker_deaths.are_raised():
                return next(iterator, None)
        except (RuntimeError, OSError, EOFError) as error:
            if not self.num_workers:
                raise
            workers = iterator._workers  # torch has no public way to ask which one it was
            # one that dies takes announced batches along: reading them may fail before its end is seen
            wait([worker.sentinel for worker in workers], timeout=0 if isinstance(error, RuntimeError) else 2)
            dead = [number for number, worker in enumerate(workers) if worker.exitcode is not None]
            if not dead and not str(error).startswith("DataLoader timed out"):
                raise
            _kill_workers(iterator)
            at_work = self.dataset.at_work.tolist()
            clips = [self.dataset.clips[at_work[n]] for n in dead or range(len(workers)) if at_work[n] >= 0]
            names = ", ".join(clip.clip_id for clip in clips) or "no clip"
            if dead:
                code = workers[dead[0]].exitcode
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
                what = f"a loader worker ended with {how} while it read {names}"
            else:
                what = f"no loader worker gave a batch for {self.timeout:.0f} s while they read {names}"
            raise LoaderError(f"{what}; look at it with preprocess.verify, or exclude it") from error


def _kill_workers(iterator: Any) -> None:
    """They ignore SIGTERM, with which torch, and Python as it ends, would wait for them for ever."""
    signal_handling._remove_worker_pids(id(iterator))  # else torch would report it
    for worker in iterator._workers:
        worker.kill()


def _kill_workers_left(iterator: weakref.ref) -> None:
    """At the end of Python: an error's traceback may have kept a loader that nobody has ended."""
    if iterator() is not None:
        _kill_workers(iterator())


def _set_up_worker(worker_id: int) -> None:
    keep_freed_memory()
    # Ctrl-C, torchrun and SLURM signal whole groups: the main process decides when its workers end
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _loader(
    dataset: _WorkerDataset, workers: WorkerConfig, batches: Sampler, bad_clips: BadClips
) -> ClipLoader:
    num_workers = workers.resolved_workers
    return ClipLoader(
        dataset,
        bad_clips=bad_clips,
        batch_sampler=batches,
        timeout=workers.loader_timeout_s if num_workers else 0,
        collate_fn=_Collate(dataset.config.video_fps),
        num_workers=num_workers,
        worker_init_fn=_set_up_worker,
        persistent_workers=num_workers > 0,
        prefetch_factor=workers.resolved_prefetch if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # its own: a new loader must not move the global generator that dropout draws from
        generator=torch.Generator(),
    )


def training_loader(
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    balance: str,
    seed: int,
    dataset_weights: Mapping[str, float] | None = None,
    accumulate_steps: int = 1,
    bad_clips: BadClips | None = None,
) -> tuple[ClipLoader, TrainingSampler]:
    """Batches of randomly placed windows, and the sampler whose `epoch` decides order and windows.

    `balance`: "none", or as many draws of every "label" (real, fake) or "category". `dataset_weights` are the
    data sets' shares of the draws, within which each set's own classes are balanced; None: as many as clips.
    The loader's `batch_sampler` (TrainingBatches) says which of the clips this process gets. `bad_clips` are
    set aside; None: the first one is an error.
    """
    bad_clips = bad_clips or BadClips()
    class_of = {
        "none": lambda clip: "all",
        "label": lambda clip: clip_labels(clip, data.label_rule)[0],
        "category": lambda clip: clip.category,
    }[balance]
    classes: list[object] = [class_of(clip) for clip in clips]
    weights = None
    if dataset_weights is not None:
        classes = [(clip.dataset, name) for clip, name in zip(clips, classes, strict=True)]
        num_classes = Counter(dataset for dataset, _ in set(classes))
        weights = {key: dataset_weights[key[0]] / num_classes[key[0]] for key in set(classes)}

    def left_out() -> set[int]:
        names = bad_clips.left_out()
        return {index for index, clip in enumerate(clips) if clip.clip_id in names} if names else set()

    sampler = TrainingSampler(classes, seed=seed, weights=weights, left_out=left_out)
    dataset = _WorkerDataset(clips, data, training=True, seed=seed)
    batches = TrainingBatches(sampler, batch_size=workers.batch_size, accumulate_steps=accumulate_steps)
    return _loader(dataset, workers, batches, bad_clips), sampler


def evaluation_loader(
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    sound_from: Sequence[int | None] | None = None,
    bad_clips: BadClips | None = None,
) -> ClipLoader:
    """Every evaluation window of every clip once, in listing order; of several processes each gets every so
    many-th batch (see utils.run.distributed.deal_out), which holds what it would hold in a single one.

    `sound_from`: for each clip the index of the one whose sound it gets instead of its own, None = its own.
    `bad_clips` are set aside; None: the first one is an error.
    """
    bad_clips = bad_clips or BadClips()
    dataset = _WorkerDataset(clips, data, training=False)
    if sound_from is not None:
        dataset = _OtherSound(clips, data, sound_from)
    keys = []
    for index, clip in enumerate(clips):
        try:
            keys += dataset.clip_keys(index)
        except FrameworkError as error:
            bad_clips.add(clip.clip_id, error)
    batches = EvaluationBatches(keys, dataset.clips, workers.batch_size, bad_clips)
    return _loader(dataset, workers, batches, bad_clips)
