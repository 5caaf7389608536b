"""Video decoded with PyAV, which carries a current FFmpeg in its wheel. Frames are (H, W, 3) uint8 RGB.

A `path` may come with `file`, an open file: then that is read, and the path only names it in errors.
Single frames of prepared crops: utils/clip/frames.py. Writing: writer.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError, UsageError
from utils.media.allowed import (
    HEAD_BYTES,
    find_demuxer,
    media_limits,
    open_options,
    report_length,
    require_allowed,
    require_codec,
)
from utils.media.picture import Picture, PictureConverter

if TYPE_CHECKING:
    import av

BURST_PIXELS = 1 << 25  # decoded ahead at most, 50 MB as yuv420p
MIN_FPS, MAX_FPS = Fraction(1, 1000), 1000


def import_av(path: Path) -> Any:
    if importlib.util.find_spec("av") is None:
        raise UsageError(f"reading {path} needs the package av; install it with: pip install av")
    import av

    return av


@contextlib.contextmanager
def open_container(
    path: Path, kind: str, file: BinaryIO | None = None
) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """The container and its first stream of `kind` ("video" or "audio"; None if it has none).

    Raises ClipError for FFmpeg's errors, and before anything is decoded for what utils/media/allowed.py does
    not allow.
    """
    av = import_av(path)
    if file is None:
        head = read_head(path)
    else:
        head = file.read(HEAD_BYTES)
        file.seek(0)
    demuxer = find_demuxer(path, head)
    try:
        with av.open(file or local_file(path), format=demuxer, **open_options(demuxer, kind)) as container:
            require_allowed(path, container)
            streams = getattr(container.streams, kind)
            yield container, streams[0] if streams else None
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise ClipError(path, "cannot be decoded: it takes more memory than there is for it") from error
        raise ClipError(
            path, f"cannot be decoded ({error.strerror or error}): cut off, damaged, or not a video"
        ) from error


def read_head(path: Path) -> bytes:
    """The first bytes of a file. Raises ClipError if it is missing or empty."""
    if not path.is_file():
        raise ClipError(path, "no such file")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise ClipError(path, "the file is empty (0 bytes)")
    return head


def local_file(path: Path) -> str:
    """A path that FFmpeg takes for nothing else: a name may look like a protocol (concat:a|b.mp4)."""
    return f"file:{path}"


@dataclass(frozen=True, kw_only=True)
class VideoTimes:
    """When the frames of a video are shown, read from the container without decoding."""

    starts_s: npt.NDArray[np.float64]  # (T,) presentation times, rising; the first one need not be 0
    fps: Fraction  # the average rate
    constant: bool  # each frame is within half a frame of its place at that rate
    codecs: str = ""  # of the first video and audio track, e.g. "h264/aac"; "h264/" has no sound


def read_video_times(path: Path, file: BinaryIO | None = None) -> VideoTimes:
    """The presentation times of all frames, from the packets, without decoding.

    Raises ClipError if there is no video stream, no frame, or fewer frames than the container's header
    announces (a truncated file).
    """
    with open_container(path, "video", file) as (container, stream):
        if stream is None:
            raise ClipError(path, "has no video stream")
        require_codec(path, stream)
        pixels = stream.codec_context.width * stream.codec_context.height
        codecs = "/".join(map(_first_codec, (container.streams.video, container.streams.audio)))
        shown = (
            packet.pts
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None and not packet.is_discard
        )
        limits = media_limits()
        stamps = list(itertools.islice(shown, limits.max_frames + 1 if limits.max_frames else None))
        limits.require_frames(path, len(stamps))
        time_base, announced, nominal = (
            stream.time_base,
            stream.frames,
            stream.guessed_rate or stream.average_rate,
        )
    if not stamps:
        raise ClipError(path, "has no video frame")
    if len(stamps) < announced * 0.98 - 1:
        raise ClipError(
            path, f"cut off: {len(stamps)} of {announced} announced frames are there; get the file again"
        )
    starts_s = np.unique(np.asarray(stamps, np.int64)) * float(time_base)
    fps, constant = _frame_rate(starts_s, nominal)
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ClipError(path, f"has {float(fps):g} frames per second")
    seconds = len(starts_s) / fps
    limits.require_duration(path, seconds)
    report_length(len(starts_s), pixels, float(seconds))
    return VideoTimes(starts_s=starts_s, fps=fps, constant=constant, codecs=codecs)


def _first_codec(tracks: tuple[Any, ...]) -> str:
    context = tracks[0].codec_context if tracks else None
    return context.name if context is not None else "unknown" if tracks else ""


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


def iterate_pictures(path: Path, file: BinaryIO | None = None) -> Iterator[tuple[float, Picture]]:
    """Decode all frames in order; yield (presentation time in s, frame as displayed).

    Pixels are converted when they are asked for. Raises ClipError if decoding fails.
    """
    with open_container(path, "video", file) as (container, stream):
        if stream is None:
            raise ClipError(path, "has no video stream")
        require_codec(path, stream)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 1
        converter = PictureConverter()
        pixel_aspect = float(stream.sample_aspect_ratio or 1)

        def show(frame: av.VideoFrame) -> tuple[float, Picture]:
            if frame.time is None:
                raise ClipError(path, "a frame has no time stamp; remux the file")
            return frame.time, Picture(frame, converter, pixel_aspect)

        yield from _in_bursts(map(show, container.decode(stream)))


def _in_bursts(pictures: Iterator[tuple[float, Picture]]) -> Iterator[tuple[float, Picture]]:
    """The same pictures, decoded a few at a time: switching between a decoder and other heavy code at each
    frame evicts the decoder's code and tables from the CPU's caches.
    """
    first = next(pictures, None)
    if first is None:
        return
    yield first
    _, picture = first
    burst = max(1, min(8, BURST_PIXELS // (picture.width * picture.height)))
    while waiting := list(itertools.islice(pictures, burst)):
        yield from waiting


def iterate_frames(path: Path, file: BinaryIO | None = None) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Decode all frames in order; yield (presentation time in s, (H, W, 3) uint8 RGB)."""
    for time_s, picture in iterate_pictures(path, file):
        yield time_s, picture.rgb()
