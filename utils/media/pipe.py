"""A video that comes through a pipe, decoded as it comes, by the rules for files.

Decoding may run in a process of its own: what is yielded can be sent to another one. Nothing can be read
twice, so what only the end of a file tells (its length, its index) is not known.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError
from utils.media.allowed import (
    CODECS,
    HEAD_BYTES,
    find_demuxer,
    media_limits,
    open_options,
    report_length,
    require_allowed,
    require_codec,
)
from utils.media.container import clip_errors, decode_packets, import_av, tracks_of
from utils.media.picture import Picture, PictureConverter
from utils.media.planes import Planes, new_frame
from utils.media.sound import mix_to_mono, shares_of

PIPE = Path("pipe")  # its name in errors
PROBED_BYTES = 1 << 18  # before the first frame is shown
MAX_PIPE_FPS = 120  # what announces more names the ticks of its clock, as browsers do
USUAL_FPS = Fraction(25)
MAX_JUMP_S = 60.0  # between the newest frame or sound and the next: more is a broken clock, not a stall
SILENT_HZ = 48_000  # rate of the sound that is not there


class Rates(NamedTuple):
    """Comes first."""

    fps: Fraction
    sample_rate_hz: int


class Heard(NamedTuple):
    """Some sound."""

    time_s: float
    samples: npt.NDArray[np.float32]  # (C, n)


class Shown(NamedTuple):
    """A frame as displayed."""

    time_s: float
    planes: tuple[npt.NDArray[np.uint8], ...]  # of yuv420p, or one of RGB (H, W, 3)
    colour: tuple[int, int] | None  # colour matrix and range of yuv420p
    interlaced: bool

    @classmethod
    def of(cls, time_s: float, picture: Picture) -> Shown:
        """A picture in a form that another process can take, its pixels as decoded where that is possible."""
        frame = picture.decoded()
        if frame is None or frame.width % 2 or frame.height % 2:
            return cls(time_s, (picture.rgb(),), None, picture.interlaced)
        colour = int(frame.colorspace), int(frame.color_range)
        return cls(time_s, tuple(picture.planes()), colour, picture.interlaced)

    def picture(self, converter: PictureConverter) -> Picture:
        """The picture again."""
        if self.colour is None:
            picture = Picture.from_rgb(self.planes[0], converter)
        else:
            height, width = self.planes[0].shape
            frame = new_frame(width, height)
            for target, plane in zip(Planes.of_frame(frame), self.planes, strict=True):
                target[:] = plane
            frame.colorspace, frame.color_range = self.colour
            picture = Picture(frame, converter, is_upright=True)
        picture.interlaced = self.interlaced
        return picture


class _Bytes:
    """What a pipe brings, as PyAV reads it; its end, too, if nothing comes for `stall_s`."""

    def __init__(self, descriptor: int, stall_s: float) -> None:
        self._descriptor, self._stall_s = descriptor, stall_s
        self.is_stalled = False
        self.head = b""
        while len(self.head) < HEAD_BYTES and (more := self._next(HEAD_BYTES - len(self.head))):
            self.head += more
        self._put_back = self.head

    def read(self, size: int) -> bytes:
        if self._put_back:
            taken, self._put_back = self._put_back[:size], self._put_back[size:]
            return taken
        return self._next(size)

    def _next(self, size: int) -> bytes:
        if not self.is_stalled:
            ready, _, _ = select.select([self._descriptor], [], [], self._stall_s or None)
            self.is_stalled = not ready
        return b"" if self.is_stalled else os.read(self._descriptor, size)


def iterate_pipe(pipe: Connection, stall_s: float) -> Iterator[Rates | Shown | Heard]:
    """Yield the rates of the video that comes through a pipe, then its frames and sound in order.

    `stall_s`: how long to wait for the next bytes; 0 = forever. Raises ClipError for what files are refused
    for, and if the pipe stalls: then after all that came before.
    """
    source = _Bytes(pipe.fileno(), stall_s)
    stalled = ClipError(PIPE, f"nothing came for {stall_s:g} s; --stall_s changes how long that may take")
    try:
        if not source.head and not source.is_stalled:
            raise ClipError(PIPE, "it is empty: the program that writes to it has ended, or failed")
        yield from _decoded(source)
    except ClipError as error:
        if source.is_stalled:
            raise stalled from error
        raise
    if source.is_stalled:
        raise stalled


def _decoded(source: Any) -> Iterator[Rates | Shown | Heard]:
    demuxer, av = find_demuxer(PIPE, source.head), import_av(PIPE)
    options = open_options(demuxer, "video")
    codecs = ",".join(name for kind in ("video", "audio") for name in CODECS[kind])
    options["container_options"] |= {"probesize": str(PROBED_BYTES), "codec_whitelist": codecs}
    if demuxer == "mov" and b"mdat" in source.head and b"moov" not in source.head:
        raise ClipError(PIPE, "the index of this mp4 is at its end: send matroska, or -movflags faststart")
    with clip_errors(PIPE), av.open(source, format=demuxer, **options) as container:
        require_allowed(PIPE, container)
        video, audio = (next(iter(tracks_of(container, kind)), None) for kind in ("video", "audio"))
        for track in filter(None, (video, audio)):
            require_codec(PIPE, track)
        if video is None:
            raise ClipError(PIPE, "has no video stream")
        # without an average, the guess may be the rate of fields, of which a frame has two
        known = video.guessed_rate if video.average_rate else video.codec_context.framerate
        fps = Fraction(known or video.guessed_rate or USUAL_FPS)
        rate = SILENT_HZ if audio is None else audio.codec_context.sample_rate
        yield Rates(fps if 1 <= fps <= MAX_PIPE_FPS else USUAL_FPS, rate)
        yield from _in_order(container, video, audio, rate)


def _in_order(container: Any, video: Any, audio: Any, rate: int) -> Iterator[Shown | Heard]:
    """The frames and the sound of two tracks, as they come."""
    av, limits, converter, sound = import_av(PIPE), media_limits(), PictureConverter(), _Sound(rate)
    aspect, damaged, num_frames = float(video.sample_aspect_ratio or 1), False, 0
    first_s = newest_s = None
    for _, frames in decode_packets(PIPE, container, [track for track in (video, audio) if track]):
        for frame in frames or ():
            is_video = isinstance(frame, av.VideoFrame)
            if is_video:
                damaged = frame.is_corrupt or (damaged and not frame.key_frame)
                if damaged:
                    continue
            if frame.time is None:
                raise ClipError(PIPE, "a frame has no time stamp: send matroska")
            first_s = frame.time if first_s is None else first_s
            newest_s = frame.time if newest_s is None else newest_s
            if abs(frame.time - newest_s) > MAX_JUMP_S:
                raise ClipError(PIPE, f"its clock jumps from {newest_s:.0f} s to {frame.time:.0f} s")
            newest_s = max(newest_s, frame.time)
            limits.require_duration(PIPE, newest_s - first_s)
            if not is_video:
                yield from (Heard(frame.time, samples) for samples in sound.of(frame))
                continue
            num_frames += 1
            limits.require_frames(PIPE, num_frames)
            limits.require_pixels(PIPE, frame.width, frame.height)
            report_length(num_frames, frame.width * frame.height, newest_s - first_s)
            yield Shown.of(frame.time, Picture(frame, converter, aspect))
    if not num_frames:
        raise ClipError(PIPE, "it ended before its first frame")


class _Sound:
    """Decoded sound as floats at one rate, whatever its format changes to; surround is mixed as in files."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._format: tuple[Any, ...] = ()
        self._resampler: Any = None

    def of(self, frame: Any) -> Iterator[npt.NDArray[np.float32]]:
        """Yield samples (C, n) of a decoded frame."""
        import av

        form = frame.format.name, frame.layout.name, frame.sample_rate
        if form != self._format:
            self._format, self._resampler = form, av.AudioResampler(format="fltp", rate=self._rate)
        shares = shares_of([channel.name for channel in frame.layout.channels])
        for piece in self._resampler.resample(frame):
            channels = np.asarray(piece.to_ndarray(), np.float32)
            yield channels if shares is None else mix_to_mono(channels, shares)[None]
