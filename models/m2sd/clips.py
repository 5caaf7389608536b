"""How M2SD (TCSVT 2024) turns detections of faces into clips, and clip scores into frame scores.

Followed from its released inference code: which stretches of a video are judged, what is cropped, which 16
frames make a clip. Our own judging (preprocess/clip/all_faces.py) follows faces otherwise; this
is for comparison with M2SD's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CLIP_FRAMES = 16
MIN_SCORE, MIN_IOU, MAX_OVERLAP = 0.8, 0.5, 0.5


class Detection(NamedTuple):
    """A face in a frame: box (x1, y1, x2, y2) in pixels, score 0..1."""

    box: tuple[float, float, float, float]
    score: float


class FaceSegment(NamedTuple):
    """A face followed through frames `start` to `end` (excluded): the number of its detection in each."""

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


def follow(frames: Sequence[Sequence[Detection]], face: int) -> tuple[int, ...] | None:
    """The detections that continue detection `face` of the first frame; None if it cannot be followed."""
    if not frames or face >= len(frames[0]) or frames[0][face].score < MIN_SCORE:
        return None
    box = frames[0][face].box
    if any(iou(box, earlier.box) > MAX_OVERLAP for earlier in frames[0][:face]):
        return None
    path = [face]
    for detections in frames[1:]:
        overlaps = [iou(box, detection.box) for detection in detections]
        if not overlaps or max(overlaps) < MIN_IOU:
            return None
        path.append(int(np.argmax(overlaps)))
        box = detections[path[-1]].box
    return tuple(path)


def _tracks(frames: Sequence[Sequence[Detection]]) -> list[tuple[int, ...]]:
    paths = (follow(frames, face) for face in range(len(frames[0]) if frames else 0))
    return [path for path in paths if path is not None]


def find_segments(frames: Sequence[Sequence[Detection]]) -> list[FaceSegment]:
    """The stretches that M2SD judges: every face that is there in all frames, else the first face of each of
    the longest stretches in which the number of faces stays.

    A pair of frames in which nobody can be followed is skipped as a whole, as in the released code.
    """
    count = len(frames)
    if whole := _tracks(frames):
        return [FaceSegment(0, count, path) for path in whole]
    segments, start = [], 0
    while start < count - 1:
        num_tracks, end = len(_tracks(frames[start : start + 2])), start + 2
        while num_tracks and end < count and len(_tracks(frames[start : end + 1])) == num_tracks:
            end += 1
        reached = end if not num_tracks or end == count else end + 1
        if num_tracks and reached - start > 2:
            segments.append(FaceSegment(start, end, _tracks(frames[start:end])[0]))
            start = end
        else:
            start = reached
    return segments


def crop_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """The face's box, twice as large, inside a frame of `width` x `height` pixels."""
    x1, y1, x2, y2 = np.rint(box)
    half = np.array([x2 - x1, y2 - y1]) / 2
    low, high = np.array([x1, y1]) - half, np.array([x2, y2]) + half
    places = np.concatenate([low, high]).clip(0, np.array([width - 1, height - 1] * 2))
    return tuple(np.rint(places).astype(int).tolist())


def clip_indices(num_frames: int) -> np.ndarray:
    """(clips, 16) frame numbers of all clips of a face that is there for `num_frames`: each step of a window,
    with the frames mirrored at both ends where there are fewer than 16.
    """
    if num_frames < 1:
        raise ValueError("a face of no frames has no clips")
    order = np.arange(num_frames)
    if num_frames < CLIP_FRAMES:
        back = order[-2:0:-1]
        margin = CLIP_FRAMES - 1
        before = np.resize(np.concatenate([order, back])[::-1], margin)[::-1]
        after = np.resize(np.concatenate([back, order]), margin)
        order = np.concatenate([before, order, after])
    return np.lib.stride_tricks.sliding_window_view(order, CLIP_FRAMES)


def frame_scores(indices: np.ndarray, scores: np.ndarray, num_frames: int) -> np.ndarray:
    """(num_frames,) mean of the scores of all clips that show a frame, as often as they show it; NaN: none.

    indices: (clips, 16) of `clip_indices`; scores: (clips,).
    """
    sums, counts = np.zeros(num_frames), np.zeros(num_frames)
    np.add.at(sums, indices, np.broadcast_to(scores[:, None], indices.shape))
    np.add.at(counts, indices, 1)
    return np.divide(sums, counts, out=np.full(num_frames, np.nan), where=counts > 0)
