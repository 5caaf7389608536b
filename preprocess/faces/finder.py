"""Where faces are: MediaPipe's full-range detector on the whole frame, on tiles, or around a place.

The detector shrinks its input to 192x192 pixels and finds faces of about 9 of these and more. A face of 5 %
of a portrait frame's height is at its limit; tiles of half and of a quarter of the frame show smaller ones.
It misses faces that are larger than the frame, unless they are shown with a border around them.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from preprocess.faces.backends import new_detection
from preprocess.faces.solutions import Image
from utils.media.picture import Picture

DETECTOR_SIDE = 384  # what the detector is given: twice its own input, shrunk by area averaging


class Face(NamedTuple):
    """A square around a face in pixels of the displayed frame; `size` is about brow to chin."""

    x: float  # centre
    y: float
    size: float
    score: float


def is_same(one: Face, other: Face) -> bool:
    """Whether two detections are at one place, as those of one face are."""
    return max(abs(one.x - other.x), abs(one.y - other.y)) <= 0.5 * max(one.size, other.size)


class FaceDetector:
    """MediaPipe Face Detection, full-range model, which keeps no state between images; see backends.py.

    It reports faces with a score of 0.6 or more: the threshold of MediaPipe's solution has no effect.
    """

    def __init__(self, backend: str = "auto") -> None:
        self._detect_boxes = new_detection(backend)

    def _detect(self, image: Image, left: int, top: int, width: int, height: int) -> list[Face]:
        """Faces in an image of this part of a frame; the image itself may be smaller."""
        faces = []
        for box in self._detect_boxes(image):
            x, y = left + (box.left + box.width / 2) * width, top + (box.top + box.height / 2) * height
            faces.append(Face(x, y, max(box.width * width, box.height * height), box.score))
        return faces

    def in_frame(self, picture: Picture) -> list[Face]:
        """Faces in the whole frame, largest first; if there is none, one that is larger than the frame."""
        image, width, height = picture.thumbnail(DETECTOR_SIDE), picture.width, picture.height
        faces = distinct(self._detect(image, 0, 0, width, height))
        if faces:
            return faces
        up, left = image.shape[0] // 2, image.shape[1] // 2
        wide = cv2.copyMakeBorder(image, up, up, left, left, cv2.BORDER_CONSTANT)
        faces = self._detect(np.asarray(wide, np.uint8), -width // 2, -height // 2, 2 * width, 2 * height)
        return distinct([face for face in faces if face.size > 0.5 * min(width, height)])

    def in_tiles(self, picture: Picture, parts: int) -> list[Face]:
        """Faces in squares of 1 / `parts` of the longer side that overlap by half, largest first.

        Finds faces `parts` times smaller than `in_frame` does. A portrait frame has 8 squares for 2 parts, 28
        for 4.
        """
        side = max(16, max(picture.width, picture.height) // parts)
        found: list[Face] = []
        for top in _tile_starts(picture.height, side):
            for left in _tile_starts(picture.width, side):
                found += self._in_square(picture, left, top, side)
        return distinct(found)

    def around(self, picture: Picture, x: float, y: float, side: float) -> list[Face]:
        """Faces in a square of `side` around (x, y), largest first."""
        left, top = round(x - side / 2), round(y - side / 2)
        return distinct(self._in_square(picture, left, top, max(16, round(side))))

    def _in_square(self, picture: Picture, left: int, top: int, side: int) -> list[Face]:
        right, bottom = min(left + side, picture.width), min(top + side, picture.height)
        left, top = max(left, 0), max(top, 0)
        width, height = right - left, bottom - top
        if min(width, height) < 8:
            return []
        image = picture.region(left, top, right, bottom)
        scale = DETECTOR_SIDE / max(width, height)
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return self._detect(image, left, top, width, height)


def _tile_starts(length: int, side: int) -> list[int]:
    """Starts of tiles that cover `length`, half a tile apart; the last tile ends at `length`."""
    if length <= side:
        return [0]
    return [*range(0, length - side, max(1, side // 2)), length - side]


def distinct(faces: list[Face]) -> list[Face]:
    """Each face once (the best score of those at one place), largest first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if not any(is_same(face, other) for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: -face.size)
