"""Batches with the sound, the picture or the landmarks taken away, for the table of shortcuts."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.windows import DataConfig
from utils.types import INPUTS, Clip, ClipBatch

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
    """All landmarks at one point, so that they show nothing. Which frames have a face stays known."""
    return dataclasses.replace(batch, landmarks=torch.zeros_like(batch.landmarks))


# row of the table -> (input without which it says nothing, what is changed)
PROBES: dict[str, tuple[str, tuple[Callable[[ClipBatch], ClipBatch], ...]]] = {
    "video only": ("sound", (silence_sound,)),  # the landmarks belong to the video
    "audio only": ("sound", (blank_picture, hide_landmarks)),
    "landmarks only": ("landmarks", (blank_picture, silence_sound)),
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
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    *,
    inputs: frozenset[str] = INPUTS,
    min_window_s: float = 0.0,
) -> Iterator[tuple[str, Iterable[ClipBatch]]]:
    """(name of a row, batches) for each row of the shortcut table, each with all clips and windows.

    Rows that change nothing for a method of these `inputs` are left out, as is "trimmed silence" where the
    data are trimmed anyway, and for the published window, which cannot be trimmed.
    """

    def load(data: DataConfig, sound_from: Sequence[int | None] | None = None) -> Iterable[ClipBatch]:
        return evaluation_loader(
            clips, data, workers, sound_from=sound_from, inputs=inputs, min_window_s=min_window_s
        )

    if "sound" in inputs:
        if data.window == "seconds" and not data.trim_silence:
            yield "trimmed silence", load(dataclasses.replace(data, trim_silence=True))
        yield "sound swapped within class", load(data, sound_partners(clips))
    for name, (needed, changes) in PROBES.items():
        if needed in inputs:
            yield name, _changed(load(data), changes)


def _changed(
    batches: Iterable[ClipBatch], changes: Sequence[Callable[[ClipBatch], ClipBatch]]
) -> Iterator[ClipBatch]:
    for batch in batches:
        for change in changes:
            batch = change(batch)
        yield batch
