"""Which places of a picture show eyes, nose, mouth or hair, from the points of Face Mesh.

Cai et al., "MARLIN: Masked Autoencoder for facial video Representation LearnINg", CVPR 2023, arXiv
2211.06627, mask these parts first. The published code (ControlNet/MARLIN) finds them with a face parser,
which also knows hair; the mesh ends at the hairline, so hair is here what lies above it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.clip.face_regions import (
    FACE_OVAL,
    LEFT_EYE,
    LOWER_OUTER_LIP,
    NOSE,
    RIGHT_EYE,
    UPPER_OUTER_LIP,
)

PARTS = (LEFT_EYE, RIGHT_EYE, NOSE, UPPER_OUTER_LIP + LOWER_OUTER_LIP)
HAIRLINE = FACE_OVAL[-5:] + FACE_OVAL[:6]  # of the picture's left to its right
TOP, CHIN = 10, 152
HAIR_HEIGHT = 0.3  # of the face's, from hairline to chin
STEPS = 16  # of a line: closer than a place, of up to 24 in a row


def places_of_parts(points: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, rows x columns) bool: the places of a picture that a part of the face touches.

    points: (B, 478, 2) of Face Mesh, x and y in units of the picture's sides; NaN touches no place. grid:
    (slots, rows, columns) of tubelets, or (rows, columns). A part is the hull of its points.
    """
    rows, columns = grid[-2:]
    hairline = points[:, list(HAIRLINE)]
    up = HAIR_HEIGHT * (points[:, TOP] - points[:, CHIN])[:, None]
    line = _lines(hairline[:, :-1], hairline[:, 1:])
    shown = torch.cat([*(_hull(points[:, list(part)]) for part in PARTS), _lines(line, line + up)], dim=1)
    x, y = (shown * shown.new_tensor([columns, rows])).floor().unbind(-1)
    is_inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)  # False of NaN
    numbers = torch.where(is_inside, y * columns + x, rows * columns).long()
    found = torch.zeros(len(points), rows * columns + 1, dtype=torch.bool, device=points.device)
    return found.scatter_(1, numbers, True)[:, :-1]


def _hull(points: Tensor) -> Tensor:
    """(B, m, 2) places all over the hull of (B, n, 2) points: on the lines between every two."""
    first, second = torch.triu_indices(points.shape[1], points.shape[1], 1, device=points.device)
    return _lines(points[:, first], points[:, second])


def _lines(start: Tensor, end: Tensor) -> Tensor:
    """(B, n x STEPS, 2) places on the lines from `start` (B, n, 2) to `end`, ends included."""
    shares = torch.linspace(0, 1, STEPS, device=start.device, dtype=start.dtype)[:, None]
    return (start[:, :, None] + shares * (end - start)[:, :, None]).flatten(1, 2)
