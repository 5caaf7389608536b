"""Sound of any file, decoded with PyAV, as float32 in [-1, 1]."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError
from utils.media.allowed import report_length, require_codec
from utils.media.video import open_container

if TYPE_CHECKING:
    import av

RESAMPLER_QUALITY = "HQ"  # soxr's setting that librosa uses: MFCC then agree with the published pipeline's
LARGEST_AUDIO_GAP_S = 0.05  # between two packets, by their time stamps; smaller ones are rounding


def _mono(frame: av.AudioFrame) -> npt.NDArray[np.float32]:
    """The mean of the channels of planar float samples, (N,) float32."""
    if len(frame.planes) == 1:  # no copy
        plane: Any = frame.planes[0]  # PyAV's annotations do not say that it is a buffer
        return np.frombuffer(plane, np.float32, frame.samples)
    return frame.to_ndarray().mean(axis=0, dtype=np.float32)


def _silence(count: int, piece: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield `count` zeros, in pieces."""
    for start in range(0, count, piece):
        yield np.zeros(min(piece, count - start), np.float32)


def iterate_audio(path: Path, sample_rate_hz: int) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    """Yield (time of the first sample in s, samples (n,) float32) of the first sound track, in order.

    The sound is mixed down to mono (mean of the channels) and resampled with soxr. Gaps between packets are
    filled with silence. Nothing is yielded if there is no sound track.
    """
    import av
    import soxr

    with open_container(path, "audio") as (container, stream):
        if stream is None:
            return
        require_codec(path, stream)
        report_length(0, 0, 0.0 if container.duration is None else container.duration / 1e6)
        to_float = av.AudioResampler(format="fltp")
        resampler: soxr.ResampleStream | None = None
        waiting: list[npt.NDArray[np.float32]] = []  # packets are short: half a second is resampled at once
        num_waiting = 0
        position_s = source_s = 0.0  # of the next sample yielded, and of the next one expected
        for decoded in container.decode(stream):
            for frame in [decoded] if decoded.format.name == "fltp" else to_float.resample(decoded):
                time_s = frame.time
                if resampler is None:
                    source_rate = frame.sample_rate
                    resampler = soxr.ResampleStream(
                        source_rate, sample_rate_hz, 1, dtype="float32", quality=RESAMPLER_QUALITY
                    )
                    position_s = source_s = time_s or 0.0
                if frame.sample_rate != source_rate:
                    raise ClipError(
                        path, f"the sample rate changes from {source_rate} to {frame.sample_rate} Hz"
                    )
                pieces: Iterable[npt.NDArray[np.float32]] = [_mono(frame)]
                if time_s is not None and time_s - source_s > LARGEST_AUDIO_GAP_S:
                    gap = _silence(round((time_s - source_s) * source_rate), source_rate)
                    pieces = itertools.chain(gap, pieces)
                    source_s = time_s
                source_s += frame.samples / source_rate
                for piece in pieces:
                    waiting.append(piece)
                    num_waiting += len(piece)
                    if num_waiting < source_rate // 2:
                        continue
                    samples = resampler.resample_chunk(np.concatenate(waiting))
                    waiting, num_waiting = [], 0
                    if len(samples):
                        yield position_s, samples
                        position_s += len(samples) / sample_rate_hz
        if resampler is not None:
            rest = np.concatenate([*waiting, np.zeros(0, np.float32)])
            yield position_s, resampler.resample_chunk(rest, last=True)
