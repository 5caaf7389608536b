"""Places of the parts of a face, against faces that OpenCV has drawn from the same landmarks."""

import math

import cv2
import numpy as np
import pytest
import torch

from models.blocks.face_parts import HAIR_HEIGHT, places_of_parts
from models.blocks.vit import tube_masks
from utils.clip.face_regions import (
    FACE_OVAL,
    LEFT_LOWER_LID,
    LEFT_UPPER_LID,
    LOWER_OUTER_LIP,
    NOSE,
    RIGHT_LOWER_LID,
    RIGHT_UPPER_LID,
    UPPER_OUTER_LIP,
)

RINGS = [  # points, middle and radii, angles of the first and the last one from the right, clockwise
    (LEFT_UPPER_LID, (-0.4, -0.3), (0.2, 0.1), (180, 360)),
    (LEFT_LOWER_LID, (-0.4, -0.3), (0.2, 0.1), (180, 0)),
    (RIGHT_UPPER_LID, (0.45, -0.2), (0.2, 0.1), (180, 360)),  # lower: no face is its own mirror image
    (RIGHT_LOWER_LID, (0.45, -0.2), (0.2, 0.1), (180, 0)),
    (NOSE, (0, 0.05), (0.15, 0.3), (-90, 250)),
    (UPPER_OUTER_LIP, (0, 0.6), (0.3, 0.15), (180, 360)),
    (LOWER_OUTER_LIP, (0, 0.6), (0.3, 0.15), (180, 0)),
    (FACE_OVAL, (0, 0), (0.8, 1.1), (-90, 260)),
]
PARTS = ([0, 1], [2, 3], [4], [5, 6])


def face(scale=0.3, turn=0.0, middle=(0.5, 0.5)):
    """(478, 2) points of an odd face in units of the picture's sides, upright unless turned."""
    points = np.zeros((478, 2))
    for numbers, place, radii, (first, last) in RINGS:
        angles = np.radians(np.linspace(first, last, len(numbers)))
        points[list(numbers)] = place + np.array(radii) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cosine, sine = math.cos(turn), math.sin(turn)
    points = scale * points @ np.array([[cosine, sine], [-sine, cosine]]) + middle
    return torch.from_numpy(points).float()


def drawn(points, side):
    """(side, side) uint8 picture of the parts of a face, 255 on black."""
    picture = np.zeros((side, side), np.uint8)
    hulls = [sum((RINGS[ring][0] for ring in part), ()) for part in PARTS]
    outlines = [cv2.convexHull(points[list(hull)].numpy()) for hull in hulls]
    line = points[[21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251]].numpy()
    up = HAIR_HEIGHT * (points[10] - points[152]).numpy()
    outlines.append(np.concatenate([line, line[::-1] + up]))
    for outline in outlines:
        cv2.fillPoly(picture, [np.rint(outline.reshape(-1, 1, 2) * side).astype(np.int32)], 255)
    return picture


def shares(picture, rows, columns, *, margin=0):
    """(rows x columns) share of each place that is white, with a margin in pixels."""
    picture = cv2.dilate(picture, np.ones((2 * margin + 1,) * 2, np.uint8))
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    parts = picture[: rows * height, : columns * width].reshape(rows, height, columns, width)
    return torch.from_numpy(parts.mean(axis=(1, 3)) / 255).flatten()


@pytest.mark.parametrize("grid", [(14, 14), (8, 24, 24), (2, 4, 4)])
@pytest.mark.parametrize(
    "pose", [{}, {"turn": 0.5, "middle": (0.45, 0.6)}, {"scale": 0.6, "middle": (0.1, 0.9)}]
)
def test_places_are_those_that_a_part_touches(grid, pose):
    points = face(**pose)
    (found,) = places_of_parts(points[None], grid)
    picture = drawn(points, 1008)  # whole places
    assert found[shares(picture, *grid[-2:]) > 0.03].all()
    assert not found[shares(picture, *grid[-2:], margin=2) == 0].any()
    assert found.any()
    assert not found.all()


def test_each_clip_has_its_own_and_an_unknown_face_has_no_places():
    first, second = face(), face(turn=-0.4)
    both = places_of_parts(torch.stack([first, torch.full_like(first, torch.nan), second]), (14, 14))
    assert torch.equal(both[0], places_of_parts(first[None], (14, 14))[0])
    assert torch.equal(both[2], places_of_parts(second[None], (14, 14))[0])
    assert not both[1].any()
    assert not torch.equal(both[0], both[2])
    assert not places_of_parts(face(middle=(5.0, -3.0))[None], (14, 14)).any()  # outside of the picture


def test_parts_are_masked_first_and_all_else_by_the_same_draw():
    grid = (2, 14, 14)
    parts = places_of_parts(face()[None], grid)
    num_parts = int(parts.sum())
    assert 40 < num_parts < 100
    torch.manual_seed(0)
    masks = tube_masks(4, grid, 0.9, first=parts.expand(4, -1)).view(4, 2, -1)
    torch.manual_seed(0)
    plain = tube_masks(4, grid, 0.9).view(4, 2, -1)
    assert torch.equal(masks[:, 0], masks[:, 1])
    assert (masks[:, 0].sum(1) == 176).all()
    assert masks[:, 0][:, parts[0]].all()
    assert not plain[:, 0][:, parts[0]].all()
    assert (plain | masks)[:, 0][:, ~parts[0]].sum() == plain[:, 0][:, ~parts[0]].sum()
    torch.manual_seed(0)
    nobody = tube_masks(4, grid, 0.9, first=torch.zeros(4, 196, dtype=torch.bool))
    assert torch.equal(nobody.view(4, 2, -1), plain)
    few = tube_masks(4, grid, 0.1, first=parts.expand(4, -1)).view(4, 2, -1)[:, 0]
    assert (few.sum(1) == 19).all()
    assert not few[:, ~parts[0]].any()
    assert len(few.unique(dim=0)) == 4
    # one draw for all, as in evaluation: clips differ where their faces do
    one = tube_masks(1, grid, 0.9, first=places_of_parts(torch.stack([face(), face(turn=0.5)]), grid))
    assert one.shape == (2, 392)
    assert not torch.equal(one[0], one[1])
