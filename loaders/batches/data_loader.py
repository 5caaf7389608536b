"""Clips -> an iterable of ClipBatch, in worker processes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.labels import clip_labels, real_clips
from loaders.batches.samplers import EvaluationBatches, TrainingBatches, TrainingSampler
from loaders.batches.windows import Draw
from loaders.batches.worker_items import CollateItems, ItemDataset, OtherSoundDataset
from loaders.batches.worker_processes import end_workers, next_item, set_up_worker, worker_deaths
from utils.clip.files import read_info_values
from utils.clip_type import Clip
from utils.config import opt
from utils.errors import FrameworkError, UsageError
from utils.run.bad_clips import BadClips
from utils.run.distributed import StopWaiting, local_processes
from utils.run.memory import free_shared_memory
from utils.run.progress import map_files
from utils.types import ClipBatch

log = logging.getLogger(__name__)
IN_HAND = 2  # batches that the main process holds while workers make others
TYPICAL_WINDOW_BYTES = 60 * 224 * 224 * 3 * 1.1  # picture, and a tenth for the rest


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """loaders/batches/data_loader.py: how batches are made."""

    batch_size: int = opt(16, "clips per training step, over all processes; windows per batch in evaluation")
    num_workers: int = opt(-1, "processes that decode clips; 0 = only the main one, -1 = from the cores")
    prefetch_factor: int = opt(0, "batches that each worker makes ahead; 0 = from the memory, at most 4")
    loader_timeout_s: float = opt(
        600.0, "stop and name the clips if no worker gives a batch for this many seconds; 0 = wait forever"
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


def fit_shared_memory(num_workers: int, prefetch: int, batch_bytes: float) -> tuple[int, int, str]:
    """(workers, batches that each makes ahead, what to say of it) for which the free /dev/shm suffices.

    Workers hand over batches there. Where it is full they end with SIGBUS or wait forever.
    """
    free = free_shared_memory()
    if not num_workers or free is None:
        return num_workers, prefetch, ""
    room = max(0, int(0.9 * free / local_processes() / batch_bytes) - IN_HAND)
    if num_workers * prefetch <= room:
        return num_workers, prefetch, ""
    workers = min(num_workers, room)
    fitting = max(1, room // workers) if workers else 0
    needed = (num_workers * prefetch + IN_HAND) * batch_bytes * local_processes()
    text = (
        f"/dev/shm has {free / 1e6:.0f} MB free, and {num_workers} loader workers with {prefetch} batches "
        f"ahead need {needed / 1e6:.0f} MB there: {workers} workers with {fitting} are used, "
        "which is slower. Give a container more: docker run --shm-size 8g, or --ipc host"
    )
    return workers, fitting, text


class ClipLoader(DataLoader[ClipBatch]):
    """A DataLoader of ClipBatch.

    A clip that cannot be read stops it with its ClipError, or is set aside if `bad_clips` allows it; a worker
    process that dies or hangs stops it with LoaderError.
    """

    dataset: ItemDataset
    batch_sampler: Any  # a TrainingBatches or EvaluationBatches of samplers.py

    def __init__(
        self,
        dataset: ItemDataset,
        workers: WorkerConfig,
        batches: TrainingBatches | EvaluationBatches,
        bad_clips: BadClips,
    ) -> None:
        self.batch_bytes = batches.largest * dataset.config.window_bytes(dataset.inputs)
        wanted = workers.resolved_workers, workers.resolved_prefetch
        num_workers, prefetch, self.shortage = fit_shared_memory(*wanted, max(1.0, self.batch_bytes))
        super().__init__(
            dataset,
            batch_sampler=batches,
            timeout=workers.loader_timeout_s if num_workers else 0,
            collate_fn=CollateItems(Collate(dataset.config.video_fps, dataset.config.frames_per_clip > 0)),
            num_workers=num_workers,
            worker_init_fn=set_up_worker,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch if num_workers else None,
            pin_memory=torch.cuda.is_available(),
            # its own: a new loader must not move the global generator that dropout draws from
            generator=torch.Generator(),
        )
        self.bad_clips = bad_clips
        dataset.replaces = bad_clips.limit > 0
        dataset.at_work = torch.full((max(1, num_workers),), -1).share_memory_()

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]  # torch's type is a private class
        if self.shortage:
            log.warning("%s", self.shortage)
            self.shortage = ""  # said once
        worker_deaths.install()
        iterator: Any = super().__iter__()
        try:
            while (item := next_item(self, iterator, self._clips_at, self.batch_bytes)) is not None:
                batch, unreadable = item
                for clip_id, error in unreadable:
                    self.bad_clips.add(clip_id, error)
                if isinstance(batch, FrameworkError):
                    raise batch
                if batch is not None:  # else all windows of an evaluation batch were unreadable
                    yield batch
        except (FrameworkError, StopWaiting):
            iterator = None
            end_workers(self)
            raise

    def _clips_at(self, workers: Sequence[int]) -> str:
        """The clips that these workers are reading."""
        indices = [int(self.dataset.at_work[number]) for number in workers]
        return ", ".join(self.dataset.clips[index].clip_id for index in indices if index >= 0) or "no clip"


def training_loader(
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    balance: str,
    seed: int,
    repeat_reals: int = 1,
    dataset_weights: Mapping[str, float] | None = None,
    accumulate_steps: int = 1,
    bad_clips: BadClips | None = None,
    **needs: Any,
) -> tuple[ClipLoader, TrainingSampler]:
    """Batches of randomly placed windows, and the sampler whose `epoch` decides order and windows.

    `balance`: "none", or equal numbers of draws per "label" (real, fake) or "category"; "real": no fakes.
    `repeat_reals`: how often a real clip comes in an epoch of "none", without `dataset_weights`.
    `dataset_weights`: shares of the data sets in the draws, each balanced within itself; None: by their
    numbers of clips. The loader's `batch_sampler` (TrainingBatches) decides which clips this process gets.
    `bad_clips`: where unreadable clips are set aside; None: the first one is an error. `needs`: the method's,
    see needs_of().
    """
    bad_clips = bad_clips or BadClips()
    if balance == "real":
        clips, balance = real_clips(clips, data.label_rule), "none"
        if not clips:
            raise UsageError("--balance real: there is no real training clip")
    class_of: Callable[[Clip], object] = {
        "none": lambda clip: "all",
        "label": lambda clip: clip_labels(clip, data.label_rule)[0],
        "category": lambda clip: clip.category,
    }[balance]
    classes: list[object] = [class_of(clip) for clip in clips]
    weights: dict[object, float] | None = None
    if dataset_weights is not None:
        pairs = [(clip.dataset, name) for clip, name in zip(clips, classes, strict=True)]
        num_classes = Counter(dataset for dataset, _ in set(pairs))
        weights = {pair: dataset_weights[pair[0]] / num_classes[pair[0]] for pair in set(pairs)}
        classes = [*pairs]

    repeats: dict[object, int] | None = None
    if balance == "none" and repeat_reals > 1:
        if dataset_weights is not None:
            raise UsageError("--repeat_reals has no effect with --dataset_weights, which give the shares")
        if data.label_rule == "emotion":
            raise UsageError("--repeat_reals has no effect with --label_rule emotion")
        classes = [clip_labels(clip, data.label_rule)[0] for clip in clips]
        repeats = {0.0: repeat_reals, 1.0: 1}

    def left_out() -> list[int]:
        names = bad_clips.left_out()
        return [index for index, clip in enumerate(clips) if clip.clip_id in names]

    sampler = TrainingSampler(classes, seed=seed, weights=weights, repeats=repeats, left_out=left_out)
    dataset = ItemDataset(clips, data, training=True, seed=seed, **needs)
    if data.frame_changes and "video" not in dataset.inputs:
        raise UsageError(f"{data.frame_changes[0]} has no effect here: the method loads no picture")
    _warn_of_unheard(dataset)
    batches = TrainingBatches(sampler, batch_size=workers.batch_size, accumulate_steps=accumulate_steps)
    return ClipLoader(dataset, workers, batches, bad_clips), sampler


def _warn_of_unheard(dataset: ItemDataset) -> None:
    """Say how many fakes a method that sees only the picture cannot tell from real clips."""
    if dataset.config.label_rule != "any" or not dataset.inputs <= {"video", "landmarks"}:
        return
    if count := sum(clip.label == 1 and clip.video_label == 0 for clip in dataset.clips):
        told = f"{count} training clips are fake by their sound alone, which the method does not hear"
        log.warning("%s: --label_rule video takes their pictures as real", told)


def evaluation_loader(
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    sound_from: Sequence[int | None] | None = None,
    bad_clips: BadClips | None = None,
    info_to: Callable[[Clip, Mapping[str, Any]], None] | None = None,
    stride_s: float = 0.0,
    alone: bool = False,
    **needs: Any,
) -> ClipLoader:
    """Every evaluation window of every clip once, in listing order.

    With N processes, process r gets every N-th batch; batches are the same as in a single process.
    `sound_from`: for each clip the index of the clip whose sound replaces its own, None = its own.
    `bad_clips` and `needs` are as for training. `info_to` is called, perhaps in several
    threads, with each clip and the values of its clip.json ({} without one), which is read once for all.
    `stride_s`: windows that cover the clips, so far apart, instead. `alone`: this process gets all batches.
    """
    bad_clips = bad_clips or BadClips()
    options: dict[str, Any] = {"training": False, "keeps_frames": stride_s > 0, **needs}
    dataset = ItemDataset(clips, data, **options)

    def keys_of(index: int) -> Sequence[tuple[int, Draw]] | FrameworkError:
        try:
            if info_to is not None:
                info = read_info_values(clips[index].folder, with_boxes=True)
                dataset.learn_header(index, info)
                info_to(clips[index], info)
            return dataset.sliding_keys(index, stride_s) if stride_s else dataset.clip_keys(index)
        except FrameworkError as error:
            return error

    keys: list[tuple[int, Draw]] = []
    found = map_files(keys_of, range(len(clips)), "windows of the clips")
    for clip, keys_or_error in zip(clips, found, strict=True):
        if isinstance(keys_or_error, FrameworkError):
            bad_clips.add(clip.clip_id, keys_or_error)
        else:
            keys += keys_or_error
    options["headers"] = dataset.headers
    if sound_from is not None:
        num_windows = Counter(index for index, _ in keys)
        dataset = OtherSoundDataset(clips, data, sound_from=sound_from, num_windows=num_windows, **options)
    batches = EvaluationBatches(keys, clips, workers.batch_size, bad_clips, alone=alone)
    return ClipLoader(dataset, workers, batches, bad_clips)
