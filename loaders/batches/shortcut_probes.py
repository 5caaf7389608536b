"""Batches with the sound, the picture or the landmarks taken away, for the table of shortcuts."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import ClipLoader, WorkerConfig, evaluation_loader
from utils.clip_type import INPUTS, Clip
from utils.types import ClipBatch

MID_GREY = 128


# row of the table -> (input without which it says nothing, signals that are taken away)
PROBES = {
    "video only": ("sound", ("sound",)),  # the landmarks belong to the video
    "audio only": ("sound", ("video", "landmarks")),
    "landmarks only": ("landmarks", ("video", "sound")),
}


def without(batch: ClipBatch, signals: Collection[str]) -> ClipBatch:
    """Mid-grey frames for the video (padding stays 0), digital silence for the sound, and for the landmarks
    all at one point, so that they show nothing. Which frames have a face stays known.
    """
    changes: dict[str, Any] = {}
    if "video" in signals:
        padding = batch.video_padding_mask[:, None, :, None, None]
        changes["video"] = torch.full_like(batch.video, MID_GREY).masked_fill(padding, 0)
    if "sound" in signals:
        changes["waveform"] = torch.zeros_like(batch.waveform)
    if "landmarks" in signals:
        changes["landmarks"] = torch.zeros_like(batch.landmarks)
    return dataclasses.replace(batch, **changes)


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
    **needs: Any,
) -> Iterator[tuple[str, Iterable[ClipBatch]]]:
    """(name of a row, batches) for each row of the shortcut table, each with all clips and windows.

    Rows that change nothing for a method of these `inputs` are left out, as is "trimmed silence" where the
    data are trimmed anyway, and for the published window, which cannot be trimmed. `needs`: the method's.
    """

    def load(data: DataConfig, **options: Any) -> ClipLoader:
        return evaluation_loader(clips, data, workers, inputs=inputs, **needs, **options)

    if "sound" in inputs:
        if data.window == "seconds" and not data.trim_silence:
            yield "trimmed silence", load(dataclasses.replace(data, trim_silence=True))
        yield "sound swapped within class", load(data, sound_from=sound_partners(clips))
    for name, (needed, signals) in PROBES.items():
        if needed in inputs:
            yield name, map(functools.partial(without, signals=signals), load(data))
