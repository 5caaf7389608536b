"""How M2SD (TCSVT 2024) turns face detections into clips, and clip scores into frame scores.

Taken from its released inference code: which stretches of a video are judged, what is cropped, which 16
frames form a clip. It serves comparison with M2SD's numbers; our own judging tracks faces differently
(preprocess/clip/all_faces.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CLIP_FRAMES = 16
MIN_SCORE, MIN_IOU, MAX_OVERLAP = 0.8, 0.5, 0.5


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


def follow(frames: Sequence[Sequence[Detection]], face: int) -> tuple[int, ...] | None:
    """Indices of the detections that continue `face` of the first frame; None if the face is lost."""
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
    """The stretches that M2SD judges: every face that is visible in all frames, if there is one.

    Else the first face of each longest stretch with a constant number of faces, but that the video's last
    frame may have another one. A pair of frames in which no face can be followed is skipped whole, as in the
    released code.
    """
    count = len(frames)
    if whole := _tracks(frames):
        return [FaceSegment(0, count, path) for path in whole]
    segments, start = [], 0
    while start < count - 1:
        first = found = len(_tracks(frames[start : start + 2]))
        end = start + 2
        while found and found == first and end < count:
            end += 1
            found = len(_tracks(frames[start:end]))
        if first and end - start > 2:
            if end < count or not found:  # a face came, or was lost, with the last frame
                end -= 1
            segments.append(FaceSegment(start, end, _tracks(frames[start:end])[0]))
        start = end
    return segments


def crop_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """A face's box (x1, y1, x2, y2), doubled in size and clipped to a frame of `width` x `height` pixels."""
    x1, y1, x2, y2 = np.rint(box)
    half = np.array([x2 - x1, y2 - y1]) / 2
    low, high = np.array([x1, y1]) - half, np.array([x2, y2]) + half
    places = np.concatenate([low, high]).clip(0, np.array([width - 1, height - 1] * 2))
    return tuple(np.rint(places).astype(int).tolist())


def joint_canvas(
    crops: Sequence[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The crops (h, w, 3) of a clip where their `boxes` (n, 4) have them, and that canvas's place (x, y).

    The result is (n, H, W, 3), as large as all boxes together, and black outside of a frame's own box.
    """
    corner, end = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    width, height = end - corner
    canvas = np.zeros((len(boxes), height, width, 3), np.uint8)
    for frame, crop, (x1, y1, x2, y2) in zip(canvas, crops, boxes - np.tile(corner, 2), strict=True):
        frame[y1:y2, x1:x2] = crop
    return canvas, corner


def clip_indices(num_frames: int) -> npt.NDArray[np.int64]:
    """(clips, 16) frame numbers of the clips of a face that is visible for `num_frames` frames.

    A window slides by one frame; fewer than 16 frames are mirrored at both ends.
    Raises ValueError if `num_frames` is below 1.
    """
    if num_frames < 1:
        raise ValueError("a face of no frames has no clips")
    order = np.arange(num_frames)
    if num_frames < CLIP_FRAMES:
        order = np.pad(order, CLIP_FRAMES - 1, mode="reflect")
    return np.lib.stride_tricks.sliding_window_view(order, CLIP_FRAMES)


def frame_scores(
    indices: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], num_frames: int
) -> npt.NDArray[np.float64]:
    """(num_frames,) mean score of the clips that show each frame; NaN where no clip does.

    indices: (clips, 16) of `clip_indices`; scores: (clips,). A clip counts as often as it shows the frame.
    """
    sums, counts = np.zeros(num_frames), np.zeros(num_frames)
    np.add.at(sums, indices, np.broadcast_to(scores[:, None], indices.shape))
    np.add.at(counts, indices, 1)
    return np.divide(sums, counts, out=np.full(num_frames, np.nan), where=counts > 0)
