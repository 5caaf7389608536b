"""Which faces M2SD (TCSVT 2024) follows through a video, given the detections of all frames.

The rules of its released inference code: a face is followed by the overlap of its boxes alone, and counts if
it is there in every frame; only if no face is, stretches without a miss are taken, with one face each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIN_SCORE, MIN_IOU, MAX_OVERLAP = 0.8, 0.5, 0.5  # the score is one of RetinaFace


class Detection(NamedTuple):
    """A face in a frame: box (x1, y1, x2, y2) in pixels, score 0..1."""

    box: tuple[float, float, float, float]
    score: float


class FaceSegment(NamedTuple):
    """A face tracked through frames `start` to `end` (excluded), with its detection's index in each."""

    start: int
    end: int
    faces: tuple[int, ...]


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def _begin(detections: Sequence[Detection], min_score: float) -> list[list[int]]:
    """A path for each face of a frame that is sure enough, and no copy of an earlier one in the list."""
    return [
        [face]
        for face, (box, score) in enumerate(detections)
        if score >= min_score and all(iou(box, other.box) <= MAX_OVERLAP for other in detections[:face])
    ]


def _extend(paths: list[list[int]], before: Sequence[Detection], now: Sequence[Detection]) -> list[list[int]]:
    """Those of the paths, which end in the frame before, whose faces are there now, longer by one."""
    longer = []
    for path in paths:
        overlaps = [iou(before[path[-1]].box, detection.box) for detection in now]
        if overlaps and max(overlaps) >= MIN_IOU:
            path.append(int(np.argmax(overlaps)))
            longer.append(path)
    return longer


def find_segments(frames: Sequence[Sequence[Detection]], min_score: float = MIN_SCORE) -> list[FaceSegment]:
    """The stretches that M2SD judges: every face that is visible in all frames, if there is one.

    Else the first face of each longest stretch with a constant number of faces, but that the video's last
    frame may have another one. A pair of frames in which no face can be followed is skipped whole, as in the
    released code. frames: the detections of each, the best score first. A track begins with `min_score`.
    Takes time in proportion to the number of frames.
    """
    count = len(frames)
    whole = _begin(frames[0], min_score) if frames else []
    for end in range(1, count):
        whole = _extend(whole, frames[end - 1], frames[end])
    if whole:
        return [FaceSegment(0, count, tuple(path)) for path in whole]
    segments, start = [], 0
    while start < count - 1:
        end = start + 2
        paths = before = _extend(_begin(frames[start], min_score), *frames[start:end])
        number = len(paths)
        while paths and len(paths) == number and end < count:
            before, paths = paths, _extend(paths, frames[end - 1], frames[end])
            end += 1
        if number and end - start > 2:
            if end < count or not paths:  # a face came, or was lost, with the last frame
                paths, end = before, end - 1
            segments.append(FaceSegment(start, end, tuple(paths[0][: end - start])))
        start = end
    return segments
