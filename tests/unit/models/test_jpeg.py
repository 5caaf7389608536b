"""JPEG on the device against OpenCV's."""

import cv2
import numpy as np
import pytest
import torch

from models.blocks.jpeg import JpegCompression


def pictures(size):
    rng = np.random.default_rng(0)
    noise = [cv2.GaussianBlur(rng.uniform(0, 255, (*size, 3)), (0, 0), sigma) for sigma in (1, 3, 12)]
    return np.stack([cv2.normalize(p, None, 0, 255, cv2.NORM_MINMAX) for p in noise]).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (50, 71)])
def test_pictures_are_opencvs_but_for_rounding(size):
    shown = pictures(size)  # RGB
    batch = torch.from_numpy(shown).permute(0, 3, 1, 2).float()
    for quality in (30, 60, 85, 100):
        found = JpegCompression()(batch, torch.full((3,), float(quality)))
        for picture, ours in zip(shown, found, strict=True):
            _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            theirs = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
            difference = np.abs(ours.permute(1, 2, 0).numpy() - theirs)
            # rounding to whole levels of light and chroma, which tips few coefficients over
            assert difference.mean() < 0.15 * np.abs(theirs - picture).mean() + 0.6


def test_each_picture_has_its_own_quality():
    shown = torch.from_numpy(pictures((64, 64))).permute(0, 3, 1, 2).float()
    jpeg = JpegCompression()
    together = jpeg(shown, torch.tensor([30.0, 60.0, 90.0]))
    for index, quality in enumerate((30.0, 60.0, 90.0)):
        alone = jpeg(shown[index : index + 1], torch.tensor([quality]))
        assert (alone[0] - together[index]).abs().max() <= 1  # sums in another order
