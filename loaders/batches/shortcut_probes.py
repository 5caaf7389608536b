"""What does a score rest on? Batches from which something was taken away, for the shortcut table."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.windows import DataConfig
from utils.types import Clip, ClipBatch

MID_GREY = 128


def silence_sound(batch: ClipBatch) -> ClipBatch:
    """Digital silence of the same length."""
    return dataclasses.replace(batch, waveform=torch.zeros_like(batch.waveform))


def blank_picture(batch: ClipBatch) -> ClipBatch:
    """Mid-grey frames; padding stays 0."""
    grey = torch.full_like(batch.video, MID_GREY)
    padding = batch.video_padding_mask[:, None, :, None, None]
    return dataclasses.replace(batch, video=grey.masked_fill(padding, 0))


def hide_landmarks(batch: ClipBatch) -> ClipBatch:
    """All landmarks at one place: they show nothing of the picture. Which frames have a face stays known."""
    return dataclasses.replace(batch, landmarks=torch.zeros_like(batch.landmarks))


PROBES: dict[str, tuple[Callable[[ClipBatch], ClipBatch], ...]] = {
    "video only": (silence_sound,),  # the landmarks belong to the video
    "audio only": (blank_picture, hide_landmarks),
    "landmarks only": (blank_picture, silence_sound),
}


def sound_partners(clips: Sequence[Clip], seed: int = 0) -> list[int | None]:
    """For each clip the index of another of its category and labels, whose sound it gets.

    Every clip of a class gives its sound once; None where the class has no other clip.
    """
    classes: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        classes[clip.category, clip.label, clip.audio_label].append(index)
    partners: list[int | None] = [None] * len(clips)
    rng = np.random.default_rng(seed)
    for members in classes.values():
        if len(members) > 1:
            order = rng.permutation(members).tolist()
            for index, partner in zip(order, order[1:] + order[:1], strict=True):
                partners[index] = partner
    return partners


def probe_batches(
    clips: Sequence[Clip], data: DataConfig, workers: WorkerConfig
) -> Iterator[tuple[str, Iterable[ClipBatch]]]:
    """(name of a row, batches) for each row of the shortcut table; every one with all clips and windows.

    "trimmed silence" is left out where the data are trimmed anyway, and for the published window, which
    cannot be trimmed.
    """
    if data.window == "seconds" and not data.trim_silence:
        trimmed = dataclasses.replace(data, trim_silence=True)
        yield "trimmed silence", evaluation_loader(clips, trimmed, workers)
    yield (
        "sound swapped within class",
        evaluation_loader(clips, data, workers, sound_from=sound_partners(clips)),
    )
    for name, changes in PROBES.items():
        yield name, _changed(evaluation_loader(clips, data, workers), changes)


def _changed(
    batches: Iterable[ClipBatch], changes: Sequence[Callable[[ClipBatch], ClipBatch]]
) -> Iterator[ClipBatch]:
    for batch in batches:
        for change in changes:
            batch = change(batch)
        yield batch
