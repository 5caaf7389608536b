"""What a loader's worker makes of a clip: a window, or the error with which it could not be read.

A DataLoader would wrap such an error in a RuntimeError around a traceback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from torch import Tensor
from torch.utils.data import get_worker_info

from loaders.batches.collate import Collate
from loaders.batches.labels import clip_labels
from loaders.batches.windows import ClipDataset, ClipWindow, Draw
from utils.errors import FrameworkError
from utils.types import ClipBatch

Unreadable = tuple[str, FrameworkError]  # clip id, error


@dataclass(frozen=True, kw_only=True)
class Item:
    """A window, None if it could not be read, and the errors met on the way."""

    window: ClipWindow | None
    unreadable: tuple[Unreadable, ...] = ()


class ItemDataset(ClipDataset):
    """Items of windows. `at_work` holds the clip index that each worker process reads, -1 = none.

    With `replaces`, in training, the next readable clip of the same label replaces an unreadable one, so that
    batches keep their size and balance.
    """

    at_work: Tensor
    replaces = False

    def __getitem__(self, key: tuple[int, Draw]) -> Item:
        drawn, draw = key
        unreadable: list[Unreadable] = []
        for index in self._candidates(drawn):
            try:
                self._report(index)
                return Item(window=super().__getitem__((index, draw)), unreadable=tuple(unreadable))
            except FrameworkError as error:
                unreadable.append((self.clips[index].clip_id, error))
            finally:
                self._report(-1)
        return Item(window=None, unreadable=tuple(unreadable))

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


@dataclass(eq=False, repr=False)
class OtherSoundDataset(ItemDataset):
    """Evaluation windows with another clip's sound: its window of the same number, repeated or cut to fit.

    `sound_from[i]` is the index of that clip, or None if clip i keeps its own sound; `num_windows[i]` is the
    number of clip i's windows.
    """

    _: KW_ONLY
    sound_from: Sequence[int | None]
    num_windows: Mapping[int, int]

    def __getitem__(self, key: tuple[int, Draw]) -> Item:
        index, draw = key
        partner, item = self.sound_from[index], super().__getitem__(key)
        if partner is None or item.window is None:
            return item
        assert isinstance(draw, int)
        other = super().__getitem__((partner, min(draw, self.num_windows[partner] - 1)))
        if other.window is None:
            return other
        length, waveform = len(item.window.waveform), other.window.waveform
        waveform = waveform.repeat(-(-length // max(1, len(waveform))))[:length]
        return Item(window=dataclasses.replace(item.window, waveform=waveform))


@dataclass(frozen=True)
class CollateItems:
    """Items -> (their batch, None if no window could be read, or an error; the unreadable clips)."""

    collate: Collate

    def __call__(self, items: Sequence[Item]) -> tuple[ClipBatch | FrameworkError | None, list[Unreadable]]:
        unreadable = [found for item in items for found in item.unreadable]
        windows = [item.window for item in items if item.window is not None]
        try:
            return (self.collate(windows) if windows else None), unreadable
        except FrameworkError as error:  # the clips do not fit together
            return error, unreadable
