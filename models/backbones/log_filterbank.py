"""AV-HuBERT's sound: the log energies of 26 bands, 100 rows per second, and the rows of a frame together.

Shi et al., "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster Prediction", ICLR 2022.
The numbers are those of python_speech_features 0.6, whose `logfbank` AV-HuBERT calls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SOUND_RATE_HZ = 16_000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
ROWS_PER_SECOND = SOUND_RATE_HZ // HOP_SAMPLES
FFT_SAMPLES = 512
NUM_FILTERS = 26
PRE_EMPHASIS = 0.97
FULL_SCALE = 32_768  # of 16-bit samples
ENERGY_FLOOR = float(np.finfo(np.float64).eps)  # replaces an energy of exactly 0


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
        after_first = samples.shape[1] - WINDOW_SAMPLES
        # not -(-n // m): integers are divided towards 0 in ONNX
        longest = 1 + ((after_first + HOP_SAMPLES - 1) // HOP_SAMPLES if after_first > 0 else 0)
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


def as_16_bit(waveform: Tensor) -> Tensor:
    """Samples in [-1, 1] -> whole numbers of 16 bits, as the published pipelines store sound."""
    return (waveform * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1)


def stack_rows(rows: Tensor, num_stacked: int, num_frames: int) -> Tensor:
    """(B, rows, 26) -> (B, T, 26 * num_stacked): the rows of each frame, normalised together.

    Missing rows are zeros; rows past the last frame are dropped.
    """
    places = torch.arange(num_frames * num_stacked, device=rows.device)
    missing = places >= rows.shape[1]
    rows = rows[:, places.clamp_max(rows.shape[1] - 1)].masked_fill(missing[:, None], 0.0)
    stacked = rows.unflatten(1, (num_frames, num_stacked)).flatten(2)
    return F.layer_norm(stacked, stacked.shape[-1:])
