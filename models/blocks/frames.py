"""Pictures of a video on the device."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_frames(video: Tensor, size: int) -> Tensor:
    """(B, 3, T, H, W) -> (B, 3, T, size, size) float32, bilinear with a low-pass filter."""
    images = video.transpose(1, 2).flatten(0, 1).float()  # (B*T, 3, H, W)
    if torch.compiler.is_exporting():  # ONNX Runtime's filter is another one
        rows, columns = (filter_rows(length, size).to(images.device) for length in images.shape[2:])
        images = rows @ images @ columns.T
    else:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


def filter_rows(length: int, size: int) -> Tensor:
    """(size, length) float32 weights by which torch resizes a line, bilinear with a low-pass filter."""
    step = length / size
    width = max(step, 1.0)  # a triangle spans this on both sides, in pixels of the source
    centres = (np.arange(size)[:, None] + 0.5) * step
    weights = np.maximum(0.0, 1 - np.abs(np.arange(length) + 0.5 - centres) / width)
    return torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
