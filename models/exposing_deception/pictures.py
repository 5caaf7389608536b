"""Pictures of faces as the blocks see them, and the eight random changes of training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.jpeg import JpegCompression

# of ImageNet's colours in 0..1, applied to the channels in their order, as in the published code
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)  # shares of R, G and B
BLUR_SIGMA = 0.8  # OpenCV's for a kernel of 3
HUES = 180  # OpenCV's number of hues in a circle


def uniform(count: int, low: float, high: float) -> Tensor:
    """(count,) numbers of the CPU's generator: a GPU need not be asked which pictures change."""
    return low + (high - low) * torch.rand(count)


def chosen(count: int, probability: float) -> Tensor:
    """Indices of the pictures that a change with that probability befalls."""
    return torch.nonzero(torch.rand(count) < probability).squeeze(1)


class PictureFrontEnd(nn.Module):
    """(N, 3, H, W) uint8 RGB -> (N, 3, size, size) normalised, changed at random in training."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, channel_order: str, augmentation: str) -> None:
        super().__init__()
        self.size, self.channel_order, self.augmentation = size, channel_order, augmentation
        self.jpeg = JpegCompression()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        with torch.autocast(frames.device.type, enabled=False):  # levels of pictures need more than 8 bits
            return self._normalized(frames)

    def _normalized(self, frames: Tensor) -> Tensor:
        pictures = frames.to(self.mean.dtype)
        if frames.shape[2:] != (self.size, self.size):
            pictures = F.interpolate(pictures, size=(self.size, self.size), mode="bilinear")
            pictures = pictures.round()
        is_bgr = False
        if self.training and self.augmentation != "none":
            pictures = self._compressed(pictures)
            is_bgr = self.augmentation == "released"
            pictures = change(pictures.flip(1) if is_bgr else pictures)
        if is_bgr != (self.channel_order == "bgr"):
            pictures = pictures.flip(1)
        return (pictures / 255 - self.mean) / self.std

    def _compressed(self, pictures: Tensor) -> Tensor:
        which = chosen(len(pictures), 0.5)
        quality = torch.randint(60, 101, (len(which),)).to(pictures)
        return _replaced(pictures, which, lambda some: self.jpeg(some, quality))


def change(pictures: Tensor) -> Tensor:
    """The seven changes after the compression, in the published order and with its parameters.

    (N, 3, S, S) in 0..255, in the order of colours that the changes take for RGB. The published code's
    library is albumentations 1.3.1.
    """
    pictures = _replaced(pictures, chosen(len(pictures), 0.1), noisy)
    pictures = _replaced(pictures, chosen(len(pictures), 0.05), blurred)
    pictures = _replaced(pictures, chosen(len(pictures), 0.5), lambda some: some.flip(3))
    which = chosen(len(pictures), 0.7)
    kinds = torch.randint(3, (len(which),))
    for kind, recoloured in enumerate((brighter, along_principal_colours, shifted_hue)):
        pictures = _replaced(pictures, which[kinds == kind], recoloured)
    pictures = _replaced(pictures, chosen(len(pictures), 0.2), grey)
    return _replaced(pictures, chosen(len(pictures), 0.5), moved)


def _replaced(pictures: Tensor, which: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The pictures with function(those at `which`) in their places."""
    if not len(which):
        return pictures
    which = which.to(pictures.device)
    return pictures.index_copy(0, which, function(pictures[which]))


def _levels(pictures: Tensor) -> Tensor:
    return pictures.round().clamp(0, 255)


def _each(values: Tensor, pictures: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1) where the pictures are."""
    return values.to(pictures)[:, None, None, None]


def noisy(pictures: Tensor) -> Tensor:
    """Gaussian noise of a variance between 10 and 50, in each channel of its own."""
    variance = _each(uniform(len(pictures), 10, 50), pictures)
    return _levels(pictures + variance.sqrt() * torch.randn_like(pictures))


def blurred(pictures: Tensor) -> Tensor:
    """A Gaussian kernel of 3 x 3; borders are mirrored."""
    taps = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * BLUR_SIGMA**2)).to(pictures)
    taps = taps / taps.sum()
    kernel = (taps[:, None] * taps).expand(3, 1, 3, 3)
    return _levels(F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="reflect"), kernel, groups=3))


def brighter(pictures: Tensor) -> Tensor:
    """Contrast times 0.8 to 1.2, and up to a fifth of the whole range more or less."""
    contrast, offset = (_each(uniform(len(pictures), -0.2, 0.2), pictures) for _ in range(2))
    return _levels(pictures * (1 + contrast) + 255 * offset)


def along_principal_colours(pictures: Tensor) -> Tensor:
    """A shift along the principal axes of a picture's colours by their variances (in 0..1) times N(0, 0.1).

    Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012, with one
    factor for all axes.
    """
    colours = (pictures / 255).flatten(2)  # (N, 3, S * S)
    variances, axes = torch.linalg.eigh(torch.stack([torch.cov(picture) for picture in colours]).float())
    factor = 0.1 * torch.randn(len(pictures)).to(variances)
    shift = (axes @ (variances * factor[:, None])[..., None]).to(pictures)
    return _levels(pictures + 255 * shift[..., None])


def shifted_hue(pictures: Tensor) -> Tensor:
    """Hue moved by up to 20 of 180, saturation by up to 30 of 255, value by up to 20."""
    shifts = [_each(uniform(len(pictures), -bound, bound), pictures) for bound in (20, 30, 20)]
    value, _ = pictures.max(dim=1, keepdim=True)
    spread = value - pictures.amin(dim=1, keepdim=True)
    red, green, blue = pictures.split(1, dim=1)
    safe = spread.clamp_min(1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = torch.where(spread == 0, 0.0, sector * HUES / 6) + shifts[0]
    saturation = (255 * spread / value.clamp_min(1e-6) + shifts[1]).clamp(0, 255) / 255
    value = (value + shifts[2]).clamp(0, 255)
    # how far each channel is below the value, by its distance from the hue on the circle of six sectors
    ahead = torch.tensor((5.0, 3.0, 1.0)).to(pictures)[:, None, None]
    around = (ahead + hue * 6 / HUES) % 6
    return _levels(value - value * saturation * torch.minimum(around, 4 - around).clamp(0, 1))


def grey(pictures: Tensor) -> Tensor:
    """Luma in all three channels."""
    luma = torch.einsum("c,nchw->nhw", torch.tensor(GREY).to(pictures), pictures)
    return _levels(luma)[:, None].expand_as(pictures)


def moved(pictures: Tensor) -> Tensor:
    """Shifted by up to a tenth of the side, scaled by 0.8 to 1.2, turned by up to 10 degrees."""
    count = len(pictures)
    x, y = uniform(count, -0.1, 0.1), uniform(count, -0.1, 0.1)
    scale, angle = uniform(count, 0.8, 1.2), uniform(count, -math.radians(10), math.radians(10))
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    # where a place of the new picture lies in the old one, in units of half a side around the centre
    rows = torch.stack([cosine, -sine, sine, cosine], dim=1).unflatten(1, (2, 2))
    shift = -2 * rows @ torch.stack([x, y], dim=1)[..., None]
    grid = F.affine_grid(
        torch.cat([rows, shift], dim=2).to(pictures), list(pictures.shape), align_corners=False
    )
    return _levels(F.grid_sample(pictures, grid, mode="bilinear", align_corners=False))
