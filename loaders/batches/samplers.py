"""The order in which clips are drawn, and which process computes which of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from utils.clip_type import Clip
from utils.errors import DatasetError, UsageError
from utils.run import distributed
from utils.run.bad_clips import BadClips


class TrainingSampler(Sampler[tuple[int, tuple[int, int]]]):
    """(clip index, (epoch, repetition)) in an order drawn from (seed, epoch) alone.

    `repetition` counts how often the clip came before in this epoch: a clip that is drawn several times to
    balance the classes shows another window each time. An epoch has as many draws as there are clips, divided
    among the classes by `weights` (class -> share, equal by default). Each class is shuffled again and again,
    so that its clips are seen equally often; with one class every clip comes once. With `repeats` (class ->
    times) each clip of a class comes so often, and an epoch is as long as that. Clips whose indices are in
    `left_out()` are not drawn; others of their class come more often instead.
    """

    def __init__(
        self,
        classes: Sequence[object],
        *,
        seed: int,
        weights: Mapping[object, float] | None = None,
        repeats: Mapping[object, int] | None = None,
        left_out: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self.seed, self.epoch, self.left_out = seed, 0, left_out
        groups: dict[object, list[int]] = defaultdict(list)
        for index, name in enumerate(classes):
            groups[name].append(index)
        keys = sorted(groups, key=str)
        self.groups = [np.array(groups[key]) for key in keys]
        if repeats is not None:
            self.quotas = [repeats[key] * len(groups[key]) for key in keys]
        else:
            shares = np.array([1.0 if weights is None else weights[key] for key in keys])
            ends = np.concatenate([[0.0], shares.cumsum() / shares.sum()]) * len(classes)
            self.quotas = np.diff(ends.round().astype(int)).tolist()

    def __len__(self) -> int:
        return sum(self.quotas)

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn, left_out = [], list(self.left_out())
        for group, quota in zip(self.groups, self.quotas, strict=True):
            if quota == 0:
                continue
            group = group[~np.isin(group, left_out)]
            if not len(group):
                raise DatasetError("all training clips of a class were set aside: none can be read")
            rounds = [rng.permutation(group) for _ in range(-(-quota // len(group)))]
            drawn.append(np.concatenate(rounds)[:quota])
        repetitions: Counter[int] = Counter()
        for index in rng.permutation(np.concatenate(drawn)).tolist():
            yield index, (self.epoch, repetitions[index])
            repetitions[index] += 1


class TrainingBatches(Sampler[list[tuple[int, tuple[int, int]]]]):
    """This process's batches, from one order of draws for all processes.

    Each optimiser step takes the next `batch_size` draws of `sampler`, whatever the number of processes. It
    is split into `accumulate_steps` equal parts, and each process computes its slice of every part. A smaller
    last step is dropped (batch norm needs more than one clip), unless it is the only one. Iteration starts
    at step `first_step` of the epoch.

    Raises UsageError if the clips of a step cannot be divided evenly.
    """

    def __init__(self, sampler: TrainingSampler, *, batch_size: int, accumulate_steps: int) -> None:
        num_processes = distributed.world_size()
        self.sampler, self.batch_size, self.accumulate_steps = sampler, batch_size, accumulate_steps
        self.first_step = 0
        self.num_steps = max(1, len(sampler) // batch_size)  # of a whole epoch
        num_parts = num_processes * accumulate_steps
        if batch_size % num_parts:
            raise UsageError(
                f"--batch_size {batch_size} cannot be divided among {num_processes} processes and "
                f"{accumulate_steps} accumulate_steps; give a multiple of {num_parts}"
            )
        if len(sampler) < batch_size and num_parts > 1:
            raise UsageError(
                f"there are only {len(sampler)} training clips: use a smaller --batch_size than {batch_size}"
            )

    @property
    def largest(self) -> int:
        """Windows of the largest batch of this process."""
        size = min(self.batch_size, len(self.sampler))
        return -(-size // (distributed.world_size() * self.accumulate_steps))

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


class EvaluationBatches(Sampler[list[tuple[int, Any]]]):
    """This process's batches of evaluation keys (see deal_out), without clips set aside in earlier epochs.

    All of them if it is `alone`.
    """

    def __init__(
        self,
        keys: Sequence[tuple[int, Any]],
        clips: Sequence[Clip],
        batch_size: int,
        bad_clips: BadClips,
        *,
        alone: bool = False,
    ) -> None:
        self.keys, self.clips, self.batch_size, self.bad_clips = keys, clips, batch_size, bad_clips
        self.alone = alone

    @property
    def largest(self) -> int:
        """Windows of the largest batch."""
        return min(self.batch_size, len(self.keys))

    def _batches(self) -> list[list[tuple[int, Any]]]:
        left_out = self.bad_clips.left_out()
        keys = [key for key in self.keys if self.clips[key[0]].clip_id not in left_out]
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        return batches if self.alone else distributed.deal_out(batches)

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        return iter(self._batches())
