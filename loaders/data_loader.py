"""Clips -> an iterable of ClipBatch, in worker processes."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import torch
from torch.utils.data import DataLoader

from loaders.clip_dataset import ClipDataset, ClipWindow, DataConfig, clip_labels
from loaders.collate import Collate, TrainingBatches, TrainingSampler
from utils.config import opt
from utils.distributed import deal_out, local_processes
from utils.errors import FrameworkError
from utils.types import Clip, ClipBatch

TYPICAL_WINDOW_BYTES = 60 * 224 * 224 * 3 * 1.1  # picture, and a tenth for the rest


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """loaders/data_loader.py: how batches are made."""

    batch_size: int = opt(16, "clips per training step, over all processes; windows per batch in evaluation")
    num_workers: int = opt(
        -1, "processes that decode clips; 0 = none beside the main one, -1 = from the machine's cores"
    )
    prefetch_factor: int = opt(
        0, "batches that each worker makes ahead; 0 = from the machine's memory, at most 4"
    )

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", -1), ("prefetch_factor", 0)):
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


class _ErrorsAsValues(ClipDataset):
    """A DataLoader worker turns our errors into a RuntimeError around a traceback; as values they arrive
    whole.
    """

    def __getitem__(self, key: tuple[int, int]) -> ClipWindow | FrameworkError:
        try:
            return super().__getitem__(key)
        except FrameworkError as error:
            return error


class _OtherSound(_ErrorsAsValues):
    """Evaluation windows whose sound is another clip's: of its window of the same number, as long as needed.

    `sound_from` has the index of that clip, or None for a clip that keeps its own sound.
    """

    def __init__(self, clips: Sequence[Clip], config: DataConfig, sound_from: Sequence[int | None]) -> None:
        super().__init__(clips, config, training=False)
        self.sound_from = sound_from
        self.num_windows = Counter(index for index, _ in self.evaluation_keys())

    def __getitem__(self, key: tuple[int, int]) -> ClipWindow | FrameworkError:
        index, draw = key
        partner, window = self.sound_from[index], super().__getitem__(key)
        if partner is None or isinstance(window, FrameworkError):
            return window
        other = super().__getitem__((partner, min(draw, self.num_windows[partner] - 1)))
        if isinstance(other, FrameworkError):
            return other
        length = len(window.waveform)
        repeats = -(-length // max(1, len(other.waveform)))
        return dataclasses.replace(window, waveform=other.waveform.repeat(repeats)[:length])


class _Collate(Collate):
    def __call__(self, windows: Sequence[ClipWindow | FrameworkError]) -> ClipBatch | FrameworkError:
        for window in windows:
            if isinstance(window, FrameworkError):
                return window
        try:
            return super().__call__(windows)
        except FrameworkError as error:
            return error


class ClipLoader(DataLoader):
    """A DataLoader of ClipBatch. The first clip that cannot be read stops it with its ClipError."""

    def __iter__(self) -> Iterator[ClipBatch]:
        iterator = super().__iter__()
        while (batch := next(iterator, None)) is not None:
            if isinstance(batch, FrameworkError):
                # ends the workers now: the error's traceback would keep them, and a later fork would inherit
                # them
                self._iterator = iterator = None
                raise batch
            yield batch


def _set_up_worker(worker_id: int) -> None:
    # Ctrl-C, torchrun and SLURM signal whole groups: the main process decides when its workers end
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _loader(dataset: ClipDataset, workers: WorkerConfig, batches: Iterable[list]) -> ClipLoader:
    num_workers = workers.resolved_workers
    return ClipLoader(
        dataset,
        batch_sampler=batches,
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
) -> tuple[ClipLoader, TrainingSampler]:
    """Batches of randomly placed windows, and the sampler whose `epoch` decides order and windows.

    `balance`: "none", or as many draws of every "label" (real, fake) or "category". `dataset_weights` are the
    data sets' shares of the draws, within which each set's own classes are balanced; None: as many as clips.
    The loader's `batch_sampler` (TrainingBatches) says which of the clips this process gets.
    """
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
    sampler = TrainingSampler(classes, seed=seed, weights=weights)
    dataset = _ErrorsAsValues(clips, data, training=True, seed=seed)
    batches = TrainingBatches(sampler, batch_size=workers.batch_size, accumulate_steps=accumulate_steps)
    return _loader(dataset, workers, batches), sampler


def evaluation_loader(
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    sound_from: Sequence[int | None] | None = None,
) -> ClipLoader:
    """Every evaluation window of every clip once, in listing order; of several processes each gets every so
    many-th batch (see utils.distributed.deal_out), which holds what it would hold in a single one.

    `sound_from`: for each clip the index of the one whose sound it gets instead of its own, None = its own.
    """
    dataset: ClipDataset = _ErrorsAsValues(clips, data, training=False)
    if sound_from is not None:
        dataset = _OtherSound(clips, data, sound_from)
    keys, size = dataset.evaluation_keys(), workers.batch_size
    return _loader(dataset, workers, deal_out([keys[i : i + size] for i in range(0, len(keys), size)]))
