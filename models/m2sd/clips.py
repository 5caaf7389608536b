"""How M2SD (TCSVT 2024) turns a tracked face into clips, and clip scores into frame scores.

Taken from its released inference code: what is cropped, and which 16 frames form a clip. It serves comparison
with M2SD's numbers. Which faces it follows is in preprocess/faces/m2sd_rules.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CLIP_FRAMES = 16


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
