"""Histogram equalisation of brightness, as the published Beyond-Masking pipeline prepares its frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def equalize_luma(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(..., H, W, 3) uint8 RGB with the luma of each picture equalised: RGB -> YCrCb, equalise Y, back."""
    import cv2

    frames = np.ascontiguousarray(frames)
    equalized = np.empty_like(frames)
    pictures = frames.reshape(-1, *frames.shape[-3:])
    for picture, result in zip(pictures, equalized.reshape(pictures.shape), strict=True):
        image = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
        image[..., 0] = cv2.equalizeHist(image[..., 0])
        cv2.cvtColor(image, cv2.COLOR_YCrCb2RGB, dst=result)
    return equalized
