"""Pictures as codecs hold them, yuv420p: a plane of luma and two planes of chroma at half its resolution.

A picture that stays in this form between decoder and encoder takes half the memory and two conversions less.
Its colours stay as the file codes them, too, and become BT.601's when it is drawn, at the size of a crop.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import av

Floats = npt.NDArray[np.float64]

_UINT8 = np.dtype(np.uint8)
_FULL_RANGE = 2  # FFmpeg's number
# FFmpeg's numbers of colour matrices: BT.601 has three, of which "unspecified" is read as it
_BT_709, _BT_601, _ALSO_BT_601 = 1, 5, (2, 6)
_RED_AND_BLUE = {_BT_709: (0.2126, 0.0722), _BT_601: (0.299, 0.114)}  # their shares in luma


class Coding(NamedTuple):
    """How planes code colours: by which matrix, and from 0 to 255 or from 16 to 235 (chroma 240)."""

    matrix: int = _BT_601
    full_range: bool = False

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> Coding | None:
        """None for one of the rare matrices that are not known here."""
        matrix = _BT_601 if frame.colorspace in _ALSO_BT_601 else frame.colorspace
        full_range = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
        return cls(matrix, full_range) if matrix in _RED_AND_BLUE else None

    def put_on(self, frame: av.VideoFrame) -> None:
        """Say it of a frame."""
        frame.colorspace, frame.color_range = self.matrix, _FULL_RANGE if self.full_range else 1

    def levels(self) -> tuple[Floats, Floats]:
        """(3,) each: Y, Cb, Cr of black, and how far each of them reaches."""
        if self.full_range:
            return np.array([0.0, 128, 128]), np.array([255.0, 255, 255])
        return np.array([16.0, 128, 128]), np.array([219.0, 224, 224])

    def of_rgb(self) -> Floats:
        """(3, 3): R'G'B' in [0, 1] -> Y in [0, 1], Cb and Cr in [-1/2, 1/2] (ITU-R BT.601 and BT.709)."""
        red, blue = _RED_AND_BLUE[self.matrix]
        luma = np.array([red, 1 - red - blue, blue])
        only_red, _, only_blue = np.eye(3)
        return np.stack([luma, (only_blue - luma) / (2 - 2 * blue), (only_red - luma) / (2 - 2 * red)])


BT_601 = Coding()


@functools.cache
def _to_bt_601(coding: Coding) -> tuple[list[list[float]], list[float]]:
    """(3, 3) factors and (3,) summands: Y, Cb, Cr as coded -> in BT.601, 16 to 235."""
    (black, reach), (new_black, new_reach) = coding.levels(), BT_601.levels()
    factors = new_reach[:, None] * (BT_601.of_rgb() @ np.linalg.inv(coding.of_rgb())) / reach
    return factors.tolist(), (new_black - factors @ black).tolist()


class Layout(NamedTuple):
    """How a planar format stores its pictures."""

    bits: int  # of a value, which takes two bytes if these are more than 8
    columns: int  # of luma to one of chroma, 1 or 2
    rows: int

    @property
    def halves_chroma(self) -> bool:
        return (self.columns, self.rows) == (2, 2)

    def part(self, plane: Any, index: int, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[Any]:
        """A view of columns x0 to x1 and rows y0 to y1 of the picture, in one plane of a frame."""
        columns, rows = (self.columns, self.rows) if index else (1, 1)
        kind = np.dtype("<u2" if self.bits > 8 else np.uint8)
        values = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
        return values[y0 // rows : y1 // rows, x0 // columns : x1 // columns]

    def planes(self, frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> Planes:
        """The same of all planes of a frame, with 8 bits, and chroma by means at half the resolution.

        Views where the frame has them so.
        """
        import cv2

        made = []
        for index, plane in enumerate(frame.planes):
            values = self.part(plane, index, x0, y0, x1, y1)
            if self.bits > 8:
                values = cv2.convertScaleAbs(values, alpha=2.0 ** (8 - self.bits))
            if index and not self.halves_chroma:
                size = (x1 - x0) // 2, (y1 - y0) // 2
                values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
            made.append(np.asarray(values, np.uint8))
        return Planes(*made)


@functools.cache
def layout_of(format_name: str) -> Layout | None:
    """None for a format whose pictures cannot be cut before they are converted."""
    import av

    if not re.fullmatch(r"yuvj?4[24][0-4]p(1\dle)?", format_name):
        return None
    pixels = av.VideoFormat(format_name)
    return Layout(pixels.components[0].bits, 2 // pixels.chroma_width(2), 2 // pixels.chroma_height(2))


@dataclass(frozen=True, slots=True)
class Planes:
    """Luma (h, w) and chroma (h / 2, w / 2) twice, uint8; h and w are even."""

    y: npt.NDArray[np.uint8]
    u: npt.NDArray[np.uint8]
    v: npt.NDArray[np.uint8]
    coding: Coding = field(default=BT_601, kw_only=True)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return iter((self.y, self.u, self.v))

    @property
    def width(self) -> int:
        return self.y.shape[1]

    @property
    def height(self) -> int:
        return self.y.shape[0]

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> Planes:
        """Views of a yuv420p frame's planes. In frames of an odd size, the last row or column is left out."""
        half = frame.height // 2, frame.width // 2
        sizes = (2 * half[0], 2 * half[1]), half, half
        planes: tuple[Any, ...] = frame.planes  # PyAV's annotations do not say that planes are buffers
        return cls(
            *(
                np.ndarray(size, _UINT8, plane, 0, (plane.line_size, 1))
                for plane, size in zip(planes, sizes, strict=True)
            )
        )

    def part(self, x0: int, y0: int, x1: int, y1: int) -> Planes:
        """A view of columns x0 to x1 and rows y0 to y1 (ends left out; all even)."""
        half = slice(y0 // 2, y1 // 2), slice(x0 // 2, x1 // 2)
        return Planes(self.y[y0:y1, x0:x1], self.u[half], self.v[half], coding=self.coding)

    def shrunk(self, factor: int) -> Planes:
        """A copy with the means of factor x factor pixels. Incomplete blocks at the far edges are left out,
        unless there is no other.
        """
        import cv2

        if factor == 1:
            return Planes(self.y.copy(), self.u.copy(), self.v.copy(), coding=self.coding)
        columns, rows = (max(1, length // (2 * factor)) for length in (self.width, self.height))
        sizes = (2 * columns, 2 * rows), (columns, rows), (columns, rows)
        return Planes(
            *(
                np.asarray(
                    cv2.resize(plane[: h * factor, : w * factor], (w, h), interpolation=cv2.INTER_AREA),
                    plane.dtype,
                )
                for plane, (w, h) in zip(self, sizes, strict=True)
            ),
            coding=self.coding,
        )

    def draw_square(self, x: float, y: float, side: float, target: Planes) -> None:
        """Fill `target`, a square, with the square of `side` pixels whose top left corner is (x, y).

        Outside of the picture, the pixels at its edge are repeated. `target` is in BT.601.
        """
        import cv2

        scale = side / target.width
        # pixel c of the result shows place x + (c + 1/2) * scale, and pixel i is the place i + 1/2
        middle = 0.5 * scale - 0.5
        for plane, drawn, half in zip(self, target, (1, 2, 2), strict=True):
            cv2.warpAffine(
                plane,
                np.array([[scale, 0, x / half + middle], [0, scale, y / half + middle]]),
                drawn.shape[::-1],
                dst=drawn,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        if self.coding != BT_601:
            _recode(target, self.coding)


def _recode(planes: Planes, coding: Coding) -> None:
    """Put BT.601's values in the place of those of another coding."""
    import cv2

    (luma, *chroma), (offset, *offsets) = _to_bt_601(coding)
    # What the colours add to luma, at their resolution; it is between -33 and 33, and 128 stands for 0.
    grey = 128 * (luma[1] + luma[2])
    added = cv2.addWeighted(planes.u, luma[1], planes.v, luma[2], 128 - grey)
    added = cv2.resize(added, planes.y.shape[::-1], interpolation=cv2.INTER_NEAREST)
    cv2.addWeighted(planes.y, luma[0], added, 1, offset + grey - 128, dst=planes.y)
    planes.u[:], planes.v[:] = (
        cv2.addWeighted(planes.u, factors[1], planes.v, factors[2], summand)
        for factors, summand in zip(chroma, offsets, strict=True)
    )


def new_frame(width: int, height: int) -> av.VideoFrame:
    """An uninitialised yuv420p frame."""
    import av

    return av.VideoFrame(width, height, "yuv420p")
