"""The wav file of a prepared clip, packed or not, read in slices as float32 in [-1, 1]."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.clip.packed import open_member
from utils.errors import ClipError
from utils.media.allowed import SAMPLE_RATES_HZ
from utils.media.sound import RESAMPLER_QUALITY


class SoundReader:
    """An open wav file, read in slices."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        self.duration_s = file.frames / file.samplerate

    def read(
        self, sample_rate_hz: int, *, start_s: float = 0.0, duration_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """(N,) float32, mono (mean of the channels), resampled with soxr if the rates differ.

        Samples beyond either end of the file are left out, so the result may be shorter than requested.
        """
        file, rate = self._file, self._file.samplerate
        start = min(max(round(start_s * rate), 0), file.frames)
        file.seek(start)
        count = -1 if duration_s is None else min(round(duration_s * rate), file.frames - start)
        if file.subtype == "PCM_16":  # libsndfile takes three times as long for the same floats
            samples = file.read(count, dtype="int16", always_2d=file.channels > 1).astype(np.float32)
            samples *= np.float32(2**-15)
        else:
            samples = file.read(count, dtype="float32", always_2d=file.channels > 1)
        if file.channels > 1:
            samples = samples.mean(axis=1, dtype=np.float32)
        if rate == sample_rate_hz or len(samples) == 0:
            return samples
        import soxr

        resampled = soxr.resample(samples, rate, sample_rate_hz, quality=RESAMPLER_QUALITY)
        return resampled.astype(np.float32, copy=False)


@contextlib.contextmanager
def open_sound(path: Path) -> Iterator[SoundReader]:
    """Open a clip's wav file, packed or not. Raises ClipError if it is not readable."""
    import soundfile

    try:
        with soundfile.SoundFile(open_member(path) or path) as file:
            lowest, highest = SAMPLE_RATES_HZ
            if not lowest <= file.samplerate <= highest:
                raise ClipError(path, f"has {file.samplerate} samples per second")
            yield SoundReader(path, file)
    except soundfile.LibsndfileError as error:
        reason = f"is not a readable sound file ({error}); run preprocess.extract_audio"
        raise ClipError(path, reason) from error


def read_waveform(
    path: Path, sample_rate_hz: int, *, start_s: float = 0.0, duration_s: float | None = None
) -> npt.NDArray[np.float32]:
    """A slice of a clip's wav file, see SoundReader.read; only the slice is read."""
    with open_sound(path) as sound:
        return sound.read(sample_rate_hz, start_s=start_s, duration_s=duration_s)
