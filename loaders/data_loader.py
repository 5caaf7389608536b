"""Clips -> an iterable of ClipBatch, in worker processes."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import torch
from torch.utils.data import DataLoader

from loaders.clip_dataset import ClipDataset, ClipWindow, DataConfig, clip_labels
from loaders.collate import Collate, TrainingSampler
from utils.config import opt
from utils.errors import FrameworkError
from utils.types import Clip, ClipBatch


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """loaders/data_loader.py: how batches are made."""

    batch_size: int = opt(16, "clips per training step; windows per batch in evaluation")
    num_workers: int = opt(
        -1, "processes that decode clips; 0 = none beside the main one, -1 = from the machine's cores"
    )

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_workers < -1:
            raise ValueError(
                f"batch_size must be >= 1 and num_workers >= -1, got {self.batch_size}, {self.num_workers}"
            )

    @property
    def resolved_workers(self) -> int:
        """`num_workers`, or one less than the cores this process may use (at least 1, at most 8)."""
        if self.num_workers >= 0:
            return self.num_workers
        return max(1, min(8, len(os.sched_getaffinity(0)) - 1))


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


def _one_thread(worker_id: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _loader(dataset: ClipDataset, workers: WorkerConfig, **options: object) -> ClipLoader:
    num_workers = workers.resolved_workers
    return ClipLoader(
        dataset,
        collate_fn=_Collate(dataset.config.video_fps),
        num_workers=num_workers,
        worker_init_fn=_one_thread,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # its own: a new loader must not move the global generator that dropout draws from
        generator=torch.Generator(),
        **options,
    )


def training_loader(
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    balance: str,
    seed: int,
    dataset_weights: Mapping[str, float] | None = None,
) -> tuple[ClipLoader, TrainingSampler]:
    """Batches of randomly placed windows, and the sampler whose `epoch` decides order and windows.

    `balance`: "none", or as many draws of every "label" (real, fake) or "category". `dataset_weights` are the
    data sets' shares of the draws, within which each set's own classes are balanced; None: as many as clips.

    A last, smaller batch is left out (batch norm needs more than one clip), unless it is the only one.
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
    drop_last = len(clips) >= workers.batch_size
    return _loader(
        dataset, workers, batch_size=workers.batch_size, sampler=sampler, drop_last=drop_last
    ), sampler


def evaluation_loader(
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    sound_from: Sequence[int | None] | None = None,
) -> ClipLoader:
    """Every evaluation window of every clip once, in listing order.

    `sound_from`: for each clip the index of the one whose sound it gets instead of its own, None = its own.
    """
    dataset: ClipDataset = _ErrorsAsValues(clips, data, training=False)
    if sound_from is not None:
        dataset = _OtherSound(clips, data, sound_from)
    return _loader(dataset, workers, batch_size=workers.batch_size, sampler=dataset.evaluation_keys())
