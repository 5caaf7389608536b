"""Sound through a lossy codec and back."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from utils.errors import UsageError
from utils.media.container import local_file
from utils.media.sound import RESAMPLER_QUALITY, iterate_audio

# containers that store the encoder's delay, which a decoder can then remove
_CONTAINERS = {"aac": "mp4", "libmp3lame": "mp3", "libopus": "ogg"}
# AAC and MP3 cannot encode at so low a bit rate at the full sample rate; Opus narrows its band itself
_HIGHEST_RATES_HZ = {"aac": {16_000: 24_000, 8_000: 16_000}, "libmp3lame": {16_000: 24_000, 8_000: 16_000}}


def write_sound(
    path: Path, waveform: npt.NDArray[np.float32], rate_hz: int, codec: str, bit_rate: int
) -> None:
    """Encode mono sound (N,) float32 at `bit_rate` bits/s; low bit rates also lower the sample rate.

    Raises UsageError if the installed FFmpeg has no such encoder.
    """
    import av

    try:
        formats = av.Codec(codec, "w").audio_formats
        assert formats, "every encoder of sound lists its formats"
    except av.codec.codec.UnknownCodecError as error:
        raise UsageError(f"the installed package av has no encoder {codec}") from error
    coded_hz = min(rate_hz, _HIGHEST_RATES_HZ.get(codec, {}).get(bit_rate, rate_hz))
    if coded_hz != rate_hz:
        waveform = soxr.resample(waveform, rate_hz, coded_hz, quality=RESAMPLER_QUALITY)
    with av.open(local_file(path), "w", format=_CONTAINERS[codec]) as container:
        stream = container.add_stream(codec, rate=coded_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = bit_rate
        to_codec = av.AudioResampler(format=formats[0].name, layout="mono", rate=coded_hz)
        for start in range(0, len(waveform), 1024):
            piece = np.ascontiguousarray(waveform[None, start : start + 1024], np.float32)
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = coded_hz, start, Fraction(1, coded_hz)
            for converted in to_codec.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def through_codec(
    waveform: npt.NDArray[np.float32], rate_hz: int, codec: str, bit_rate: int
) -> npt.NDArray[np.float32]:
    """(N,) float32, encoded and decoded again: (N,) float32, without a shift in time."""
    result = np.zeros(len(waveform), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sound.{_CONTAINERS[codec]}"
        write_sound(path, waveform, rate_hz, codec, bit_rate)
        # MP3 counts time from before the encoder's delay, although the delay is removed: only the first
        # sample is known to be the first one
        pieces = [samples for _, samples in iterate_audio(path, rate_hz)]
    decoded = np.concatenate(pieces)[: len(result)]
    result[: len(decoded)] = decoded
    return np.clip(result, -1, 1)
