"""Decoding and encoding of video, with PyAV, which carries a current FFmpeg in its wheel.

Frames are (H, W, 3) uint8 RGB. Sound: sound.py. Single frames of prepared crops: crop_video.py.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.clip.packed import file_or_member
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

BURST_PIXELS = 1 << 25  # decoded in advance at most, 50 MB as yuv420p
_AVX_512F = 13  # OpenCV's number for it; its Python package has no name
MIN_FPS, MAX_FPS = Fraction(1, 1000), 1000


def _import_av(path: Path) -> Any:
    if importlib.util.find_spec("av") is None:
        raise UsageError(f"reading {path} needs the package av; install it with: pip install av")
    import av

    return av


@contextlib.contextmanager
def open_container(path: Path, kind: str) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """The container and its first stream of `kind` ("video" or "audio"; None if it has none); FFmpeg's errors
    as ClipError. What utils/media/allowed.py does not allow is refused before anything is decoded.
    """
    av = _import_av(path)
    source = file_or_member(path)
    if source is path:
        head = read_head(path)
        source = local_file(path)
    else:
        head = source.read(HEAD_BYTES)
        source.seek(0)
    demuxer = find_demuxer(path, head)
    try:
        with av.open(source, format=demuxer, **open_options(demuxer, kind)) as container:
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
    """The first bytes of a file. Raises ClipError if there is none, or nothing in it."""
    if not path.is_file():
        raise ClipError(path, "no such file")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise ClipError(path, "the file is empty (0 bytes)")
    return head


def local_file(path: Path) -> str:
    """A path as FFmpeg takes it for nothing else: a name may look like a protocol (concat:a|b.mp4)."""
    return f"file:{path}"


@dataclass(frozen=True, kw_only=True)
class VideoTimes:
    """When the frames of a video are shown, read from the container without decoding.

    `starts_s` are the presentation times in rising order. `fps` is the average rate; `constant` says whether
    every frame lies within half a frame of its place at that rate. `codecs` names those of the first picture
    and sound track, e.g. "h264/aac"; "h264/" has no sound.
    """

    starts_s: np.ndarray  # (T,) float64, seconds, the first video frame's own time included
    fps: Fraction
    constant: bool
    codecs: str = ""


def read_video_times(path: Path) -> VideoTimes:
    """Read the presentation times of all frames (packets only, no decoding).

    Raises ClipError if there is no video stream, no frame, or fewer frames than the container's header
    announces (a file that was cut off).
    """
    with open_container(path, "video") as (container, stream):
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


def _frame_rate(starts_s: np.ndarray, nominal: Fraction | None) -> tuple[Fraction, bool]:
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
    """When the first frame of a video is shown, by its container; 0 for a file without pictures."""
    with open_container(path, "video") as (_, stream):
        if stream is None or stream.start_time is None:
            return 0.0
        return float(stream.start_time * stream.time_base)


def iterate_pictures(path: Path) -> Iterator[tuple[float, Picture]]:
    """Decode a video once, from its first frame to its last: (presentation time in s, frame as displayed).

    One frame is held at a time; its pixels are converted where they are asked for. Raises ClipError where
    decoding fails.
    """
    with open_container(path, "video") as (container, stream):
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
    """The same pictures, decoded a few at a time: a decoder that takes turns with other heavy code finds its
    own code and tables thrown out of the caches at each frame.
    """
    first = next(pictures, None)
    if first is None:
        return
    yield first
    _, picture = first
    burst = max(1, min(8, BURST_PIXELS // (picture.width * picture.height)))
    while waiting := list(itertools.islice(pictures, burst)):
        yield from waiting


def iterate_frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """As `iterate_pictures`, with every frame whole: (presentation time in s, (H, W, 3) uint8 RGB)."""
    for time_s, picture in iterate_pictures(path):
        yield time_s, picture.rgb()


@functools.cache
def _instructions_for_x264() -> str:
    """x264's fastest on this CPU. Its own choice, AVX-512 wherever there is any, takes a quarter longer for
    crops (measured on Sapphire Rapids) and gives the same bytes.
    """
    import cv2

    return ":asm=avx2" if cv2.checkHardwareSupport(_AVX_512F) else ""


class VideoWriter:
    """Write H.264 mp4 at an exact constant rate, always with the same encoder settings; use as a context
    manager. `container` "avi" gives MPEG-4 (XVID) with MP3 sound instead.

    One thread, no B-frames and no macroblock tree: the same frames give the same bytes (with them, x264 reads
    memory that nobody has written: MALLOC_PERTURB_ changes its output), and a window can be sought exactly. A
    key frame every `keyframe_interval` frames bounds what
    a reader decodes in vain. Frames of an odd size, which cannot have half the resolution in colour, keep all
    of it. With `waveform` (N,) the mp4
    also carries AAC sound.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: Fraction,
        width: int,
        height: int,
        crf: int = 18,
        keyframe_interval: int = 12,
        preset: str = "veryfast",
        container: str = "mp4",
    ) -> None:
        av = _import_av(path)
        self._frame_type = av.VideoFrame
        self._container = av.open(local_file(path), "w", format=container)
        picture, self._audio_codec = {"mp4": ("libx264", "aac"), "avi": ("mpeg4", "libmp3lame")}[container]
        self._stream = self._container.add_stream(picture, rate=fps)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        self._stream.codec_context.thread_count = 1
        if container == "mp4":
            self._stream.options = {"crf": str(crf), "preset": preset, "g": str(keyframe_interval), "bf": "0",
                                    "x264-params": f"mbtree=0{_instructions_for_x264()}"}  # fmt: skip
        else:
            self._stream.codec_context.codec_tag = "XVID"
            self._stream.options = {"qscale": "4", "flags": "+qscale", "global_quality": str(4 * 118)}
        self._audio_stream: Any = None
        self._audio_waiting, self._audio_position = np.zeros(0, np.float32), 0
        self._time_base = 1 / Fraction(fps)
        self.num_frames = 0

    def add_audio_stream(self, sample_rate_hz: int, bit_rate: int = 64_000) -> None:
        """Declare a mono sound track; call before the first frame, then `write_audio`."""
        self._audio_stream = self._container.add_stream(self._audio_codec, rate=sample_rate_hz, layout="mono")
        self._audio_stream.bit_rate = bit_rate

    def write(self, image: np.ndarray) -> None:
        """Append one frame, (H, W, 3) uint8 RGB."""
        # not a copy: the frame is turned into the encoder's format before this returns
        self.write_frame(self._frame_type.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24"))

    def write_picture(self, picture: Picture) -> None:
        """Append one decoded frame, without a detour through RGB where its planes fit."""
        frame = picture.decoded()
        if frame is None or self._stream.pix_fmt != "yuv420p":
            self.write(picture.rgb())
            return
        if self.num_frames == 0:
            context = self._stream.codec_context
            context.colorspace, context.color_range = frame.colorspace, frame.color_range
        frame.pict_type = 0  # else the source's key frames would be forced on the copy
        self.write_frame(frame)

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Append one frame of PyAV's; its time is set here."""
        frame.pts = self.num_frames
        frame.time_base = self._time_base
        self.num_frames += 1
        self._container.mux(self._stream.encode(frame))

    def write_audio(self, waveform: np.ndarray) -> None:
        """Append sound, (N,) float32 in [-1, 1]: all at once, or in pieces between the frames."""
        size = self._audio_stream.codec_context.frame_size or 1024
        waiting = np.concatenate([self._audio_waiting, waveform.astype(np.float32, copy=False)])
        whole = len(waiting) // size * size
        for start in range(0, whole, size):
            self._write_samples(waiting[start : start + size])
        self._audio_waiting = waiting[whole:]

    def _write_samples(self, samples: np.ndarray) -> None:
        import av

        rate = self._audio_stream.codec_context.sample_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, self._audio_position
        frame.time_base = Fraction(1, rate)
        self._audio_position += len(samples)
        self._container.mux(self._audio_stream.encode(frame))

    def close(self) -> None:
        if len(self._audio_waiting):
            self._write_samples(self._audio_waiting)
        for stream in filter(None, (self._stream, self._audio_stream)):
            self._container.mux(stream.encode(None))
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            self._container.close()
