"""The sound of a video that is still being shown, as a prepared clip's wav file would hold it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from utils.clip.files import SAMPLE_RATE_HZ
from utils.media.sound import LARGEST_AUDIO_GAP_S, RESAMPLER_QUALITY, is_lost, mix_to_mono

Samples = npt.NDArray[np.float32]


class LiveSound:
    """Mono PCM16 at SAMPLE_RATE_HZ; sample 0 belongs to the first frame. What nobody will read is dropped.

    As in files: gaps are silent, sound from before the first frame is cut off. Sound that comes after its
    time was filled with silence (`fill_to`) is lost. Whether a mix cancels a channel is known of what came
    so far, in a file of all of it.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        import soxr

        self._rate = sample_rate_hz
        self._resampler = soxr.ResampleStream(
            sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality=RESAMPLER_QUALITY
        )
        self._kept = np.zeros(0, np.float32)
        self._first = 0  # number of the first kept sample
        self._next: int | None = None  # of the next one that the resampler gives
        self._next_s: float | None = None  # when the next sample of the source is due
        self._energies, self._mixed = np.zeros(0), 0.0  # of the channels, and of their mean
        self.loudest = 0.0  # amplitude

    @property
    def end(self) -> int:
        """The number of the sample after the last one that is known."""
        return self._first + len(self._kept)

    def write(self, samples: Samples, time_s: float | None = None) -> None:
        """Append (N,) or (C, N) samples in [-1, 1], the first of them at `time_s` after the first frame."""
        if samples.ndim == 2:
            samples = self._mono(samples)
        if self._next is None:
            self._next_s = time_s or 0.0
            self._next = round(self._next_s * SAMPLE_RATE_HZ)
        assert self._next_s is not None
        if time_s is not None and time_s - self._next_s > LARGEST_AUDIO_GAP_S:
            missing = round((time_s - self._next_s) * self._rate)
            samples = np.concatenate([np.zeros(missing, np.float32), samples])
            self._next_s = time_s - missing / self._rate
        self._next_s += len(samples) / self._rate
        self._append(self._resampler.resample_chunk(np.ascontiguousarray(samples, np.float32)))

    def _mono(self, channels: Samples) -> Samples:
        """(C, N) -> (N,): their mean, or the loudest one where that has cancelled it."""
        mean = mix_to_mono(channels, None)
        if len(channels) != len(self._energies):
            self._energies, self._mixed = np.zeros(len(channels)), 0.0
        self._energies += np.square(channels, dtype=np.float64).sum(axis=1)
        self._mixed += float(np.square(mean, dtype=np.float64).sum())
        return channels[self._energies.argmax()] if is_lost(self._energies, self._mixed) else mean

    def finish(self) -> None:
        """No further samples."""
        if self._next is not None:
            self._append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def _append(self, samples: Samples) -> None:
        assert self._next is not None
        self.fill_to(self._next)
        late = self.end - self._next  # of silence in their place
        self._next += len(samples)
        samples = samples[max(0, late) :]
        if len(samples):
            # as a wav file stores them
            stored = np.clip(np.rint(samples * 32768.0), -32768, 32767) / np.float32(32768)
            self.loudest = max(self.loudest, float(np.abs(stored).max()))
            self._kept = np.concatenate([self._kept, stored.astype(np.float32)])

    def fill_to(self, end: int) -> None:
        """Append silence up to a sample."""
        if end > self.end:
            self._kept = np.concatenate([self._kept, np.zeros(end - self.end, np.float32)])

    def read(self, start: int, end: int) -> Samples:
        """Samples `start` to `end`, as far as they are known."""
        return self._kept[max(0, start - self._first) : max(0, end - self._first)].copy()

    def drop_before(self, start: int) -> None:
        """Forget samples that nobody will read."""
        if start > self.end:  # nothing was heard yet: do not fill it with silence later
            self._kept, self._first = np.zeros(0, np.float32), start
        elif start > self._first:
            self._kept, self._first = self._kept[start - self._first :].copy(), start


class LoudestSecond:
    """The level of a face's sound, as doubts_of_sound takes it from a file: of its loudest second."""

    def __init__(self) -> None:
        self._loudest = self._energy = 0.0  # mean square of a whole second, and energy of the one that began
        self._count = 0

    def add(self, samples: Samples) -> None:
        """Take the next samples."""
        while len(samples):
            taken, samples = np.split(samples, [SAMPLE_RATE_HZ - self._count])
            self._energy += float(np.square(taken, dtype=np.float64).sum())
            self._count += len(taken)
            if self._count == SAMPLE_RATE_HZ:
                self._loudest = max(self._loudest, self._energy / self._count)
                self._energy, self._count = 0.0, 0

    @property
    def dbfs(self) -> float:
        """Root mean square level, in dBFS."""
        begun = self._energy / self._count if self._count else 0.0
        return 10 * math.log10(max(self._loudest, begun) + 1e-12)
