"""A clip folder that is written and read without PyAV and soundfile, for machines that lack them."""

from __future__ import annotations

import contextlib
import importlib.util
import wave
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import numpy.typing as npt

from loaders.batches import windows
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, NUM_LANDMARKS, SAMPLE_RATE_HZ, VIDEO_NAME
from utils.clip.sound import SoundReader

FPS, SIZE = 25, 224


def are_needed() -> bool:
    """Whether this machine lacks what loaders and preprocessing read and write clips with."""
    return any(importlib.util.find_spec(name) is None for name in ("av", "soundfile"))


def write_plain_clip(folder: Path, seconds: int) -> Path:
    """A clip folder with moving noise in MPEG-4 by OpenCV, and a sound of noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (2 * SIZE, 2 * SIZE, 3), np.uint8), (0, 0), 5)
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(folder / VIDEO_NAME), fourcc, FPS, (SIZE, SIZE))
    for index in range(seconds * FPS):
        place = index % SIZE
        writer.write(np.ascontiguousarray(picture[place : place + SIZE, place : place + SIZE]))
    writer.release()
    with wave.open(str(folder / AUDIO_NAME), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes((3000 * rng.standard_normal(seconds * SAMPLE_RATE_HZ)).astype("<i2").tobytes())
    points = rng.uniform(0.2, 0.8, (seconds * FPS, NUM_LANDMARKS, 2))
    np.save(folder / LANDMARKS_NAME, points.astype(np.float32))
    return folder


class _PlainWav:
    """What SoundReader needs of a mono wav of 16 bits."""

    channels, subtype = 1, "PCM_16"

    def __init__(self, path: Path) -> None:
        with wave.open(str(path), "rb") as file:
            self.samplerate = file.getframerate()
            self._samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        self.frames, self._place = len(self._samples), 0

    def seek(self, place: int) -> None:
        self._place = place

    def read(self, count: int, *, dtype: str, always_2d: bool) -> npt.NDArray[np.int16]:
        end = self.frames if count < 0 else self._place + count
        return self._samples[self._place : end]


@contextlib.contextmanager
def plain_sound() -> Iterator[None]:
    """Loaders, and the worker processes that they fork, read sound without soundfile in this context."""

    @contextlib.contextmanager
    def open_plainly(path: Path) -> Iterator[SoundReader]:
        yield SoundReader(path, _PlainWav(path))

    with patch.object(windows, "open_sound", open_plainly):
        yield
