"""JPEG compression of a batch on the device: what cv2.imencode and imdecode do to a picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# quantisation of luma and chroma at quality 50: ITU-T T.81, tables K.1 and K.2
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMA = (
    (17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99),
)  # fmt: skip  # the first quarter: all others are 99
# RGB -> luma and two chromas around 0: JFIF
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
BLOCK = 8


class JpegCompression(nn.Module):
    """(N, 3, H, W) RGB in 0..255 and quality (N,) in 1..100 -> the same pictures, compressed, whole levels.

    Chroma has half the resolution. Within a level of OpenCV's on average.
    """

    tables: Tensor  # (2, 8, 8)
    to_ycc: Tensor  # (3, 3)
    cosines: Tensor  # (8, 8)

    def __init__(self) -> None:
        super().__init__()
        chroma = torch.full((BLOCK, BLOCK), 99.0)
        chroma[: BLOCK // 2, : BLOCK // 2] = torch.tensor(CHROMA)
        cosines = torch.tensor(
            [[math.cos((2 * x + 1) * u * math.pi / 16) / 2 for x in range(BLOCK)] for u in range(BLOCK)]
        )
        cosines[0] /= math.sqrt(2)
        buffers = {"tables": torch.stack([torch.tensor(LUMA).float(), chroma])}
        buffers |= {"to_ycc": torch.tensor(TO_YCC), "cosines": cosines}
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, pictures: Tensor, quality: Tensor) -> Tensor:
        height, width = pictures.shape[2:]
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None, None]
        tables = ((self.tables * scale + 50) / 100).floor().clamp(1, 255)  # (N, 2, 8, 8)
        padding = (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK))
        padded = F.pad(pictures, padding, mode="replicate")
        colours = torch.einsum("ij,njhw->nihw", self.to_ycc, padded)
        luma = self._quantized(colours[:, :1] - 128, tables[:, :1]) + 128
        chroma = self._quantized(F.avg_pool2d(colours[:, 1:], 2), tables[:, 1:])
        chroma = chroma[..., : (height + 1) // 2, : (width + 1) // 2]  # what is beyond is not interpolated
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
        parts = torch.cat([luma[..., :height, :width], chroma[..., :height, :width]], dim=1)
        return torch.einsum("ij,njhw->nihw", self.to_ycc.inverse(), parts).round().clamp(0, 255)

    def _quantized(self, planes: Tensor, tables: Tensor) -> Tensor:
        """(N, C, H, W) planes whose blocks are rounded to multiples of `tables` (N, 1, 8, 8)."""
        blocks = planes.round().unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
        steps = tables[:, :, None, None]
        frequencies = self.cosines @ blocks @ self.cosines.T
        rounded = (frequencies / steps).round() * steps
        pixels = self.cosines.T @ rounded @ self.cosines
        return pixels.transpose(3, 4).flatten(4, 5).flatten(2, 3).round()
