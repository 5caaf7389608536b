"""A crop for windows that overlap: frames that several of them show are decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from utils.clip.frames import open_crop

KEPT_WINDOWS = 6


class KeptCrop:
    """A Crop (see utils/clip/frames.py) whose frames of about KEPT_WINDOWS windows stay in memory.

    What follows a window is decoded along with what is missing of it. The file is open only meanwhile, and
    its header is read once.
    """

    def __init__(self, path: Path, names: Sequence[str] | None = None) -> None:
        self._path, self._names = path, names
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}  # by number, the last used one at the end
        with open_crop(path, names) as crop:
            self.fps, self.num_frames, self.is_equalized = crop.fps, crop.num_frames, crop.is_equalized

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(n, H, W, 3) uint8 RGB of `indices` (n,), in rising order. Raises ClipError if one is missing."""
        numbers = indices.tolist()
        missing = [number for number in numbers if number not in self._kept]
        length = numbers[-1] - numbers[0] + 1
        if missing:
            ahead = np.arange(missing[0], max(missing[-1] + 1, min(missing[0] + length, self.num_frames)))
            with open_crop(self._path, self._names) as crop:
                self._kept.update(zip(ahead.tolist(), crop.read(ahead), strict=True))
        for number in numbers:
            self._kept[number] = self._kept.pop(number)
        while len(self._kept) > KEPT_WINDOWS * length:
            del self._kept[next(iter(self._kept))]
        return np.stack([self._kept[number] for number in numbers])
