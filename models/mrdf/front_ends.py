"""MRDF's front ends: AV-HuBERT's filterbank rows per frame from sound of 48 kHz, and crops of faces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.log_filterbank import (
    NUM_FILTERS,
    SOUND_RATE_HZ,
    LogFilterbank,
    as_16_bit,
    stack_rows,
)
from models.backbones.stem_resnet import PICTURE_MEAN, PICTURE_STD
from models.blocks.frames import resize_frames
from utils.clip.files import SAMPLE_RATE_HZ

DECIMATION = SAMPLE_RATE_HZ // SOUND_RATE_HZ
# low-pass before decimation: zero crossings on each side, share of the band kept, Kaiser's beta
ZERO_CROSSINGS, PASS_BAND, KAISER_BETA = 64, 0.9476, 14.77


def decimation_filter(factor: int) -> npt.NDArray[np.float64]:
    """Taps of the low-pass filter to apply before the sampling rate is divided by `factor`."""
    half = ZERO_CROSSINGS * factor
    taps = np.sinc(np.arange(-half, half + 1) * PASS_BAND / factor) * np.kaiser(2 * half + 1, KAISER_BETA)
    return taps / taps.sum()


class FilterbankFrontEnd(nn.Module):
    """Waveform (B, N) in [-1, 1] and its padding mask -> (B, T, 26 * num_stacked), the sound of each frame.

    The sound is converted to 16 kHz and 16 bits, as the published pipelines store it.
    """

    stays_eager = True  # complex numbers
    low_pass: Tensor  # (1, 1, taps)

    def __init__(self, num_stacked: int) -> None:
        super().__init__()
        self.num_stacked = num_stacked
        self.out_features = NUM_FILTERS * num_stacked
        self.filterbank = LogFilterbank()
        taps = torch.from_numpy(decimation_filter(DECIMATION)).float()
        self.register_buffer("low_pass", taps[None, None], persistent=False)

    def _at_16_khz(self, waveform: Tensor) -> Tensor:
        half = self.low_pass.shape[2] // 2
        waveform = F.conv1d(waveform[:, None], self.low_pass, stride=DECIMATION, padding=half)[:, 0]
        return as_16_bit(waveform)

    @torch.no_grad()
    def forward(self, waveform: Tensor, padding_mask: Tensor, num_frames: int) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):  # logarithms need float32
            num_samples = (~padding_mask).sum(dim=1)
            waveform = waveform.float().masked_fill(padding_mask, 0.0)
            num_samples = (num_samples + DECIMATION - 1) // DECIMATION
            rows, _ = self.filterbank(self._at_16_khz(waveform), num_samples)
            return stack_rows(rows, self.num_stacked, num_frames)


def halve(video: Tensor) -> Tensor:
    """Means of 2x2 pixels, halves rounded up: (..., H, W) uint8 -> (..., H/2, W/2) uint8.

    Equals OpenCV's bilinear resizing by one half.
    """
    if torch.compiler.is_exporting():  # ONNX adds and shifts no 16-bit numbers; these floats are exact
        means = F.avg_pool3d(video.float(), (1, 2, 2))
        return (means + 0.5).floor().to(torch.uint8)
    pairs = video[..., ::2].short() + video[..., 1::2]
    return ((pairs[..., ::2, :] + pairs[..., 1::2, :] + 2) >> 2).to(torch.uint8)


class PictureFrontEnd(nn.Module):
    """Resize uint8 frames to `image_size`, crop, normalise: -> float (B, 3, T, crop_size, crop_size).

    Each colour is normalised by AV-HuBERT's mean and deviation of grey. In training each clip is cropped at a
    random place and mirrored with probability 1/2, the same for all of its frames; else the crop is central.
    """

    stays_eager = True  # random numbers on the CPU, integers

    def __init__(self, image_size: int, crop_size: int) -> None:
        super().__init__()
        self.image_size, self.crop_size = image_size, crop_size

    def _resize(self, video: Tensor) -> Tensor:
        size = self.image_size
        while video.shape[-1] == video.shape[-2] and video.shape[-1] % 2 == 0 and video.shape[-1] >= 2 * size:
            video = halve(video)
        if video.shape[-2:] == (size, size):
            return video
        return resize_frames(video, size).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """video: (B, 3, T, H, W) uint8, not equalised."""
        video, size, slack = self._resize(video), self.crop_size, self.image_size - self.crop_size
        middle = slice(slack // 2, slack // 2 + size)
        if self.training:
            places = torch.randint(slack + 1, (len(video), 2)).tolist()
            mirrored = (torch.rand(len(video)) < 0.5).tolist()
            clips = []
            for clip, (top, left), is_mirrored in zip(video, places, mirrored, strict=True):
                crop = clip[..., top : top + size, left : left + size]
                clips.append(crop.flip(-1) if is_mirrored else crop)
            video = torch.stack(clips)
        else:
            video = video[..., middle, middle]
        return (video.float() / 255.0 - PICTURE_MEAN) / PICTURE_STD
