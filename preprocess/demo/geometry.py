"""Face Mesh landmark groups, and the smooth image warps that make both the faces and the forgeries.

A "map" is (H, W, 2) float32: for each output pixel, x and y of the pixel to read (cv2.remap's convention).
Landmarks are (478, 2) or (478, 3) in pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from utils.clip.face_regions import (
    FACE_OVAL,
    LEFT_BROW,
    LEFT_EYE,
    LEFT_LOWER_LID,
    LEFT_UPPER_LID,
    LIPS,
    LOWER_INNER_LIP,
    NOSE,
    RIGHT_BROW,
    RIGHT_EYE,
    RIGHT_LOWER_LID,
    RIGHT_UPPER_LID,
    UPPER_INNER_LIP,
)

Floats = npt.NDArray[np.floating[Any]]  # of either precision, as NumPy's arithmetic makes it
Floats32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # x, y, width, height
CHEEKS = (50, 280, 205, 425, 101, 330, 187, 411, 118, 347)
FOREHEAD, CHIN, NOSE_BASE = 10, 152, 2
EYES = ((LEFT_UPPER_LID, LEFT_LOWER_LID), (RIGHT_UPPER_LID, RIGHT_LOWER_LID))
LIDS = LEFT_EYE + RIGHT_EYE
# enough points to pin a face down, few enough for a spline per frame
CONTROL_POINTS = tuple(
    dict.fromkeys(FACE_OVAL[::2] + LEFT_BROW[::2] + RIGHT_BROW[::2] + NOSE + CHEEKS + LIPS[::2] + LIDS[::2])
)


def face_height(landmarks: Floats) -> Floats:
    """Forehead to chin in pixels, of one face (L, 2) -> () or of many (T, L, 2) -> (T,)."""
    return np.linalg.norm(landmarks[..., FOREHEAD, :2] - landmarks[..., CHIN, :2], axis=-1)


def lip_opening(landmarks: Floats) -> Floats:
    """Gap between the inner lips as a share of the face height: (T, L, 2) -> (T,), 0 = closed."""
    middle = slice(3, 8)  # the corners never part
    upper = landmarks[..., UPPER_INNER_LIP[middle], :2]
    lower = landmarks[..., LOWER_INNER_LIP[middle], :2]
    return np.linalg.norm(upper - lower, axis=-1).mean(-1) / face_height(landmarks)


def smoothstep(values: npt.NDArray[np.integer[Any] | np.floating[Any]], low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, and a smooth slope in between."""
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def node_grid(columns: int, rows: int, step: int = 1) -> npt.NDArray[np.int64]:
    """x and y of nodes `step` pixels apart: (rows, columns, 2)."""
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1) * step


def turn(angle: float, scale: float) -> Floats:
    """The matrix (2, 2) that turns by `angle` radians and scales."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return scale * np.array([[cosine, -sine], [sine, cosine]])


def upright(landmarks: Floats, height: float, centre: Floats, place: Floats | float) -> tuple[Floats, float]:
    """What brings a face upright: the matrix (2, 3), and the factor by which it scales.

    The face becomes `height` pixels tall, and what is at `centre` moves to `place`.
    """
    axis = landmarks[CHIN, :2] - landmarks[FOREHEAD, :2]
    factor = float(height / np.linalg.norm(axis))
    matrix = turn(np.arctan2(axis[0], axis[1]), factor)
    return np.hstack([matrix, (place - matrix @ centre)[:, None]]), factor


def line_rows(landmarks: Floats, line: tuple[int, ...], columns: npt.NDArray[Any]) -> Floats:
    """The row of the line through some landmarks at each of the `columns` (w,): (w,)."""
    points = landmarks[list(line), :2]
    return np.interp(columns, *points[np.argsort(points[:, 0])].T)


def _spline_kernel(points: Floats, centres: Floats) -> Floats:
    squared = ((points[:, None] - centres[None]) ** 2).sum(-1)  # (P, C)
    return squared * np.log(squared + 1e-6)


def spline_map(target: Floats, source: Floats, box: Box, *, step: int = 6) -> Floats32:
    """The thin-plate-spline map that shows, at the points `target` (C, 2), what lies at `source` (C, 2).

    `box` is the output's place in the frame of `target`; the result is (height, width, 2). The spline is
    evaluated on a grid of `step` pixels and interpolated in between.
    """
    x, y, width, height = box
    scale = 1.0 / max(width, height)
    centre = np.array([x + width / 2, y + height / 2])
    knots = (target - centre) * scale
    count = len(knots)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _spline_kernel(knots, knots) + 1e-4 * np.eye(count)
    system[:count, count] = 1
    system[:count, count + 1 :] = knots
    system[count:, :count] = system[:count, count:].T
    weights = np.linalg.solve(system, np.vstack([source - target, np.zeros((3, 2))]))
    columns, rows = -(-width // step) + 1, -(-height // step) + 1
    places = (node_grid(columns, rows, step).reshape(-1, 2) + [x, y] - centre) * scale
    shift = _spline_kernel(places, knots) @ weights[:count] + weights[count] + places @ weights[count + 1 :]
    shift = shift.reshape(rows, columns, 2).astype(np.float32)
    return identity_map(box) + enlarge(shift, step)[:height, :width]


def identity_map(box: Box) -> Floats32:
    """The map (height, width, 2) that shows a box of a picture unchanged."""
    x, y, width, height = box
    return (node_grid(width, height) + [x, y]).astype(np.float32)


def enlarge(coarse: Floats32, step: int) -> Floats32:
    """Pixels ((R-1) step + 1, ...) interpolated from a grid (R, C, ...) with nodes `step` pixels apart."""
    height, width = ((nodes - 1) * step + 1 for nodes in coarse.shape[:2])
    return read_at(coarse, (node_grid(width, height) / step).astype(np.float32))


def read_at(image: Pixels | Floats, positions: Floats32, *, border: int = cv2.BORDER_REPLICATE) -> Floats32:
    """`image` (H, W[, C]) read at a map (h, w, 2), bilinear; rounded where `image` is uint8."""
    # as two maps: with one map of points, and an empty second one, OpenCV 5.0 reads beyond the latter
    x, y = positions[..., 0], positions[..., 1]
    pixels = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=border)
    return pixels.astype(np.float32, copy=False)


def face_mask(
    landmarks: Floats, size: tuple[int, ...], *, grow: float, feather: float, points: tuple[int, ...]
) -> Floats32:
    """Soft mask (H, W), 1 inside the convex hull of `points`.

    The hull is scaled about its centre by `grow` and blurred by `feather` pixels. `size` is (H, W).
    """
    outline = landmarks[list(points), :2].astype(np.float32)
    centre = outline.mean(0)
    hull = cv2.convexHull(((outline - centre) * grow + centre).astype(np.float32))
    mask = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), (255,))
    soft = cv2.GaussianBlur(mask, (0, 0), max(feather, 0.3))
    return np.asarray(soft.astype(np.float32) / 255, np.float32)


def bounding_box(points: Floats, size: tuple[int, ...], *, margin: float) -> Box:
    """The box around `points` (C, 2), enlarged by `margin` pixels, inside `size` (H, W)."""
    low = np.maximum(np.floor(points.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + margin), [size[1], size[0]]).astype(int)
    return int(low[0]), int(low[1]), int(max(high[0] - low[0], 1)), int(max(high[1] - low[1], 1))
