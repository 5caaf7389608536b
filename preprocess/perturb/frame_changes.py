"""Perturbations of single frames, after the published definitions of DeeperForensics.

Frames are never changed in place. Apply these to full frames: sizes of blocks and kernels do not fit crops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]  # (H, W, 3) RGB

# The definitions squeeze luma and chroma of 0-255 into studio range, but keep 0.5, OpenCV's neutral chroma of
# float images, as the neutral one of the squeezed values: the fixed point lies a little below it.
LUMA_RANGE, CHROMA_RANGE, RANGE_START = 219.0, 224.0, 16.0
NEUTRAL_CHROMA = (255 * 0.5 - RANGE_START) / CHROMA_RANGE
BLOCK_SIDE, BLOCK_VALUE = 8, 128


def _to_uint8(image: npt.NDArray[np.integer[Any] | np.floating[Any]]) -> Frame:
    """The image clipped to 0..255 and truncated, as the definitions do."""
    return np.clip(image, 0, 255).astype(np.uint8)


def fade_colors(image: Frame, share: float) -> Frame:
    """Pull the chroma towards grey; share 0 is grey."""
    ycrcb = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    ycrcb[..., 1:] = NEUTRAL_CHROMA + share * (ycrcb[..., 1:] - NEUTRAL_CHROMA)
    return _to_uint8(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB))


def darken(image: Frame, factor: float) -> Frame:
    """What the definitions call contrast: all values times `factor`; the mean changes, too."""
    return np.asarray(cv2.LUT(image, _to_uint8(np.arange(256) * factor)), np.uint8)


def num_blocks(height: int, width: int, density: float) -> int:
    """Number of squares in a frame; 0 if a side is shorter than 256 pixels."""
    return min(height, width) // 256 * int(density)


def draw_blocks(image: Frame, corners: npt.NDArray[np.int64]) -> Frame:
    """Draw grey squares of 8x8 with their top left `corners` (n, 2) at x, y."""
    image = image.copy()
    for x, y in corners:
        image[y : y + BLOCK_SIDE, x : x + BLOCK_SIDE] = BLOCK_VALUE
    return image


def add_noise(image: Frame, variance: float, normal: npt.NDArray[np.float32]) -> Frame:
    """Add noise: `normal` (H, W, 3: luma, blue, red chroma), of `variance` where full scale is 1."""
    ycrcb = np.asarray(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb), np.float32)
    deviation = np.float32(255 * np.sqrt(variance))
    ycrcb[..., 0] += normal[..., 0] * (deviation * np.float32(255 / LUMA_RANGE))
    ycrcb[..., 2] += normal[..., 1] * (deviation * np.float32(255 / CHROMA_RANGE))
    ycrcb[..., 1] += normal[..., 2] * (deviation * np.float32(255 / CHROMA_RANGE))
    return _to_uint8(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB))


def blur(image: Frame, width: float) -> Frame:
    """Blur by a Gaussian kernel of an odd width, with a standard deviation of width / 6."""
    return np.asarray(cv2.GaussianBlur(image, (int(width), int(width)), width / 6), np.uint8)


def pixelate(image: Frame, factor: float) -> Frame:
    """Shrink by bilinear sampling, which lets fine detail alias, and stretch again."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // int(factor)), max(1, height // int(factor))))
    return np.asarray(cv2.resize(small, (width, height)), np.uint8)


def lower_resolution(image: Frame, factor: float) -> Frame:
    """Shrink by area averaging, as a camera of lower resolution would, and stretch again."""
    height, width = image.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def compress_jpeg(image: Frame, quality: float) -> Frame:
    """Encode as JPEG and decode again."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it has just been encoded
    return np.ascontiguousarray(decoded[..., ::-1], np.uint8)


def _with_new_blocks(image: Frame, density: float, rng: np.random.Generator) -> Frame:
    height, width = image.shape[:2]
    count = num_blocks(height, width, density)
    highest = (width - BLOCK_SIDE, height - BLOCK_SIDE)  # exclusive: the last row and column stay
    return draw_blocks(image, rng.integers(0, highest, (count, 2))) if count else image


# h264 is missing: it needs all frames (see variants.py)
FRAME_CHANGES: dict[str, Callable[[Frame, float, np.random.Generator], Frame]] = {
    "saturation": lambda image, value, rng: fade_colors(image, value),
    "contrast": lambda image, value, rng: darken(image, value),
    "block": _with_new_blocks,
    "noise": lambda image, value, rng: add_noise(image, value, rng.standard_normal(image.shape, np.float32)),
    "blur": lambda image, value, rng: blur(image, value),
    "pixelation": lambda image, value, rng: pixelate(image, value),
    "jpeg": lambda image, value, rng: compress_jpeg(image, value),
    "resolution": lambda image, value, rng: lower_resolution(image, value),
}
