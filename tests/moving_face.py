"""Videos of a real face (NASA's public-domain portrait of E. Collins, from scikit-image) on a known path."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

FACE_X, FACE_Y, FACE_HEIGHT = (
    224.3,
    125.9,
    111.0,
)  # in the portrait: centre and hairline to chin, by Face Mesh
RATE_HZ = 48_000


def portrait(face_height: float = FACE_HEIGHT) -> tuple[np.ndarray, float, float]:
    """(image, x, y): head and shoulders, scaled to a face of that height, and where its centre is."""
    scale = face_height / FACE_HEIGHT
    image = data.astronaut()[:300, 60:400]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation), *(
        scale * np.array([FACE_X - 60, FACE_Y])
    )


def moving_face(
    num_frames: int,
    *,
    size: tuple[int, int] = (480, 360),
    face_height: float = 100.0,
    path: Callable[[int], tuple[int, int] | None] = lambda i: (240, 160),
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) with the face's centre at `path(i)`; None hides the face."""
    width, height = size
    face, face_x, face_y = portrait(face_height)
    rows, columns = np.mgrid[:height, :width]
    background = np.stack(
        [60 + 40 * np.sin(columns / 90), 90 + rows * 40 / height, 100 + columns * 0], axis=2
    )
    for index in range(num_frames):
        frame, place = background.astype(np.uint8), path(index)
        if place is not None:
            left, top = round(place[0] - face_x), round(place[1] - face_y)
            x0, y0 = max(0, left), max(0, top)
            x1, y1 = min(width, left + face.shape[1]), min(height, top + face.shape[0])
            if x1 > x0 and y1 > y0:
                frame[y0:y1, x0:x1] = face[y0 - top : y1 - top, x0 - left : x1 - left]
        yield frame


def clicks(duration_s: float, at_s: Iterable[float] = (), rate_hz: int = RATE_HZ) -> np.ndarray:
    """Quiet noise with a click of one millisecond at each of the times, (N,) float32."""
    waveform = np.random.default_rng(0).normal(0, 0.003, round(duration_s * rate_hz)).astype(np.float32)
    for time_s in at_s:
        start = round(time_s * rate_hz)
        waveform[start : start + rate_hz // 1000] = 0.8
    return waveform


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: int | Fraction = 25,
    times_ms: list[int] | None = None,
    waveform: np.ndarray | None = None,
    sound_starts_s: float = 0.0,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    crf: int = 18,
    preset: str = "ultrafast",
    colorspace: int = 2,
    sample_aspect: Fraction | None = None,
) -> Path:
    """A raw video as a camera might have made it; `times_ms` makes its frame rate vary.

    `colorspace` says how its colours are to be read: 2 is unspecified, 1 is BT.709.
    `sample_aspect` is the width of a pixel by its height.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"crf": str(crf), "preset": preset})
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        time_base = Fraction(1, 1000) if times_ms else 1 / Fraction(fps)
        stream.codec_context.time_base, stream.codec_context.colorspace = time_base, colorspace
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        sound = None
        if waveform is not None:
            sound = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for index, image in enumerate(frames):
            if index == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = times_ms[index] if times_ms else index, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_sound(container, sound, waveform, round(sound_starts_s * RATE_HZ))
    return path


def _write_sound(container, stream, waveform: np.ndarray, first_sample: int) -> None:
    for start in range(0, len(waveform), 1024):
        piece = np.ascontiguousarray(waveform[None, start : start + 1024], np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, first_sample + start, Fraction(1, RATE_HZ)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def turn_by_metadata(path: Path, degrees: int) -> None:
    """Write a display matrix into an mp4: players turn its picture by `degrees` with the clock."""
    set_display_matrix(path, *{90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees])


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a display matrix into an mp4, of a turn or a flip."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")  # of the first track, the picture
    matrix = header + 8 + (20 if content[header + 4] == 0 else 32) + 16
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(
        ">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    )
    path.write_bytes(content)
