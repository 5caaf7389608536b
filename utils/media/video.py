"""Video decoded as a player shows it. Frames are (H, W, 3) uint8 RGB.

A `path` may come with `file`, an open file: then that is read, and the path only names it in errors.
Times without decoding: times.py. Single frames of prepared crops: utils/clip/frames.py. Writing: writer.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError
from utils.media.allowed import require_codec
from utils.media.container import decode_packets, open_container
from utils.media.picture import Picture, PictureConverter
from utils.media.times import has_presentation_times

if TYPE_CHECKING:
    import av

BURST_PIXELS = 1 << 25  # decoded ahead at most, 50 MB as yuv420p


def iterate_pictures(path: Path, file: BinaryIO | None = None) -> Iterator[tuple[float, Picture]]:
    """Decode in order; yield (presentation time in s, frame as displayed).

    Frames that cannot be decoded are left out, and so are those that the decoder had to patch up, up to the
    next key frame. All pictures have the first one's size. Pixels are converted when they are asked for.
    Raises ClipError if the file cannot be read.
    """
    with open_container(path, "video", file) as (container, stream):
        if stream is None:
            raise ClipError(path, "has no video stream")
        require_codec(path, stream)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 1
        converter = PictureConverter()
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
        by_number = not has_presentation_times(container)
        frames = _frames_by_number if by_number else _frames_by_time
        shown = (
            (time_s, Picture(frame, converter, pixel_aspect))
            for time_s, frame in frames(path, container, stream)
        )
        yield from _in_bursts(_of_one_size(shown))


def _frames_by_time(
    path: Path, container: av.container.InputContainer, stream: Any
) -> Iterator[tuple[float, av.VideoFrame]]:
    damaged = False
    for _, frames in decode_packets(path, container, stream):
        for frame in frames or ():
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if damaged:
                continue
            if frame.time is None:
                raise ClipError(path, "a frame has no time stamp; remux the file")
            yield frame.time, frame


def _frames_by_number(
    path: Path, container: av.container.InputContainer, stream: Any
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Where packets do not say when their frame is shown, the n-th frame is shown at the n-th time.

    The decoder's frames come in the order in which they are shown, but late, and not all in equal numbers:
    a packet may say only that the last frame stays (MPEG-4). Then the delay tells the frame's number.
    """
    damaged = False
    times_s: list[float] = []
    next_number, delay = 0, None
    keeps_delay = stream.codec_context.name in ("mpeg4", "msmpeg4", "msmpeg4v2")
    for packet, frames in decode_packets(path, container, stream):
        if packet.size and packet.dts is not None:
            times_s.append(float(packet.dts * packet.time_base))
        if frames is None:  # its frame is lost, and the next one is not shown in its place
            next_number += 1
        for frame in frames or ():
            if delay is None:
                delay = len(times_s) - 1 - next_number
            number = (
                max(next_number, len(times_s) - 1 - delay) if keeps_delay and packet.size else next_number
            )
            next_number = number + 1
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if not damaged and number < len(times_s):
                yield times_s[number], frame


def _of_one_size(pictures: Iterator[tuple[float, Picture]]) -> Iterator[tuple[float, Picture]]:
    """The same pictures, those of another size scaled to that of the first: a call changes it as it likes."""
    size = None
    for time_s, picture in pictures:
        size = size or (picture.width, picture.height)
        yield time_s, picture.of_size(*size)


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
