"""The backends without mediapipe, for NumPy 2 and Python 3.13: its networks run by LiteRT on one thread.

The networks are those of full-range face detection, and of Face Mesh (mesh) or Face Landmarker (landmarker);
what MediaPipe's graphs do around them is a little arithmetic here. Anchors, margins and thresholds are those
of its graphs (mediapipe/modules/face_detection, mediapipe/modules/face_landmark,
mediapipe/tasks/cc/vision/face_landmarker). Detections are equal to those of the solutions.

Why not through mediapipe's own tasks: per crop and core, its FaceLandmarker takes 9.3 ms (mediapipe 1.2.3)
where Face Landmarker's network takes 6.9 here; its landmarks are 0.3 % of the face's width from these (it
smooths them over time), and both are as far from Face Mesh's (1.0 to 2.1 %, three videos). Its tasks have no
full-range detector, and it wants another build of OpenCV.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from preprocess.faces.attention import AttentionNetwork
from preprocess.faces.model_files import DETECTOR, FACE_MESH, LANDMARKER, read_model
from preprocess.faces.network import LandmarkerNetwork, Network, PointsNetwork, Values
from preprocess.faces.solutions import Box, Image, Landmarks, OncePerThread

MARGIN = 1.5  # side of what the network of points sees, in sides of the square around the landmarks
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners
# of MediaPipe's face_detection_full_range.pbtxt, and of the short-range detector in Face Landmarker
FULL_RANGE_SCORE, SHORT_RANGE_SCORE = 0.6, 0.5
SAME_FACE = 0.3  # intersection over union from which two boxes are one face's


@OncePerThread
def _detection_network(member: str) -> Network:
    """This thread's network: of Face Landmarker's archive, or, with "", the full-range detector."""
    return Network(read_model(LANDMARKER, member) if member else read_model(DETECTOR))


@OncePerThread
def _points_network(backend: str) -> PointsNetwork:
    if backend == "mesh":
        return AttentionNetwork(read_model(FACE_MESH))
    return LandmarkerNetwork(read_model(LANDMARKER, "face_landmarks_detector.tflite"))


class _Detection(NamedTuple):
    """Faces of one image, in shares of its sides."""

    scores: Values  # (N,)
    boxes: Values  # (N, 4) x and y of the top left corner, width, height
    points: Values  # (N, 6, 2) x, y: right eye, left eye, nose, mouth, ears


class _Detector:
    """A BlazeFace detector: single-shot, on a grid of anchors without sizes of their own."""

    def __init__(self, member: str, grids: tuple[tuple[int, int], ...], min_score: float) -> None:
        self._network = _detection_network(member)
        self._logit = math.log(min_score / (1 - min_score))
        centres = []
        for cells, per_cell in grids:
            axis = (np.arange(cells, dtype=np.float32) + 0.5) / cells
            grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
            centres.append(np.repeat(grid, per_cell, axis=0))
        self._anchors = np.concatenate(centres)  # (A, 2)

    def __call__(self, image: Image) -> _Detection:
        side = self._network.side
        height, width = image.shape[:2]
        scale = side / max(height, width)
        size = np.array([width * scale, height * scale], np.float32)
        left, top = (side - size) / 2
        # as MediaPipe does it: bilinear without averaging, a pixel's place is that of its corner
        matrix = np.array([[scale, 0, left], [0, scale, top]])
        shown = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
        values, logits = self._network(np.asarray(shown, np.uint8), 2 / 255, -1)
        logits = logits.reshape(-1)
        found = np.flatnonzero(logits >= self._logit)
        numbers = values[0, found].reshape(len(found), 8, 2) / np.float32(side)
        numbers[:, 0] += self._anchors[found]
        numbers[:, 2:] += self._anchors[found][:, None]
        # from shares of the padded square to shares of the image
        numbers[:, 1] *= side / size
        for part in (numbers[:, 0], numbers[:, 2:]):
            part *= side
            part -= np.array((left, top), np.float32)
            part /= size
        boxes = np.concatenate([numbers[:, 0] - numbers[:, 1] / 2, numbers[:, 1]], axis=1)
        scores = (1 / (1 + np.exp(-logits[found].astype(np.float64)))).astype(np.float32)
        return _Detection(scores, boxes, numbers[:, 2:])


class LiteDetection:
    """Full-range face detection in single images: the counterpart of FastDetection."""

    def __init__(self) -> None:
        self._detector = _Detector("", ((48, 1),), FULL_RANGE_SCORE)

    def __call__(self, image: Image) -> list[Box]:
        """Faces, the best score first; as in MediaPipe, one face's boxes are averaged by their scores."""
        scores, boxes, _ = self._detector(image)
        left = np.argsort(-scores, kind="stable")
        found = []
        while len(left):
            same = _overlap(boxes[left[0]], boxes[left]) > SAME_FACE
            same[0] = True
            weights = scores[left[same]].astype(np.float64)
            x, y, width, height = weights @ boxes[left[same]] / weights.sum()
            found.append(Box(x, y, width, height, float(scores[left[0]])))
            left = left[~same]
        return found


def _overlap(box: Values, boxes: Values) -> Values:
    """Intersection over union of a box with each of (N, 4) boxes."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    union = box[2:].prod() + boxes[:, 2:].prod(axis=1) - common
    return common / np.maximum(union, np.float32(1e-12))


class _Place(NamedTuple):
    """A turned square, in pixels of an image."""

    x: float  # centre
    y: float
    side: float
    angle: float  # radians, clockwise as seen


class LiteMesh:
    """The 478 landmarks of a face that it follows: (H, W, 3 or 4) -> (478, 2), or None without a face."""

    takes_alpha = True  # OpenCV 5 turns four channels in 0.4 of the time that it takes for three

    def __init__(self, backend: str = "mesh") -> None:
        self._detector = _Detector("face_detector.tflite", ((16, 2), (8, 6)), SHORT_RANGE_SCORE)
        self._network = _points_network(backend)
        self._place: _Place | None = None

    def __call__(self, image: Image) -> Landmarks | None:
        place = self._place or self._find(image)
        if place is None:
            return None
        side = self._network.side
        cos, sin = (place.side / side * turn(place.angle) for turn in (math.cos, math.sin))
        half = side / 2  # as in MediaPipe, a pixel's place is that of its corner
        corner = place.x - half * (cos - sin), place.y - half * (sin + cos)
        matrix = np.array([[cos, -sin, corner[0]], [sin, cos, corner[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        shown = cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        points, logit = self._network(np.asarray(shown, np.uint8))
        if logit <= 0:
            self._place = None
            return None
        found = matrix[:, :2] @ points.T + matrix[:, 2:]  # (2, 478)
        (left, top), (right, bottom) = found.min(axis=1).tolist(), found.max(axis=1).tolist()
        across, down = (found[:, LEFT_EYE] - found[:, RIGHT_EYE]).tolist()
        self._place = _Place(
            (left + right) / 2,
            (top + bottom) / 2,
            MARGIN * max(right - left, bottom - top),
            math.atan2(down, across),
        )
        return np.asarray(found.T / image.shape[1::-1], np.float32)

    def forget(self) -> None:
        self._place = None

    def _find(self, image: Image) -> _Place | None:
        scores, boxes, points = self._detector(image)
        if not len(scores):
            return None
        best, size = int(scores.argmax()), np.array(image.shape[1::-1])
        x, y, width, height = boxes[best] * np.tile(size, 2)
        across, down = (points[best, 1] - points[best, 0]) * size
        return _Place(
            float(x + width / 2),
            float(y + height / 2),
            MARGIN * float(max(width, height)),
            math.atan2(down, across),
        )
