"""A face as a clip, its windows in batches, and the logits of a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipWindow
from utils.clip_type import Clip
from utils.evaluation.metrics import Floats
from utils.evaluation.timelines import logits_of_heads
from utils.types import DetectorOutput

BATCH_BYTES, MAX_BATCH = 24e6, 16  # of a batch, where its size is not given


def unlabelled_clip(folder: Path) -> Clip:
    """A clip of which nothing is known."""
    texts = ("category", "method", "identity", "target_id", "pair_key", "stratum", "dataset")
    unknown: dict[str, Any] = dict.fromkeys(texts, "") | {"video_label": None, "audio_label": None}
    return Clip(clip_id=folder.name, folder=folder, label=0, source_ids=(), **unknown)


def batch_size_for(data: DataConfig, inputs: frozenset[str]) -> int:
    """How many windows with `inputs` are scored at once: as many as hold BATCH_BYTES, at most MAX_BATCH."""
    return max(1, min(int(BATCH_BYTES / data.window_bytes(inputs)), MAX_BATCH))


def batches_of(windows: Iterable[ClipWindow], size: int) -> Iterator[list[ClipWindow]]:
    """At most `size` windows at a time, in their order, never of different lengths.

    So nothing is padded: some presets do with padding what the published code does, and a window's score
    would depend on the others.
    """
    for _, alike in itertools.groupby(windows, _lengths):
        while taken := list(itertools.islice(alike, size)):
            yield taken


def _lengths(window: ClipWindow) -> tuple[int, ...]:
    """Numbers of frames, of samples and of rows of each feature."""
    return tuple(len(values) for values in (window.video, window.waveform, *window.features.values()))


def logits_of(output: DetectorOutput) -> Floats:
    """`logits_of_heads` of windows, (B, 3), off the device."""
    return logits_of_heads(output).detach().float().cpu().double().numpy()
