"""Faces brought upright by five points: one similarity for all frames of a clip, so the head still moves.

The template is that of M2SD's inference code (TianXie834/M2SD): a mean face in 256 pixels, 30 higher.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TEMPLATE_SIDE = 224
# eye at the picture's left, eye at its right, nose, corners of the mouth at left and right: (x, y) in pixels
_MEAN_FACE = (
    (85.82991, 115.7792),
    (169.0532, 114.3381),
    (127.574, 167.0006),
    (90.6964, 204.7014),
    (167.3069, 203.3733),
)
ROUNDING, PLACES = 1024, 32  # steps of a pixel that OpenCV rounds products and places to
ROUNDS_PLACES = int(cv2.__version__.partition(".")[0]) < 5  # levels differ by up to 6 on noise otherwise
HALF_UP = 0.5 + 2**-12  # exact levels are multiples of 1/1024
_RAISED, _MEAN_FACE_SIDE = 30, 256
# Face Mesh's points whose mean is each of these; its "right" eye is the subject's
FACE_MESH = ((33, 133), (362, 263), (1,), (61,), (291,))


def template(side: int) -> Tensor:
    """(5, 2) float64 places of the five points, x and y in pixels, in a picture of `side` x `side`."""
    points = torch.tensor(_MEAN_FACE, dtype=torch.float64) - torch.tensor([0, _RAISED])
    return points * (side / _MEAN_FACE_SIDE)


def five_points(landmarks: Tensor) -> Tensor:
    """(..., 478, 2) points of Face Mesh -> (..., 5, 2), in the template's order and the same unit."""
    return torch.stack([landmarks[..., list(numbers), :].mean(-2) for numbers in FACE_MESH], dim=-2)


def similarity_to(targets: Tensor, points: Tensor) -> Tensor:
    """(..., 2, 3): from places of a picture, in pixels, to those of the `targets` (5, 2) or (..., 5, 2).

    The inverse of the turn, scale and shift that carry the targets onto `points` (..., 5, 2) with the least
    squared error. For several frames together `points` are their means: the joint fit is the same. Not finite
    where all points are the same.
    """
    middle, centre = points.mean(-2, keepdim=True), targets.mean(-2, keepdim=True)
    (x, y), (u, v) = (targets - centre).unbind(-1), (points - middle).unbind(-1)
    energy = (x.square() + y.square()).sum(-1)
    real, imaginary = (x * u + y * v).sum(-1) / energy, (x * v - y * u).sum(-1) / energy
    scale = real.square() + imaginary.square()
    cosine, sine = real / scale, -imaginary / scale  # of the inverse, times its scale
    rows = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    shift = centre.mT - rows @ middle.mT
    return torch.cat([rows, shift], -1)


def warp(video: Tensor, matrices: Tensor, size: int) -> Tensor:
    """(B, 3, T, H, W) uint8 frames -> (B, 3, T, size, size) of whole levels; black outside of a frame.

    matrices: (B, 2, 3), from places of a clip's frames to those of the result, in pixels whose centres are
    whole numbers. Bilinear. On a CPU by OpenCV 4, which takes half as long there; elsewhere, in an exported
    network, and with OpenCV 5, which does not round places, by `sample`, which differs from OpenCV 4 by one
    level at most.
    """
    if video.device.type != "cpu" or torch.compiler.is_exporting() or not ROUNDS_PLACES:
        return sample(video, matrices, size)
    clips = video.permute(0, 2, 3, 4, 1).numpy()
    warped = np.empty((*clips.shape[:2], size, size, 3), np.uint8)
    for clip, matrix, target in zip(clips, matrices.double().numpy(), warped, strict=True):
        for frame, place in zip(clip, target, strict=True):
            cv2.warpAffine(frame, matrix, (size, size), dst=place)
    return torch.from_numpy(warped).permute(0, 4, 1, 2, 3)


def sample(video: Tensor, matrices: Tensor, size: int) -> Tensor:
    """`warp` by torch, in float32, at places rounded to 1/32 pixel: as OpenCV 4's warpAffine."""
    height, width = video.shape[-2:]
    matrices = matrices.double()
    (a, b), (c, d) = (row.unbind(-1) for row in matrices[:, :, :2].unbind(1))
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    backwards = adjugate / (a * d - b * c)[:, None, None]  # ONNX has no inverse
    start = -(backwards @ matrices[:, :, 2:])  # where the first pixel comes from
    line = torch.arange(size, device=video.device, dtype=torch.float64)
    along = (backwards[:, None, :, 0] * line[:, None] * ROUNDING).round()[:, None]  # (B, 1, size, 2)
    down = ((backwards[:, None, :, 1] * line[:, None] + start.mT) * ROUNDING).round()[:, :, None]
    places = ((along + down + ROUNDING / PLACES / 2) / (ROUNDING / PLACES)).floor() / PLACES
    # grid_sample counts from -1 at the centre of the first pixel to 1 at that of the last one
    unit = 2 / (torch.tensor([width, height], device=video.device) - 1).clamp_min(1)
    grid = (places * unit - 1).float()
    planes = video.transpose(1, 2)  # (B, T, 3, H, W): resizing takes frames as they lie
    sampled = F.grid_sample(planes.flatten(1, 2).float(), grid, align_corners=True)
    return sampled.add_(HALF_UP).floor_().unflatten(1, planes.shape[1:3]).transpose(1, 2)
