"""AV-HuBERT's front ends, which MRDF shares: log filterbank rows per frame, and small crops.

Shi et al., "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster Prediction", ICLR 2022.
The filterbank gives the numbers of python_speech_features 0.6, whose `logfbank` AV-HuBERT and MRDF call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.frames import resize_frames
from utils.clip.files import SAMPLE_RATE_HZ

SOUND_RATE_HZ = 16_000
DECIMATION = SAMPLE_RATE_HZ // SOUND_RATE_HZ
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
ROWS_PER_SECOND = SOUND_RATE_HZ // HOP_SAMPLES
FFT_SAMPLES = 512
NUM_FILTERS = 26
PRE_EMPHASIS = 0.97
FULL_SCALE = 32_768  # of 16-bit samples
ENERGY_FLOOR = float(np.finfo(np.float64).eps)  # replaces an energy of exactly 0
# low-pass before decimation: zero crossings on each side, share of the band kept, Kaiser's beta
ZERO_CROSSINGS, PASS_BAND, KAISER_BETA = 64, 0.9476, 14.77
# of grey pictures in 0..1; MRDF uses them for each colour
PICTURE_MEAN, PICTURE_STD = 0.421, 0.165


def triangular_filters() -> npt.NDArray[np.float64]:
    """(257, 26) triangular filters over the spectrum's bins, equally spaced in mel from 0 to 8 kHz."""
    highest_mel = 2595 * np.log10(1 + SOUND_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, highest_mel, NUM_FILTERS + 2) / 2595) - 1)
    edges = np.floor((FFT_SAMPLES + 1) * edges_hz / SOUND_RATE_HZ)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(FFT_SAMPLES // 2 + 1)[:, None]
    rising = (bins - low) / (middle - low) * ((bins >= low) & (bins < middle))
    falling = (high - bins) / (high - middle) * ((bins >= middle) & (bins < high))
    return rising + falling


def decimation_filter(factor: int) -> npt.NDArray[np.float64]:
    """Taps of the low-pass filter to apply before the sampling rate is divided by `factor`."""
    half = ZERO_CROSSINGS * factor
    taps = np.sinc(np.arange(-half, half + 1) * PASS_BAND / factor) * np.kaiser(2 * half + 1, KAISER_BETA)
    return taps / taps.sum()


class LogFilterbank(nn.Module):
    """Samples (B, N) at 16 kHz -> log energies (B, rows, 26), 100 rows per second, and row counts (B,).

    Samples are in 16-bit units; the first `num_samples` (B,) of a clip are valid. Rows do not depend on
    padding, and are 0 past a clip's end.
    """

    filters: Tensor  # (257, 26)

    def __init__(self) -> None:
        super().__init__()
        filters = torch.from_numpy(triangular_filters()).float()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, samples: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        missing = (num_samples - WINDOW_SAMPLES).clamp_min(0)
        num_rows = 1 + (missing + HOP_SAMPLES - 1) // HOP_SAMPLES
        longest = 1 + -(-max(samples.shape[1] - WINDOW_SAMPLES, 0) // HOP_SAMPLES)
        emphasised = torch.cat([samples[:, :1], samples[:, 1:] - PRE_EMPHASIS * samples[:, :-1]], dim=1)
        # the published code pads after the emphasis, so the sample after a clip's last one is 0, too
        outside = torch.arange(samples.shape[1], device=samples.device) >= num_samples[:, None]
        emphasised = emphasised.masked_fill(outside, 0.0)
        length = (longest - 1) * HOP_SAMPLES + WINDOW_SAMPLES
        emphasised = F.pad(emphasised, (0, length - samples.shape[1]))
        spectrum = torch.fft.rfft(emphasised.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES), FFT_SAMPLES)
        power = (spectrum.real.square() + spectrum.imag.square()) / FFT_SAMPLES
        energy = power @ self.filters  # (B, rows, 26)
        rows = torch.where(energy == 0, ENERGY_FLOOR, energy).log()
        outside = torch.arange(longest, device=samples.device) >= num_rows[:, None]
        return rows.masked_fill(outside[..., None], 0.0), num_rows


def stack_rows(rows: Tensor, num_stacked: int, num_frames: int) -> Tensor:
    """(B, rows, 26) -> (B, T, 26 * num_stacked): the rows of each frame, normalised together.

    Missing rows are zeros; rows past the last frame are dropped.
    """
    wanted = num_frames * num_stacked
    rows = F.pad(rows[:, :wanted], (0, 0, 0, max(0, wanted - rows.shape[1])))
    stacked = rows.unflatten(1, (num_frames, num_stacked)).flatten(2)
    return F.layer_norm(stacked, stacked.shape[-1:])


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
        return (waveform * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1)

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
    pairs = video[..., ::2].short() + video[..., 1::2]
    return ((pairs[..., ::2, :] + pairs[..., 1::2, :] + 2) >> 2).to(torch.uint8)


class PictureFrontEnd(nn.Module):
    """Resize uint8 frames to `image_size`, crop, normalise: -> float (B, 3, T, crop_size, crop_size).

    In training each clip is cropped at a random place and mirrored with probability 1/2, the same for all of
    its frames; else the crop is central.
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
        if self.training:
            places = torch.randint(slack + 1, (len(video), 2)).tolist()
            mirrored = (torch.rand(len(video)) < 0.5).tolist()
        else:
            places, mirrored = [[slack // 2] * 2] * len(video), [False] * len(video)
        clips = []
        for clip, (top, left), is_mirrored in zip(video, places, mirrored, strict=True):
            crop = clip[..., top : top + size, left : left + size]
            clips.append(crop.flip(-1) if is_mirrored else crop)
        return (torch.stack(clips).float() / 255.0 - PICTURE_MEAN) / PICTURE_STD
