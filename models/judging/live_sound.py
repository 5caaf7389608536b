"""The sound of a video that is still being shown, as a prepared clip's wav file would hold it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from utils.clip.files import SAMPLE_RATE_HZ
from utils.media.sound import LARGEST_AUDIO_GAP_S, RESAMPLER_QUALITY

Samples = npt.NDArray[np.float32]


class LiveSound:
    """Mono PCM16 at SAMPLE_RATE_HZ; sample 0 belongs to the first frame. What nobody will read is dropped.

    As in files: gaps are silent, sound from before the first frame is cut off. Sound that comes after its
    time was filled with silence (`fill_to`) is lost.
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
        self.loudest = self.loudest_second = 0.0  # amplitude, and mean square of a second
        self._second, self._in_second = 0.0, 0

    @property
    def end(self) -> int:
        """The number of the sample after the last one that is known."""
        return self._first + len(self._kept)

    def write(self, samples: Samples, time_s: float | None = None) -> None:
        """Append (N,) or (C, N) samples in [-1, 1], the first of them at `time_s` after the first frame."""
        if samples.ndim == 2:
            samples = np.asarray(samples.mean(axis=0, dtype=np.float32))
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
            self._measure(stored)
            self._kept = np.concatenate([self._kept, stored.astype(np.float32)])

    def _measure(self, samples: Samples) -> None:
        self._second += float(np.square(samples, dtype=np.float64).sum())
        self._in_second += len(samples)
        if self._in_second >= SAMPLE_RATE_HZ:
            self.loudest_second = max(self.loudest_second, self._second / self._in_second)
            self._second, self._in_second = 0.0, 0

    def fill_to(self, end: int) -> None:
        """Append silence up to a sample."""
        if end > self.end:
            self._kept = np.concatenate([self._kept, np.zeros(end - self.end, np.float32)])

    def read(self, start: int, end: int) -> Samples:
        """Samples `start` to `end`, as far as they are known."""
        return self._kept[max(0, start - self._first) : max(0, end - self._first)].copy()

    def drop_before(self, start: int) -> None:
        """Forget samples that nobody will read."""
        count = min(start - self._first, len(self._kept))
        if count > 0:
            self._kept, self._first = self._kept[count:].copy(), self._first + count
