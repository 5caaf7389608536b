"""Windows -> ClipBatch: pads and masks, never filters. Also the order in which clips are drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from loaders.batches.windows import ClipWindow
from utils.clip.files import SAMPLE_RATE_HZ
from utils.errors import ClipError, DatasetError, UsageError
from utils.run import distributed
from utils.types import ClipBatch


class Collate:
    """Windows of one size -> ClipBatch. Shorter ones are padded with zeros at the end and masked."""

    def __init__(self, video_fps: float) -> None:
        self.video_fps = video_fps

    def __call__(self, windows: Sequence[ClipWindow]) -> ClipBatch:
        first = windows[0]
        for window in windows:
            if window.video.shape[1:] != first.video.shape[1:]:
                raise ClipError(
                    window.clip_id,
                    f"frames of {tuple(window.video.shape[1:3])} beside {tuple(first.video.shape[1:3])} of "
                    f"{first.clip_id}; prepare all clips with one --crop_size",
                )
            if window.is_equalized != first.is_equalized:
                raise ClipError(
                    window.clip_id,
                    f"its frames are {'' if window.is_equalized else 'not '}packed equalised, unlike those "
                    f"of {first.clip_id}; pack all data sets with the same --frames",
                )
        video, video_padding_mask = _pad([window.video for window in windows])
        waveform, audio_padding_mask = _pad([window.waveform for window in windows])
        landmarks, _ = _pad([window.landmarks for window in windows])
        has_landmarks, _ = _pad([window.has_landmarks for window in windows])

        def labels(name: str) -> Tensor:
            return torch.tensor([getattr(window, name) for window in windows], dtype=torch.float32)

        return ClipBatch(
            video=video.permute(0, 4, 1, 2, 3),  # (B, 3, T, H, W), colours innermost in memory
            waveform=waveform,
            landmarks=landmarks,
            video_padding_mask=video_padding_mask,
            audio_padding_mask=audio_padding_mask,
            landmark_padding_mask=~has_landmarks,
            video_labels=labels("video_label"),
            audio_labels=labels("audio_label"),
            labels=labels("label"),
            clip_ids=tuple(window.clip_id for window in windows),
            video_fps=self.video_fps,
            is_equalized=first.is_equalized,
            sample_rate_hz=SAMPLE_RATE_HZ,
        )


def _pad(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack sequences of different lengths (n_i, ...) -> (B, n, ...) and the padding mask (B, n)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    return padded, torch.arange(padded.shape[1]) >= lengths[:, None]


class TrainingSampler(Sampler):
    """(clip index, (epoch, repetition)) in an order drawn from (seed, epoch) alone.

    `repetition` counts how often the clip came before in this epoch, so that a clip that is drawn often to
    balance the classes shows another window each time. An epoch has as many draws as there are clips, shared
    out by `weights` (class -> share, equal shares by default). Each class is shuffled over and over, so that
    its clips are seen equally often; with one class every clip comes once. `left_out()` are indices of clips
    that are no longer drawn; others of their class come more often instead.
    """

    def __init__(
        self,
        classes: Sequence[object],
        *,
        seed: int,
        weights: Mapping[object, float] | None = None,
        left_out: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self.num_clips, self.seed, self.epoch, self.left_out = len(classes), seed, 0, left_out
        groups: dict[object, list[int]] = defaultdict(list)
        for index, name in enumerate(classes):
            groups[name].append(index)
        keys = sorted(groups, key=str)
        self.groups = [np.array(groups[key]) for key in keys]
        shares = np.array([1.0 if weights is None else weights[key] for key in keys])
        ends = np.concatenate([[0.0], shares.cumsum() / shares.sum()]) * self.num_clips
        self.quotas = np.diff(ends.round().astype(int)).tolist()

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn, left_out = [], list(self.left_out())
        for group, quota in zip(self.groups, self.quotas, strict=True):
            if quota == 0:
                continue
            group = group[~np.isin(group, left_out)]
            if not len(group):
                raise DatasetError("all training clips of a class were set aside: none of them can be read")
            rounds = [rng.permutation(group) for _ in range(-(-quota // len(group)))]
            drawn.append(np.concatenate(rounds)[:quota])
        repetitions: Counter[int] = Counter()
        for index in rng.permutation(np.concatenate(drawn)).tolist():
            yield index, (self.epoch, repetitions[index])
            repetitions[index] += 1


class TrainingBatches(Sampler):
    """The batches that this process computes, out of one order of draws for all processes.

    Every optimiser step takes the next `batch_size` draws of `sampler`, whatever the number of processes. It
    has `accumulate_steps` parts of equal size, computed one after the other, and each process computes its
    slice of every part. The last, smaller step is left out (batch norm needs more than one clip), unless it
    is the only one. Iterating begins at step `first_step` of the epoch.

    Raises UsageError if the clips of a step cannot be shared out evenly.
    """

    def __init__(self, sampler: TrainingSampler, *, batch_size: int, accumulate_steps: int) -> None:
        num_processes = distributed.world_size()
        self.sampler, self.batch_size, self.accumulate_steps = sampler, batch_size, accumulate_steps
        self.first_step = 0
        self.num_steps = max(1, len(sampler) // batch_size)  # of a whole epoch
        num_parts = num_processes * accumulate_steps
        if batch_size % num_parts:
            raise UsageError(
                f"--batch_size {batch_size} cannot be shared out: it is the number of clips of a step over "
                f"all {num_processes} processes and {accumulate_steps} accumulate_steps; give a multiple of "
                f"{num_parts}"
            )
        if len(sampler) < batch_size and num_parts > 1:
            raise UsageError(
                f"{len(sampler)} training clips are fewer than --batch_size {batch_size}: use a smaller one"
            )

    def __len__(self) -> int:
        return (self.num_steps - self.first_step) * self.accumulate_steps

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        draws = list(self.sampler)
        size = self.batch_size // (distributed.world_size() * self.accumulate_steps)
        for step in range(self.first_step, self.num_steps):
            for part in range(self.accumulate_steps):
                start = step * self.batch_size
                start += (part * distributed.world_size() + distributed.rank()) * size
                yield draws[start : start + size]
