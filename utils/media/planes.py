"""Pictures as codecs hold them, yuv420p: a plane of luma and two planes of chroma at half its resolution.

A picture that stays in this form between decoder and encoder takes half the memory and two conversions less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import av


_UINT8 = np.dtype(np.uint8)


class Planes(NamedTuple):
    """Luma (h, w) and chroma (h / 2, w / 2) twice, uint8; h and w are even. BT.601, 16 to 235."""

    y: npt.NDArray[np.uint8]
    u: npt.NDArray[np.uint8]
    v: npt.NDArray[np.uint8]

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
        return Planes(self.y[y0:y1, x0:x1], self.u[half], self.v[half])

    def shrunk(self, factor: int) -> Planes:
        """A copy with the means of factor x factor pixels. Incomplete blocks at the far edges are left out,
        unless there is no other.
        """
        import cv2

        if factor == 1:
            return Planes(self.y.copy(), self.u.copy(), self.v.copy())
        columns, rows = (max(1, length // (2 * factor)) for length in (self.width, self.height))
        sizes = (2 * columns, 2 * rows), (columns, rows), (columns, rows)
        return Planes(
            *(
                np.asarray(
                    cv2.resize(plane[: h * factor, : w * factor], (w, h), interpolation=cv2.INTER_AREA),
                    np.uint8,
                )
                for plane, (w, h) in zip(self, sizes, strict=True)
            )
        )

    def draw_square(self, x: float, y: float, side: float, target: Planes) -> None:
        """Fill `target`, a square, with the square of `side` pixels whose top left corner is (x, y).

        Outside of the picture, the pixels at its edge are repeated.
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


def new_frame(width: int, height: int) -> av.VideoFrame:
    """An uninitialised yuv420p frame."""
    import av

    return av.VideoFrame(width, height, "yuv420p")
