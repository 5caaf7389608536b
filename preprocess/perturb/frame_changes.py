"""Perturbations of single frames, after the published definitions of DeeperForensics.

Frames are (H, W, 3) uint8 RGB and are never changed in place. To be applied to full frames: blocks, kernels
and factors mean another thing on a crop.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

# Those definitions squeeze luma and chroma of 0-255 into studio range, but keep OpenCV's neutral chroma of
# float images, 0.5, as the neutral one of the squeezed values: the fixed point lies a little below it.
LUMA_RANGE, CHROMA_RANGE, RANGE_START = 219.0, 224.0, 16.0
NEUTRAL_CHROMA = (255 * 0.5 - RANGE_START) / CHROMA_RANGE
BLOCK_SIDE, BLOCK_VALUE = 8, 128


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """Clip to 0..255 and cut the fraction off: the definitions truncate."""
    return np.clip(image, 0, 255).astype(np.uint8)


def fade_colors(image: np.ndarray, share: float) -> np.ndarray:
    """Pull the chroma towards grey; share 0 is grey."""
    ycrcb = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    ycrcb[..., 1:] = NEUTRAL_CHROMA + share * (ycrcb[..., 1:] - NEUTRAL_CHROMA)
    return _to_uint8(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB))


def darken(image: np.ndarray, factor: float) -> np.ndarray:
    """What the definitions call contrast: all values times `factor`; no mean is kept."""
    return cv2.LUT(image, _to_uint8(np.arange(256) * factor))


def num_blocks(height: int, width: int, density: float) -> int:
    """Squares per frame; none at all in frames with a side below 256 pixels."""
    return min(height, width) // 256 * int(density)


def draw_blocks(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Grey squares of 8x8 with their top left corners at (n, 2) places x, y."""
    image = image.copy()
    for x, y in corners:
        image[y : y + BLOCK_SIDE, x : x + BLOCK_SIDE] = BLOCK_VALUE
    return image


def add_noise(image: np.ndarray, variance: float, normal: np.ndarray) -> np.ndarray:
    """Add `normal` (H, W, 3: luma, blue and red chroma; deviation 1) times the deviation of full scale."""
    ycrcb = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    deviation = np.float32(255 * np.sqrt(variance))
    ycrcb[..., 0] += normal[..., 0] * (deviation * np.float32(255 / LUMA_RANGE))
    ycrcb[..., 2] += normal[..., 1] * (deviation * np.float32(255 / CHROMA_RANGE))
    ycrcb[..., 1] += normal[..., 2] * (deviation * np.float32(255 / CHROMA_RANGE))
    return _to_uint8(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB))


def blur(image: np.ndarray, width: float) -> np.ndarray:
    """Gaussian kernel of an odd width, with a deviation of a sixth of it."""
    return cv2.GaussianBlur(image, (int(width), int(width)), width / 6)


def pixelate(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrink by bilinear sampling, which lets fine detail alias, and stretch again."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // int(factor)), max(1, height // int(factor))))
    return cv2.resize(small, (width, height))


def lower_resolution(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrink by area averaging, as a camera of lower resolution would, and stretch again."""
    height, width = image.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def compress_jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Through JPEG and back."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _with_new_blocks(image: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    count = num_blocks(height, width, density)
    highest = (width - BLOCK_SIDE, height - BLOCK_SIDE)  # not reached: the last row and column stay
    return draw_blocks(image, rng.integers(0, highest, (count, 2))) if count else image


def _with_new_noise(image: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    return add_noise(image, variance, rng.standard_normal(image.shape, np.float32))


# h264 is missing: it needs all frames (see variants.py)
FRAME_CHANGES: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "saturation": lambda image, value, rng: fade_colors(image, value),
    "contrast": lambda image, value, rng: darken(image, value),
    "block": _with_new_blocks,
    "noise": _with_new_noise,
    "blur": lambda image, value, rng: blur(image, value),
    "pixelation": lambda image, value, rng: pixelate(image, value),
    "jpeg": lambda image, value, rng: compress_jpeg(image, value),
    "resolution": lambda image, value, rng: lower_resolution(image, value),
}
