"""When the frames of a video are shown, read from its packets without decoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError
from utils.media.allowed import media_limits, report_length, require_codec
from utils.media.colour import Colour
from utils.media.container import open_container

if TYPE_CHECKING:
    import av

MIN_FPS, MAX_FPS = Fraction(1, 1000), 1000
LEAST_PART = 0.98  # of what the header announces must be there
LEAST_END_S = 0.2  # a file that ends this much before the announced duration may be whole
# containers that may begin in the middle of a group of pictures, which cannot be decoded
_WITHOUT_A_START = ("mpegts", "mpeg")


@dataclass(frozen=True, kw_only=True)
class VideoTimes:
    """When the frames of a video are shown."""

    starts_s: npt.NDArray[np.float64]  # (T,) presentation times, rising; the first one need not be 0
    fps: Fraction  # the average rate
    constant: bool  # each frame is within half a frame of its place at that rate
    colour: dict[str, Any] = field(default_factory=dict)  # Colour.facts
    codecs: str = ""  # of the video and sound track, e.g. "h264/aac"; "h264/" has no sound


def read_video_times(path: Path, file: BinaryIO | None = None) -> VideoTimes:
    """The presentation times of all frames, from the packets, without decoding.

    Raises ClipError if there is no video stream, no frame, or less of it than the header announces (a
    truncated file): frames, or where their number is not announced (Matroska), seconds.
    """
    with open_container(path, "video", file) as (container, stream):
        if stream is None:
            raise ClipError(path, "has no video stream")
        require_codec(path, stream)
        pixels = stream.codec_context.width * stream.codec_context.height
        sound = next(iter(container.streams.audio), None)
        codecs = f"{_codec_of(stream)}/{_codec_of(sound) if sound is not None else ''}"
        announced, nominal = stream.frames, stream.guessed_rate or stream.average_rate
        stamps, num_packets, end_s = _read_stamps(path, container, stream)
        duration_s = 0.0 if announced else _announced_duration_s(container)
        time_base, colour = stream.time_base, Colour.of(stream.codec_context).facts()
    if not stamps:
        raise ClipError(path, "has no video frame")
    if num_packets < announced * LEAST_PART - 1:
        raise ClipError(
            path, f"cut off: {num_packets} of {announced} announced frames are there; get the file again"
        )
    if end_s < duration_s * LEAST_PART - LEAST_END_S:
        raise ClipError(
            path, f"cut off: {end_s:.1f} of {duration_s:.1f} announced seconds are there; get the file again"
        )
    starts_s = np.asarray(np.unique(np.asarray(stamps, np.int64)) * float(time_base), np.float64)
    fps, constant = _frame_rate(starts_s, nominal)
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ClipError(path, f"has {float(fps):g} frames per second")
    seconds = len(starts_s) / fps
    media_limits().require_duration(path, seconds)
    report_length(len(starts_s), pixels, float(seconds))
    return VideoTimes(starts_s=starts_s, fps=fps, constant=constant, colour=colour, codecs=codecs)


def _codec_of(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "unknown"


def _read_stamps(
    path: Path, container: av.container.InputContainer, stream: Any
) -> tuple[list[int], int, float]:
    """(time stamps of the shown frames, number of packets, end of the last packet of any track in s).

    Packets that an edit list hides count as packets only. Raises ClipError above --max_frames.
    """
    limits, ordered = media_limits(), not has_presentation_times(container)
    stamps: list[int] = []
    num_packets, end_s, first_key = 0, 0.0, None
    # where frames are not counted, the end of any track tells whether the file is whole
    for packet in container.demux(stream) if stream.frames else container.demux():
        stamp = packet.dts if ordered or packet.pts is None else packet.pts
        if not packet.size or stamp is None:
            continue
        end_s = max(end_s, float((stamp + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        num_packets += 1
        limits.require_frames(path, num_packets)
        if first_key is None and packet.is_keyframe:
            first_key = stamp
        if not packet.is_discard:
            stamps.append(stamp)
    if container.format.name in _WITHOUT_A_START and first_key is not None:
        stamps = [stamp for stamp in stamps if stamp >= first_key]
    return stamps, num_packets, end_s


def has_presentation_times(container: av.container.InputContainer) -> bool:
    """Whether packets say when their frame is shown; in AVI, they say only when it is decoded."""
    return container.format.name != "avi"


def _announced_duration_s(container: av.container.InputContainer) -> float:
    """What Matroska's header says; other containers' durations are estimates."""
    if "matroska" not in container.format.name or container.duration is None:
        return 0.0
    return container.duration / 1e6


def _frame_rate(starts_s: npt.NDArray[np.float64], nominal: Fraction | None) -> tuple[Fraction, bool]:
    """(frames per second, whether every frame lies within half a frame of its place at that rate)."""
    if len(starts_s) == 1:
        return nominal or Fraction(25), True
    mean_fps = Fraction((len(starts_s) - 1) / (starts_s[-1] - starts_s[0])).limit_denominator(1001)
    for fps in (nominal, mean_fps):
        if fps and np.abs(starts_s - starts_s[0] - np.arange(len(starts_s)) / float(fps)).max() < 0.5 / float(
            fps
        ):
            return Fraction(fps), True
    return mean_fps, False


def read_picture_start_s(path: Path) -> float:
    """When the first frame is shown, in s, as the container says; 0 for a file without video."""
    with open_container(path, "video") as (_, stream):
        if stream is None or stream.start_time is None:
            return 0.0
        return float(stream.start_time * stream.time_base)
