"""Pictures of a video on the device."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_frames(video: Tensor, size: int) -> Tensor:
    """(B, 3, T, H, W) -> (B, 3, T, size, size) float32, bilinear with a low-pass filter."""
    images = video.transpose(1, 2).flatten(0, 1).float()  # (B*T, 3, H, W)
    images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)
