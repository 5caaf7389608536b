"""The landmarker backend: current MediaPipe's face networks, run by LiteRT on one thread.

For environments without mediapipe.solutions (NumPy 2, Python 3.13). The networks are those of Face Landmarker
and of full-range face detection; what MediaPipe's graphs do around them is a little arithmetic here.

Why not through mediapipe's own tasks: per crop and core, its FaceLandmarker takes 9.3 ms (mediapipe 1.2.3)
where this takes 6.9; its landmarks are 0.3 % of the face's width from these (it smooths them over time), and
both are as far from Face Mesh's (1.0 to 2.1 %, three videos). Its tasks have no full-range detector, and it
wants another build of OpenCV. Detections are equal to those of the solutions. Anchors, margins and thresholds
are those of MediaPipe's graphs (mediapipe/modules/face_detection, mediapipe/tasks/cc/vision/face_landmarker).
"""

from __future__ import annotations

import math
import zipfile
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.faces.model_files import DETECTOR, LANDMARKER, find_model
from preprocess.faces.solutions import Box, Image, Landmarks, OncePerThread, quiet_native_code

Values = npt.NDArray[np.float32]

MARGIN = 1.5  # side of what the network of points sees, in sides of the square around the landmarks
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners
# of MediaPipe's face_detection_full_range.pbtxt, and of the short-range detector in Face Landmarker
FULL_RANGE_SCORE, SHORT_RANGE_SCORE = 0.6, 0.5
SAME_FACE = 0.3  # intersection over union from which two boxes are one face's


class Network:
    """A TensorFlow Lite network with one input image of float32, run by XNNPACK on the calling thread."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with quiet_native_code():
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        (image,) = self._interpreter.get_input_details()
        self.side = int(image["shape"][1])
        self._input = image["index"]
        self._outputs = [output["index"] for output in self._interpreter.get_output_details()]

    def __call__(self, image: Image, scale: float, offset: float = 0.0) -> list[Values]:
        """The outputs for a square image (side, side, 3 or 4), each value times `scale` plus `offset`."""
        if image.shape[2] == 4:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.uint8)
        tensor = self._interpreter.tensor(self._input)()[0]
        np.multiply(image, np.float32(scale), out=tensor)
        if offset:
            np.add(tensor, np.float32(offset), out=tensor)
        del tensor  # LiteRT does not run while its memory is referred to
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


@OncePerThread
def _network(member: str) -> Network:
    """This thread's network: of Face Landmarker's archive, or, with "", the full-range detector."""
    if not member:
        return Network(find_model(DETECTOR).read_bytes())
    with zipfile.ZipFile(find_model(LANDMARKER)) as archive:
        return Network(archive.read(member))


class _Detection(NamedTuple):
    """Faces of one image, in shares of its sides."""

    scores: Values  # (N,)
    boxes: Values  # (N, 4) x and y of the top left corner, width, height
    points: Values  # (N, 6, 2) x, y: right eye, left eye, nose, mouth, ears


class _Detector:
    """A BlazeFace detector: single-shot, on a grid of anchors without sizes of their own."""

    def __init__(self, member: str, grids: tuple[tuple[int, int], ...], min_score: float) -> None:
        self._network = _network(member)
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
    """Face Landmarker's 478 points of a face that it follows: (H, W, 3 or 4) -> (478, 2), or None without."""

    takes_alpha = True  # OpenCV 5 turns four channels in 0.4 of the time that it takes for three

    def __init__(self) -> None:
        self._detector = _Detector("face_detector.tflite", ((16, 2), (8, 6)), SHORT_RANGE_SCORE)
        self._network = _network("face_landmarks_detector.tflite")
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
        points, score, *_ = self._network(np.asarray(shown, np.uint8), 1 / 255)
        if score.item() <= 0:
            self._place = None
            return None
        found = matrix[:, :2] @ points.reshape(-1, 3)[:, :2].T + matrix[:, 2:]  # (2, 478)
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
