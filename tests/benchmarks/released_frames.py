"""Pictures as the published code of Exposing the Deception loads them: the baseline of the frames benchmark.

Written from a description of it: cv2 reads a PNG crop and resizes it, albumentations changes it at random,
and it is normalised in the order of colours that cv2 gives. One picture at a time, in a worker process.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

HOW_TO_INSTALL = (
    "albumentations is not installed: pip install --no-deps albumentations==1.3.1 qudida (without --no-deps "
    "they bring another OpenCV)"
)
MEAN, STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))


def has_albumentations() -> bool:
    """Whether the library of the published code's random changes is installed."""
    return importlib.util.find_spec("albumentations") is not None


def published_changes(size: int) -> Any:
    """The eight random changes of a picture (size, size, 3) uint8 by albumentations 1.3.1, as a function:
    changes(image=picture)["image"] is a picture of the same shape.
    """
    import albumentations as A  # its usual short name

    black = {"border_mode": cv2.BORDER_CONSTANT, "value": 0}
    recoloured = [
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2),
        A.FancyPCA(alpha=0.1),
        A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20),
    ]
    return A.Compose(
        [
            A.ImageCompression(quality_lower=60, quality_upper=100, p=0.5),
            A.GaussNoise(var_limit=(10, 50), mean=0, per_channel=True, p=0.1),
            A.GaussianBlur(blur_limit=(3, 3), sigma_limit=0, p=0.05),
            A.HorizontalFlip(p=0.5),
            A.PadIfNeeded(min_height=size, min_width=size, p=1, **black),
            A.OneOf(recoloured, p=0.7),
            A.ToGray(p=0.2),
            A.ShiftScaleRotate(shift_limit=0.1, scale_limit=0.2, rotate_limit=10, p=0.5, **black),
        ]
    )


class PngPictures(Dataset[Any]):
    """(3, size, size) float32 normalised and a label, for training, of each PNG file."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size, self.changes = paths, size, published_changes(size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = cv2.imread(str(self.paths[index]), cv2.IMREAD_COLOR)
        picture = cv2.resize(picture, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        picture = self.changes(image=picture)["image"]
        normalized = (picture.astype(np.float32) / 255 - MEAN) / STD
        return torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1))), index % 2


def _use_one_core(worker_id: int) -> None:
    cv2.setNumThreads(1)


def png_loader(paths: Sequence[Path], size: int, batch_size: int) -> DataLoader[Any]:
    """Shuffled batches of `batch_size` pictures from one worker process, which makes one batch ahead."""
    return DataLoader(
        PngPictures(paths, size),
        batch_size=batch_size,
        shuffle=True,
        num_workers=1,
        prefetch_factor=1,
        worker_init_fn=_use_one_core,
        pin_memory=torch.cuda.is_available(),
    )
