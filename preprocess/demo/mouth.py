"""Open and close a mouth in an upright picture: where skin and lips go, and what is seen between them.

The jaw swings down by `JAW_SHARE` of the gap and the upper lip rises by the rest; both movements fade towards
chin, nose and cheeks. The picture is split along the mouth line, and the gap shows `MouthInterior`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.demo.geometry import (
    CHIN,
    NOSE_BASE,
    Box,
    Floats,
    Floats32,
    line_rows,
    node_grid,
    read_at,
    smoothstep,
)
from utils.clip.face_regions import FACE_OVAL, LOWER_INNER_LIP, UPPER_INNER_LIP

JAW_SHARE = 0.82


@dataclass(frozen=True)
class MouthInterior:
    """Colours between the lips, RGB 0..255, and how sharply the teeth show (1 = crisp rows, 0 = a smear)."""

    cavity: tuple[float, float, float] = (52.0, 18.0, 18.0)
    teeth: tuple[float, float, float] = (208.0, 200.0, 188.0)
    tongue: tuple[float, float, float] = (150.0, 70.0, 72.0)
    sharpness: float = 1.0


@dataclass(frozen=True)
class MouthField:
    """How far each pixel of a box (h, w) moves, in pixels, when the lips part by one pixel."""

    upper_line: Floats32  # (w,) row of the upper inner lip per column, in the picture as it is
    lower_line: Floats32  # (w,)
    profile: Floats32  # (w,) share of the gap per column: 1 in the middle, 0 from the corners on
    lower: Floats32  # (h, w) downward movement below the mouth line
    upper: Floats32  # (h, w) upward movement above it
    centre_x: float
    half_width: float

    def warp(self, change: float, gap: float) -> tuple[Floats32, Floats32, Floats32, Floats]:
        """Part the lips by `change` more pixels, so that their gap becomes `gap` at the middle.

        Returns the map (h, w, 2) of the pixels to read; the share of mouth interior there (h, w); the depth
        below the upper lip in pixels (h, w); and the new gap per column (w,).
        """
        columns, rows = np.moveaxis(node_grid(*self.lower.shape[::-1]).astype(np.float32), -1, 0)
        new_upper = self.upper_line - (1 - JAW_SHARE) * change * self.profile
        new_lower = np.maximum(self.lower_line + JAW_SHARE * change * self.profile, new_upper)
        below = rows - change * self.lower
        above = rows + change * self.upper
        # the fields are defined where the pixel comes from, so its place is found by iteration
        for _ in range(3):
            below = rows - change * read_at(self.lower, _stack(columns, np.maximum(below, self.lower_line)))
            above = rows + change * read_at(self.upper, _stack(columns, np.minimum(above, self.upper_line)))
        middle = (new_upper + new_lower) / 2
        # half a pixel into the lips, so that the old mouth interior is not dragged along the edges
        outside = self.profile <= 0
        below = np.where(outside, below, np.maximum(below, self.lower_line + 0.5))
        above = np.where(outside, above, np.minimum(above, self.upper_line - 0.5))
        source = np.where(rows >= middle, below, above)
        new_gap = new_lower - new_upper
        softness = np.clip(gap * 0.12, 0.8, 2.0)
        interior = np.clip((rows - new_upper) / softness, 0, 1) * np.clip((new_lower - rows) / softness, 0, 1)
        interior = np.where(outside | (new_gap < 0.7), 0, interior).astype(np.float32)
        return _stack(columns, source), interior, (rows - new_upper).astype(np.float32), new_gap

    def displace(self, points: Floats, change: float) -> Floats:
        """How far `warp(change)` moves the landmarks `points` (478, 2) down, in pixels: (478,)."""
        columns = points[:, 0].astype(np.float32)
        places = np.stack([columns, points[:, 1].astype(np.float32)], -1)[None]
        line = np.interp(columns, np.arange(len(self.upper_line)), (self.upper_line + self.lower_line) / 2)
        is_lower = points[:, 1] > line
        is_lower[list(LOWER_INNER_LIP)] = True
        is_lower[list(UPPER_INNER_LIP)] = False
        return change * np.where(is_lower, read_at(self.lower, places)[0], -read_at(self.upper, places)[0])


def _stack(columns: Floats32, rows: Floats) -> Floats32:
    return np.stack([columns, rows.astype(np.float32)], -1)


def mouth_field(landmarks: Floats, box: Box) -> MouthField:
    """The field of an upright face with `landmarks` (478, 2+) inside `box`."""
    x, y, width, height = box
    points = landmarks[:, :2] - [x, y]
    columns = np.arange(width, dtype=np.float64)
    rows = np.arange(height, dtype=np.float64)[:, None]
    upper_line = line_rows(points, UPPER_INNER_LIP, columns)
    lower_line = np.maximum(line_rows(points, LOWER_INNER_LIP, columns), upper_line)
    left, right = points[UPPER_INNER_LIP[0]], points[UPPER_INNER_LIP[-1]]
    centre_x, half_width = (left[0] + right[0]) / 2, max(abs(right[0] - left[0]) / 2, 2.0)
    profile = np.clip(1 - ((columns - centre_x) / half_width) ** 2, 0, None) ** 0.75
    chin, nose = points[CHIN, 1], points[NOSE_BASE, 1]
    jaw = points[list(FACE_OVAL), 0]
    jaw_width = (jaw.max() - jaw.min()) / 2
    reach = max(chin - lower_line.mean(), 4.0)
    wide = np.exp(-0.5 * ((columns - centre_x) / (0.75 * jaw_width)) ** 2)
    deep = smoothstep(rows - lower_line, 0, 0.55 * reach)
    lower = (profile * (1 - deep) + 0.75 * wide * deep) * (1 - smoothstep(rows, chin, chin + 1.6 * reach))
    rise = max(upper_line.mean() - nose, 3.0)
    upper = profile * (1 - smoothstep(upper_line - rows, 0, 0.9 * rise))
    fields = (upper_line, lower_line, profile, JAW_SHARE * lower, (1 - JAW_SHARE) * upper)
    upper_line, lower_line, profile, lower, upper = (field.astype(np.float32) for field in fields)
    return MouthField(upper_line, lower_line, profile, lower, upper, float(centre_x), float(half_width))


def paint_interior(
    field: MouthField, depth: Floats, gap: Floats, interior: MouthInterior, *, face_height: float
) -> Floats32:
    """Colours (h, w, 3) of the open mouth: upper teeth, dark cavity, tongue, lower teeth's rim.

    depth (h, w) and gap (w,) come from `MouthField.warp`. Sizes follow `face_height` in pixels.
    """
    columns = np.arange(depth.shape[1], dtype=np.float32)
    offset = (columns - field.centre_x) / field.half_width
    tooth = 0.055 * face_height  # a row of teeth, upper lip to their edge
    edge = max(0.25, 1.2 * (1 - interior.sharpness) + 0.25) * 0.02 * face_height
    upper_teeth = 1 - smoothstep(depth, tooth * 0.8 - edge, tooth * 0.8 + edge)
    rim = 1 - smoothstep(gap - depth, tooth * 0.22 - edge, tooth * 0.22 + edge)
    tongue = smoothstep(depth / np.maximum(gap, 1), 0.5, 1.0) * (1 - offset**2).clip(0)
    gaps = 1 - 0.4 * interior.sharpness * np.exp(-((np.sin(offset * 9.0) / 0.3) ** 2))
    shade = (1 - 0.55 * offset**2).clip(0.15)
    mouth, teeth, tip = (
        np.array(colour, np.float32) for colour in (interior.cavity, interior.teeth, interior.tongue)
    )
    cavity = mouth + (tip - mouth) * tongue[..., None] * 0.7
    teeth = teeth * gaps[:, None] * shade[:, None] * 0.9
    colours = cavity + (teeth - cavity) * np.maximum(upper_teeth, 0.5 * rim)[..., None]
    if interior.sharpness < 1:
        sigma = 0.3 + (1 - interior.sharpness) * 0.018 * face_height
        colours = cv2.GaussianBlur(colours, (0, 0), sigma).astype(np.float32, copy=False)
    return colours
