"""Video and sound encoded with PyAV, always with the same settings: same input, same bytes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from utils.media.container import import_av, local_file
from utils.media.picture import Picture

if TYPE_CHECKING:
    import av

CRF, KEYFRAME_INTERVAL = 18, 12
_AVX_512F = 13  # OpenCV's number for it; its Python package has no name


@functools.cache
def _instructions_for_x264() -> str:
    """x264's fastest instruction set on this CPU: it prefers AVX-512, which takes a quarter longer for crops
    (measured on Sapphire Rapids) and gives the same bytes.
    """
    import cv2

    return ":asm=avx2" if cv2.checkHardwareSupport(_AVX_512F) else ""


def _x264_options(crf: int, keyframe_interval: int, preset: str) -> dict[str, str]:
    return {
        "crf": str(crf),
        "preset": preset,
        "g": str(keyframe_interval),
        "bf": "0",
        "x264-params": f"mbtree=0{_instructions_for_x264()}",
    }


class VideoWriter:
    """Writes H.264 mp4 at an exact constant rate; use as a context manager.

    `container` "avi" gives MPEG-4 (XVID) with MP3 sound instead. One thread, no B-frames and no macroblock
    tree: the same frames give the same bytes (with them, x264 reads uninitialised memory: MALLOC_PERTURB_
    changes its output), and any frame can be sought exactly. A key frame every `keyframe_interval` frames
    limits how many frames a reader decodes for nothing. Frames of an odd size, which cannot be subsampled,
    are stored with full chroma resolution.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: Fraction,
        width: int,
        height: int,
        crf: int = CRF,
        keyframe_interval: int = KEYFRAME_INTERVAL,
        preset: str = "veryfast",
        container: str = "mp4",
    ) -> None:
        av = import_av(path)
        self._frame_type = av.VideoFrame
        self._container = av.open(local_file(path), "w", format=container)
        picture, self._audio_codec = {"mp4": ("libx264", "aac"), "avi": ("mpeg4", "libmp3lame")}[container]
        self._stream = self._container.add_stream(picture, rate=fps)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        self._stream.codec_context.thread_count = 1
        if container == "mp4":
            self._stream.options = _x264_options(crf, keyframe_interval, preset)
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

    def write(self, image: npt.NDArray[np.uint8]) -> None:
        """Append one frame, (H, W, 3) uint8 RGB."""
        # not a copy: the frame is converted to the encoder's format before this returns
        self.write_frame(self._frame_type.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24"))

    def write_picture(self, picture: Picture) -> None:
        """Append one decoded frame; its planes are taken as they are where they fit."""
        frame = picture.decoded()
        if frame is None or self._stream.pix_fmt != "yuv420p":
            self.write(picture.rgb())
            return
        if self.num_frames == 0:
            context = self._stream.codec_context
            context.colorspace, context.color_range = frame.colorspace, frame.color_range
        frame.pict_type = 0  # otherwise the source's key frames would be forced on the copy
        self.write_frame(frame)

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Append one PyAV frame; its time stamp is set here."""
        frame.pts = self.num_frames
        frame.time_base = self._time_base
        self.num_frames += 1
        self._container.mux(self._stream.encode(frame))

    def write_audio(self, waveform: npt.NDArray[np.float32]) -> None:
        """Append sound, (N,) float32 in [-1, 1], at once or in pieces between the frames."""
        size = self._audio_stream.codec_context.frame_size or 1024
        waiting = np.concatenate([self._audio_waiting, waveform.astype(np.float32, copy=False)])
        whole = len(waiting) // size * size
        for start in range(0, whole, size):
            self._write_samples(waiting[start : start + size])
        self._audio_waiting = waiting[whole:]

    def _write_samples(self, samples: npt.NDArray[np.float32]) -> None:
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


class RoundTrip:
    """Frames as a reader of VideoWriter's file would see them, one by one, without a file."""

    def __init__(self, *, fps: Fraction, width: int, height: int, preset: str) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        encoder: Any = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.framerate, encoder.time_base = fps, 1 / fps
        encoder.thread_count = 1
        encoder.options = _x264_options(CRF, KEYFRAME_INTERVAL, preset)
        decoder: Any = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        self._encoder, self._decoder, self._reformatter = encoder, decoder, VideoReformatter()
        self._time_base = 1 / fps
        self.num_frames = 0
        self.decoded: list[npt.NDArray[np.uint8]] = []  # (H, W, 3) RGB; whoever takes them empties it

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Encode and decode one PyAV frame; its time stamp is set here."""
        frame.pts, frame.time_base = self.num_frames, self._time_base
        self.num_frames += 1
        self._take(self._encoder.encode(frame))

    def close(self) -> None:
        """Decode what is still under way."""
        self._take(self._encoder.encode(None))
        self._take([None])

    def _take(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            for frame in self._decoder.decode(packet):
                image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                self.decoded.append(np.asarray(image, np.uint8))
