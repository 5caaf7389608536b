"""Face Mesh landmark groups, and the smooth image warps that both the faces and the forgeries are made of.

A "map" is (H, W, 2) float32: for each output pixel, x and y of the pixel to be read (cv2.remap's convention).
Landmarks are (478, 2) or (478, 3) in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from utils.clip.face_regions import (
    FACE_OVAL,
    LEFT_BROW,
    LEFT_EYE,
    LIPS,
    LOWER_INNER_LIP,
    NOSE,
    RIGHT_BROW,
    RIGHT_EYE,
    UPPER_INNER_LIP,
)

CHEEKS = (50, 280, 205, 425, 101, 330, 187, 411, 118, 347)
FOREHEAD, CHIN, NOSE_BASE = 10, 152, 2
LIDS = LEFT_EYE + RIGHT_EYE
# enough points to pin a face down, few enough for a spline per frame
CONTROL_POINTS = tuple(
    dict.fromkeys(FACE_OVAL[::2] + LEFT_BROW[::2] + RIGHT_BROW[::2] + NOSE + CHEEKS + LIPS[::2] + LIDS[::2])
)


def face_height(landmarks: np.ndarray) -> np.ndarray:
    """Forehead to chin in pixels, of one face (L, 2) -> () or of many (T, L, 2) -> (T,)."""
    return np.linalg.norm(landmarks[..., FOREHEAD, :2] - landmarks[..., CHIN, :2], axis=-1)


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Gap between the inner lips as a share of the face height: (T, L, 2) -> (T,), 0 = closed."""
    middle = slice(3, 8)  # the corners never part
    upper = landmarks[..., UPPER_INNER_LIP[middle], :2]
    lower = landmarks[..., LOWER_INNER_LIP[middle], :2]
    return np.linalg.norm(upper - lower, axis=-1).mean(-1) / face_height(landmarks)


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, with a smooth slope between them."""
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _spline_kernel(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squared = ((points[:, None] - centres[None]) ** 2).sum(-1)  # (P, C)
    return squared * np.log(squared + 1e-6)


def spline_map(
    target: np.ndarray, source: np.ndarray, box: tuple[int, int, int, int], *, step: int = 6
) -> np.ndarray:
    """The thin-plate-spline map that shows, at the points `target` (C, 2), what lies at `source` (C, 2).

    `box` is x, y, width, height of the output in the frame of `target`; the result is (height, width, 2). The
    spline is solved on a grid of `step` pixels and interpolated between.
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
    grid = np.stack(np.meshgrid(np.arange(columns) * step, np.arange(rows) * step), -1).reshape(-1, 2)
    places = (grid + [x, y] - centre) * scale
    shift = _spline_kernel(places, knots) @ weights[:count] + weights[count] + places @ weights[count + 1 :]
    shift = shift.reshape(rows, columns, 2).astype(np.float32)
    return identity_map(box) + enlarge(shift, step)[:height, :width]


def identity_map(box: tuple[int, int, int, int]) -> np.ndarray:
    """The map (height, width, 2) that shows a box x, y, width, height of a picture unchanged."""
    x, y, width, height = box
    columns, rows = np.meshgrid(np.arange(x, x + width), np.arange(y, y + height))
    return np.stack([columns, rows], -1).astype(np.float32)


def enlarge(coarse: np.ndarray, step: int) -> np.ndarray:
    """Interpolate a grid (R, C, ...) whose nodes lie `step` pixels apart: ((R-1) step + 1, ...) pixels."""
    rows, columns = coarse.shape[0], coarse.shape[1]
    sample_x = np.arange((columns - 1) * step + 1, dtype=np.float32) / step
    sample_y = np.arange((rows - 1) * step + 1, dtype=np.float32) / step
    grid_x, grid_y = np.meshgrid(sample_x, sample_y)
    return cv2.remap(coarse, grid_x, grid_y, cv2.INTER_LINEAR)


def read_at(image: np.ndarray, positions: np.ndarray, *, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """`image` (H, W[, C]) read at a map (h, w, 2), bilinear."""
    return cv2.remap(image, positions, None, cv2.INTER_LINEAR, borderMode=border)


def face_mask(
    landmarks: np.ndarray, size: tuple[int, int], *, grow: float, feather: float, points: tuple[int, ...]
) -> np.ndarray:
    """Soft mask (H, W) float32, 1 inside the convex hull of `points`.

    The hull is scaled about its centre by `grow` and blurred by `feather` pixels. `size` is (H, W).
    """
    outline = landmarks[list(points), :2].astype(np.float32)
    centre = outline.mean(0)
    hull = cv2.convexHull(((outline - centre) * grow + centre).astype(np.float32))
    mask = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 255)
    soft = cv2.GaussianBlur(mask, (0, 0), max(feather, 0.3))
    return soft.astype(np.float32) / 255


def bounding_box(points: np.ndarray, size: tuple[int, int], *, margin: float) -> tuple[int, int, int, int]:
    """x, y, width, height of the pixels around `points` (C, 2), `margin` wider, inside `size` (H, W)."""
    low = np.maximum(np.floor(points.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + margin), [size[1], size[0]]).astype(int)
    return int(low[0]), int(low[1]), int(max(high[0] - low[0], 1)), int(max(high[1] - low[1], 1))
