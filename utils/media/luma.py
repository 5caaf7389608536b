"""Histogram equalisation of brightness, as the published Beyond-Masking pipeline prepares its frames."""

from __future__ import annotations

import numpy as np


def equalize_luma(frames: np.ndarray) -> np.ndarray:
    """(..., H, W, 3) uint8 RGB -> the same shape and type, every picture on its own.

    RGB -> YCrCb, equalise Y, back, all by OpenCV.
    """
    import cv2

    frames = np.ascontiguousarray(frames)
    equalized = np.empty_like(frames)
    pictures = frames.reshape(-1, *frames.shape[-3:])
    for picture, result in zip(pictures, equalized.reshape(pictures.shape), strict=True):
        image = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
        image[..., 0] = cv2.equalizeHist(image[..., 0])
        cv2.cvtColor(image, cv2.COLOR_YCrCb2RGB, dst=result)
    return equalized
