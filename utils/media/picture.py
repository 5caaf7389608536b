"""Decoded frames whose pixels are converted to RGB only where they are needed.

Converting a whole 4K frame takes longer than decoding it, and preprocessing needs one face: a region is cut
from the planes first and converted then. The pixels are the same (in frames of an odd size, where the scaler
interpolates, nearly the same).
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from utils.media.colour import ColourMapper, is_wide
from utils.media.planes import Coding, Planes, layout_of, new_frame

if TYPE_CHECKING:
    import av


class PictureConverter:
    """Converts the frames of one video to RGB, on one thread, reusing its scalers."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        # one per use: a scaler is set up again whenever the sizes change
        self._whole, self._region, self._thumbnail, self._small, self._rgb, self._planes = (
            VideoReformatter() for _ in range(6)
        )
        self.to_screen = ColourMapper()
        # the frame that `rgb` converts and views of its planes, replaced when the size changes
        self._face: tuple[av.VideoFrame, Planes] | None = None
        self._orientation: tuple[int, bool] | None = None

    def orientation(self, frame: av.VideoFrame) -> tuple[int, bool]:
        """`orientation`, looked up where it may change: with a key frame."""
        if self._orientation is None or frame.key_frame:
            self._orientation = orientation(frame)
        return self._orientation

    def whole(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of the frame as stored."""
        return np.asarray(self._whole.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)

    def thumbnail(self, frame: av.VideoFrame, width: int, height: int) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB, shrunk by area averaging."""
        wide = is_wide(frame.color_trc, frame.color_primaries)
        small = self._thumbnail.reformat(
            frame,
            width=width,
            height=height,
            format=frame.format.name if wide else "rgb24",
            interpolation="AREA",
            threads=1,
        )
        if wide:
            small = self._small.reformat(self.to_screen(small), format="rgb24", threads=1)
        return np.asarray(small.to_ndarray(), np.uint8)

    def region(self, frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.uint8]:
        """(y1 - y0, x1 - x0, 3) uint8 RGB of a frame whose format has a layout."""
        layout = layout_of(frame.format.name)
        assert layout is not None
        # where chroma has half the resolution: cut at even places, so that it stays aligned
        left, top = x0 - x0 % 2, y0 - y0 % 2
        width, height = x1 - left + (x1 - left) % 2, y1 - top + (y1 - top) % 2
        place = left, top, left + width, top + height
        parts = [layout.part(plane, index, *place) for index, plane in enumerate(frame.planes)]
        if is_wide(frame.color_trc, frame.color_primaries):
            cut = self.to_screen(_frame_of(parts, frame, *_rounded_up(width, height)))
        else:
            cut = _frame_of(parts, frame, width, height)
        image = _view(self._region.reformat(cut, format="rgb24", threads=1))
        return image[y0 - top : y1 - top, x0 - left : x1 - left]

    def planes_on_screen(self, planes: Planes, frame: av.VideoFrame) -> Planes:
        """What an ordinary screen shows of planes that were cut from a frame, with the frame's own values."""
        size = planes.width, planes.height
        shown = self.to_screen(_frame_of(planes, frame, *_rounded_up(*size)))
        return Planes.of_frame(shown).part(0, 0, *size)

    def rgb(self, planes: Planes, *, alpha: bool = False) -> npt.NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB; with `alpha` (h, w, 4), the last of which says nothing."""
        if self._face is None or self._face[1].y.shape != planes.y.shape:
            frame = new_frame(planes.width, planes.height)
            self._face = frame, Planes.of_frame(frame)
        frame, targets = self._face
        for target, plane in zip(targets, planes, strict=True):
            target[:] = plane
        planes.coding.put_on(frame)
        return _view(self._rgb.reformat(frame, format="rgba" if alpha else "rgb24", threads=1))

    def planes(self, image: npt.NDArray[np.uint8]) -> Planes:
        """The planes of (h, w, 3) uint8 RGB."""
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        return Planes.of_frame(self._planes.reformat(frame, format="yuv420p", threads=1))


def _rounded_up(width: int, height: int) -> tuple[int, int]:
    """To one of few sizes, as a mapper of colours wants them."""
    return -(-width // 64) * 64, -(-height // 64) * 64


def _frame_of(
    parts: Iterable[npt.NDArray[Any]], like: av.VideoFrame, width: int, height: int
) -> av.VideoFrame:
    """A frame of this size with planes cut from a frame, their edges repeated, in its format and colours."""
    import av

    layout = layout_of(like.format.name)
    assert layout is not None
    frame = av.VideoFrame(width, height, like.format.name)
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    frame.color_trc, frame.color_primaries = like.color_trc, like.color_primaries
    for index, (part, plane) in enumerate(zip(parts, frame.planes, strict=True)):
        rows, columns = part.shape
        target = layout.part(plane, index, 0, 0, width, height)
        target[:rows, :columns] = part
        target[:rows, columns:] = part[:, -1:]
        target[rows:] = target[rows - 1]
    return frame


def _view(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """A view of an rgb24 or rgba frame, (H, W, 3) or (H, W, 4) uint8."""
    channels = len(frame.format.components)
    return _rows(frame.planes[0])[:, : channels * frame.width].reshape(frame.height, frame.width, channels)


def _rows(plane: Any) -> npt.NDArray[np.uint8]:
    """A view of a plane (PyAV's annotations do not say that it is a buffer), its padding included."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns counter-clockwise, whether left and right are swapped before) of the display matrix."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = struct.unpack("5i", bytes(matrix)[:20])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(-math.atan2(b, a) / (math.pi / 2)) % 4, mirrored


class Picture:
    """One frame as displayed: turned, mirrored, stretched and coloured as the file says."""

    def __init__(
        self,
        frame: av.VideoFrame,
        converter: PictureConverter,
        pixel_aspect: float = 1,
        *,
        is_upright: bool = False,
    ) -> None:
        if not 0.25 <= pixel_aspect <= 4:  # not a plausible header
            pixel_aspect = 1
        self._turns, self._mirrored = (0, False) if is_upright else converter.orientation(frame)
        self.interlaced = bool(frame.interlaced_frame)
        self._is_wide = is_wide(frame.color_trc, frame.color_primaries)
        self._stored_frame, self._on_screen = frame, None if self._is_wide else frame
        self._converter, self._pixel_aspect = converter, pixel_aspect
        self._rgb: npt.NDArray[np.uint8] | None = None
        width, height = frame.width, frame.height
        if pixel_aspect > 1:
            width = round(width * pixel_aspect)
        elif pixel_aspect < 1:
            height = round(height / pixel_aspect)
        self._upright_width, self._upright_height = width, height
        self.width, self.height = (height, width) if self._turns % 2 else (width, height)

    @property
    def _frame(self) -> av.VideoFrame:
        """The frame in colours for ordinary screens, all of it; prefer to ask for a part of it."""
        if self._on_screen is None:
            self._on_screen = self._converter.to_screen(self._stored_frame)
        return self._on_screen

    @classmethod
    def from_rgb(cls, image: npt.NDArray[np.uint8], converter: PictureConverter) -> Picture:
        """A picture of (H, W, 3) uint8 RGB."""
        import av

        picture = cls(av.VideoFrame.from_ndarray(image, format="rgb24"), converter, is_upright=True)
        picture._rgb = image
        return picture

    def for_thread(self, converter: PictureConverter) -> Picture:
        """The same picture for another thread, which has a converter of its own.

        A converter serves one thread, and `cut` takes other pixels of a picture that `rgb` was asked for.
        """
        picture = copy.copy(self)
        picture._converter = converter
        return picture

    def of_size(self, width: int, height: int) -> Picture:
        """The same picture, scaled if it has another size."""
        if (self.width, self.height) == (width, height):
            return self
        import cv2

        image = np.asarray(cv2.resize(self.rgb(), (width, height)), np.uint8)
        return Picture.from_rgb(image, self._converter)

    def decoded(self) -> av.VideoFrame | None:
        """The decoded frame itself if it is yuv420p and displayed as stored, else None."""
        shown_as_stored = self._turns == 0 and not self._mirrored and self._pixel_aspect == 1
        return self._frame if shown_as_stored and self._frame.format.name == "yuv420p" else None

    def planes(self) -> Planes:
        """Views of the planes as stored, of a yuv420p frame."""
        return Planes.of_frame(self._frame)

    def stored_luma(self) -> tuple[npt.NDArray[Any], int] | None:
        """(A view of the luma as stored, (h, w), both even, its bits); None if there is no such plane."""
        frame = self._stored_frame
        layout = layout_of(frame.format.name)
        height, width = frame.height // 2 * 2, frame.width // 2 * 2
        if layout is None or not height * width:
            return None
        return layout.part(frame.planes[0], 0, 0, 0, width, height), layout.bits

    def rgb(self) -> npt.NDArray[np.uint8]:
        """The whole frame, (H, W, 3) uint8."""
        if self._rgb is None:
            image = self._converter.whole(self._frame)
            if self._pixel_aspect != 1:
                import cv2

                size = self._upright_width, self._upright_height
                image = np.asarray(cv2.resize(image, size), np.uint8)
            self._rgb = np.ascontiguousarray(self.upright(image))
        return self._rgb

    def thumbnail(self, max_side: int) -> npt.NDArray[np.uint8]:
        """The whole frame, not larger than `max_side` pixels either way, (h, w, 3) uint8."""
        scale = min(1.0, max_side / max(self.width, self.height))
        size = (
            max(1, round(self._upright_width * scale)),
            max(1, round(self._upright_height * scale)),
        )
        return np.ascontiguousarray(self.upright(self._converter.thumbnail(self._stored_frame, *size)))

    def region(self, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.uint8]:
        """Columns x0 to x1 and rows y0 to y1 (ends excluded, in the frame), (h, w, 3) uint8."""
        frame = self._stored_frame
        cheap = layout_of(frame.format.name) is not None and self._pixel_aspect == 1
        if self._rgb is not None or not cheap:
            return self.rgb()[y0:y1, x0:x1]
        return self.upright(self._converter.region(frame, *self._stored(x0, y0, x1, y1)))

    def cut(self, x0: int, y0: int, x1: int, y1: int, shrink: int = 1) -> Planes:
        """A copy of columns x0 to x1 and rows y0 to y1 (ends excluded; all even, in the frame), shrunk."""
        frame = self._stored_frame
        layout, coding = layout_of(frame.format.name), Coding.of_frame(frame)
        as_it_is = (
            self._rgb is None
            and self._pixel_aspect == 1
            and not ((self._turns or self._mirrored) and (frame.width % 2 or frame.height % 2))
        )
        place = self._stored(x0, y0, x1, y1)
        if as_it_is and self._is_wide and layout is not None and layout.halves_chroma:
            parts = [layout.part(plane, index, *place) for index, plane in enumerate(frame.planes)]
            deep = Planes(*map(self.upright, parts)).shrunk(shrink)
            return self._converter.planes_on_screen(deep, frame)
        if layout is None or coding is None or self._is_wide or not as_it_is:
            converted = self._converter.planes(self.region(x0, y0, x1, y1))
            return converted if shrink == 1 else converted.shrunk(shrink)  # not shared with the frame
        planes = layout.planes(frame, *place)
        return Planes(*map(self.upright, planes), coding=coding).shrunk(shrink)

    def to_rgb(self, planes: Planes, *, alpha: bool = False) -> npt.NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB of planes that were cut from a frame of this video; `alpha`: (h, w, 4)."""
        return self._converter.rgb(planes, alpha=alpha)

    def upright(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of a stored image or plane as it is displayed."""
        if self._mirrored:
            image = image[:, ::-1]
        return np.rot90(image, self._turns) if self._turns else image

    def _stored(self, x0: int, y0: int, x1: int, y1: int) -> tuple[int, int, int, int]:
        """The place of a region of the displayed frame in the stored one."""
        width, height = self.width, self.height
        for _ in range(self._turns):  # one quarter turn clockwise at a time
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            width, height = height, width
        if self._mirrored:
            x0, x1 = width - x1, width - x0
        return x0, y0, x1, y1
