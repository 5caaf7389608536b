"""Sound of any file, decoded with PyAV, as float32 in [-1, 1]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError
from utils.media.allowed import CODECS, announced_duration_s, report_length, require_codec
from utils.media.container import MAX_UNDECODED, decode_packets, open_container, tracks_of

if TYPE_CHECKING:
    import av

# time in s, samples per second, channels (C, n) float32
_Piece = tuple[float, int, npt.NDArray[np.float32]]

RESAMPLER_QUALITY = "HQ"  # soxr's setting that librosa uses: MFCC then agree with the published pipeline's
LARGEST_AUDIO_GAP_S = 0.05  # between two packets, by their time stamps; smaller ones are rounding
LOST_IN_THE_MIX_DB = 20.0  # a mix that is this much quieter than its loudest channel has cancelled it
KEPT_BYTES = 64 << 20  # of decoded channels, two minutes of stereo; longer sound is decoded twice
SILENCE = 1 / 32768  # one step of 16 bit: quieter sound is digital silence
# of a surround track, what a mono listener hears of each channel; a voice is in the centre (BT.775)
_SHARES = {"FC": 1.0, "FL": 0.5, "FR": 0.5, "BL": 0.35, "BR": 0.35, "SL": 0.35, "SR": 0.35, "BC": 0.35}


@dataclass
class SoundReport:
    """What was met in decoding; filled while the sound is read."""

    lost_s: list[tuple[float, float]] = field(default_factory=list)  # (start, end) of undecodable sound

    def require_whole(self, path: Path, seconds: float) -> None:
        """Raise ClipError if too much of `seconds` of sound could not be decoded."""
        lost_s = sum(end - start for start, end in self.lost_s)
        if lost_s > MAX_UNDECODED * seconds + 0.1:
            raise ClipError(
                path, f"damaged: {lost_s:.1f} of {seconds:.1f} s of its sound cannot be decoded; get it again"
            )


def iterate_audio(
    path: Path, sample_rate_hz: int, report: SoundReport | None = None
) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    """Yield (time of the first sample in s, samples (n,) float32) of the sound that a viewer hears, in order.

    Of several tracks it is the default one, or the first that is not silent. Channels are mixed to mono and
    resampled with soxr. Gaps between packets, and packets that cannot be decoded, are silent. Nothing is
    yielded if there is no sound track. Raises ClipError if more than MAX_UNDECODED of it cannot be decoded.
    """
    import soxr

    report = report or SoundReport()
    heard = _choose(path)
    decoded = heard.pieces or _decoded(path, heard.track, report)
    report.lost_s += heard.lost_s if heard.pieces else ()
    resampler: soxr.ResampleStream | None = None
    waiting: list[npt.NDArray[np.float32]] = []  # packets are short: half a second is resampled at once
    num_waiting = 0
    position_s = 0.0  # of the next sample yielded
    for time_s, rate_hz, channels in decoded:
        if resampler is None:
            source_rate, position_s = rate_hz, time_s
            resampler = soxr.ResampleStream(
                rate_hz, sample_rate_hz, 1, dtype="float32", quality=RESAMPLER_QUALITY
            )
        if rate_hz != source_rate:
            raise ClipError(path, f"the sample rate changes from {source_rate} to {rate_hz} Hz")
        waiting.append(mix_to_mono(channels, heard.shares))
        num_waiting += channels.shape[1]
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


def shares_of(names: Sequence[str]) -> npt.NDArray[np.float32] | None:
    """(C,) share of each channel of a surround track in what a mono listener hears; None: all alike."""
    wanted = np.array([_SHARES.get(name, 0.0) for name in names], np.float32)
    return wanted if len(names) > 2 and wanted.any() else None


def is_lost(energies: npt.NDArray[np.float64], mixed: float) -> bool:
    """Whether a mix of energy `mixed` has cancelled the loudest of its channels, of `energies` (C,)."""
    return bool(energies.max(initial=0.0) > mixed * 10 ** (LOST_IN_THE_MIX_DB / 10))


def mix_to_mono(
    channels: npt.NDArray[np.float32], shares: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """(C, n) -> (n,): the mean, or by `shares` (C,)."""
    if len(channels) == 1:  # no copy
        return channels[0]
    if shares is None or len(shares) != len(channels):
        return np.asarray(channels.mean(axis=0, dtype=np.float32))
    return shares @ channels


class _Heard(NamedTuple):
    """The track that is heard."""

    track: int  # -1: there is none
    shares: npt.NDArray[np.float32] | None = None  # (C,) of its channels in the mix; None = their mean
    is_silent: bool = False
    pieces: Sequence[_Piece] = ()  # all of it, if it was decoded already and is short
    lost_s: Sequence[tuple[float, float]] = ()


def _choose(path: Path) -> _Heard:
    """The track that is heard.

    Where there are several tracks or channels, they are decoded first: a silent track never wins over one
    that speaks, and channels may cancel each other.
    """
    with open_container(path, "audio") as (container, _):
        tracks = tracks_of(container, "audio")
        usable = [s for s in tracks if s.codec_context and s.codec_context.name in CODECS["audio"]]
        for stream in usable or tracks[:1]:  # a phone's second track may be in a codec of its own
            require_codec(path, stream)
        kinds = [(stream.index, [c.name for c in stream.codec_context.layout.channels]) for stream in usable]
    if len(kinds) == 1 and len(kinds[0][1]) == 1:
        return _Heard(kinds[0][0])
    first = None
    for index, names in kinds:
        heard = _listen(path, index, names)
        if not heard.is_silent:
            return heard
        first = first or heard
    return first or _Heard(-1)


def _listen(path: Path, index: int, names: list[str]) -> _Heard:
    """Decode a track, and choose the shares of its channels."""
    shares = shares_of(names)
    energies, mixed, loudest = np.zeros(len(names)), 0.0, 0.0
    report, pieces, num_bytes = SoundReport(), [], 0
    for piece in _joined(_decoded(path, index, report)):
        channels = piece[2]
        num_bytes += channels.nbytes
        if num_bytes <= KEPT_BYTES:
            pieces.append(piece)
        if len(channels) == len(names):
            energies += np.square(channels, dtype=np.float64).sum(axis=1)
        mixed += float(np.square(mix_to_mono(channels, shares), dtype=np.float64).sum())
        loudest = max(loudest, float(np.abs(channels).max(initial=0.0)))
    if is_lost(energies, mixed):
        shares = np.zeros(len(names), np.float32)
        shares[energies.argmax()] = 1.0
    if num_bytes > KEPT_BYTES:
        pieces = []
    return _Heard(index, shares, loudest < SILENCE, pieces, report.lost_s)


def _joined(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """The same sound in pieces of half a second: packets are short, and each would cost some calls."""
    waiting: list[npt.NDArray[np.float32]] = []
    time_s, rate_hz = 0.0, 0
    for piece_s, piece_hz, channels in pieces:
        if waiting and (piece_hz != rate_hz or len(channels) != len(waiting[0])):
            yield time_s, rate_hz, np.concatenate(waiting, axis=1)
            waiting = []
        if not waiting:
            time_s, rate_hz = piece_s, piece_hz
        waiting.append(channels.copy())  # the decoder reuses its memory
        if sum(part.shape[1] for part in waiting) >= rate_hz // 2:
            yield time_s, rate_hz, np.concatenate(waiting, axis=1)
            waiting = []
    if waiting:
        yield time_s, rate_hz, np.concatenate(waiting, axis=1)


def _decoded(path: Path, index: int, report: SoundReport) -> Iterator[_Piece]:
    """Yield the pieces of a track without gaps."""
    import av

    with open_container(path, "audio") as (container, _):
        if index < 0:
            return
        stream = container.streams[index]
        require_codec(path, stream)
        report_length(0, 0, float(announced_duration_s(container)))
        to_float = av.AudioResampler(format="fltp")
        next_s: float | None = None  # time of the next sample
        lost = False
        for _, frames in decode_packets(path, container, stream):
            lost = lost or frames is None
            for decoded in frames or ():
                for frame in [decoded] if decoded.format.name == "fltp" else to_float.resample(decoded):
                    time_s, rate_hz = frame.time, frame.sample_rate
                    if next_s is None:
                        next_s = time_s or 0.0
                    if time_s is not None and time_s - next_s > (0.0 if lost else LARGEST_AUDIO_GAP_S):
                        if lost:
                            report.lost_s.append((next_s, time_s))
                        count = round((time_s - next_s) * rate_hz)
                        for start in range(0, count, rate_hz):  # a second at a time
                            shape = len(frame.layout.channels), min(rate_hz, count - start)
                            yield next_s + start / rate_hz, rate_hz, np.zeros(shape, np.float32)
                        next_s = time_s
                    lost = False
                    yield next_s, rate_hz, _planes(frame)
                    next_s += frame.samples / rate_hz


def _planes(frame: av.AudioFrame) -> npt.NDArray[np.float32]:
    """(C, n) float32 of planar float samples."""
    if len(frame.planes) == 1:  # no copy
        plane: Any = frame.planes[0]  # PyAV's annotations do not say that it is a buffer
        return np.frombuffer(plane, np.float32, frame.samples)[None]
    return np.asarray(frame.to_ndarray(), np.float32)
