"""Where faces are in a frame: MediaPipe's full-range detector on the whole frame, on tiles, or around a
place.

The detector sees 192x192 pixels whatever it is given. It finds a face from about 9 of those on, so a face of
5 % of a portrait frame's height is at its limit, and tiles of half and of a quarter of the frame give the
second look.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from preprocess.faces.image_graph import ImageGraph, import_mediapipe
from utils.media.picture import Picture

DETECTOR_SIDE = 384  # what the detector is given: twice its own input, shrunk by area averaging
# What mediapipe.solutions.face_detection.FaceDetection(model_selection=1) builds. It gives out faces from a
# score of 0.6 on; the threshold that the solution takes does not reach the graph.
_GRAPH = """
input_stream: "image"
output_stream: "found"
node {
  calculator: "FaceDetectionFullRangeCpu"
  input_stream: "IMAGE:image"
  output_stream: "DETECTIONS:found"
}
"""


class Face(NamedTuple):
    """A square around a face in pixels of the displayed frame; `size` is about brow to chin."""

    x: float  # centre
    y: float
    size: float
    score: float


class FaceDetector:
    """MediaPipe Face Detection, full-range model. It remembers nothing from one image to the next."""

    def __init__(self) -> None:
        import cv2

        self._resize, self._area = cv2.resize, cv2.INTER_AREA
        self._graph = ImageGraph.shared(_GRAPH, ["found"])
        self._messages = import_mediapipe().packet_getter.get_proto_list

    def _detect(self, image: np.ndarray) -> list[tuple[float, float, float, float, float]]:
        """(centre x, centre y, width, height, score) per face, the first four as a share of the image's."""
        packets = self._graph(image)
        found = []
        for detection in self._messages(packets["found"]) if packets else []:
            box = detection.location_data.relative_bounding_box
            centre = box.xmin + box.width / 2, box.ymin + box.height / 2
            found.append((*centre, box.width, box.height, detection.score[0]))
        return found

    def in_frame(self, picture: Picture) -> list[Face]:
        """Faces in the whole frame, the largest first."""
        found = self._detect(picture.thumbnail(DETECTOR_SIDE))
        return _distinct(
            Face(x * picture.width, y * picture.height, max(w * picture.width, h * picture.height), score)
            for x, y, w, h, score in found
        )

    def in_tiles(self, picture: Picture, parts: int) -> list[Face]:
        """Faces in squares of 1 / `parts` of the longer side that overlap by half, the largest first: finds
        faces `parts` times smaller than `in_frame` does. In a portrait frame, 2 parts are 8 squares and 4 are
        28.
        """
        side = max(16, max(picture.width, picture.height) // parts)
        found: list[Face] = []
        for top in _tile_starts(picture.height, side):
            for left in _tile_starts(picture.width, side):
                found += self._in_square(picture, left, top, side)
        return _distinct(found)

    def around(self, picture: Picture, x: float, y: float, side: float) -> list[Face]:
        """Faces in a square of `side` around (x, y), the largest first."""
        return _distinct(
            self._in_square(picture, round(x - side / 2), round(y - side / 2), max(16, round(side)))
        )

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
            image = self._resize(image, size, interpolation=self._area)
        return [
            Face(left + x * width, top + y * height, max(w * width, h * height), score)
            for x, y, w, h, score in self._detect(image)
        ]


def _tile_starts(length: int, side: int) -> list[int]:
    """Starts of the tiles that cover `length`, half a tile apart, the last one flush with the end."""
    if length <= side:
        return [0]
    return [*range(0, length - side, max(1, side // 2)), length - side]


def _distinct(faces: Iterable[Face]) -> list[Face]:
    """Each face once (the best score of those at one place), the largest first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(max(abs(face.x - k.x), abs(face.y - k.y)) > 0.5 * max(face.size, k.size) for k in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: -face.size)
