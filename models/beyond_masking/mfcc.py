"""MFCC in batches on the device, equal to librosa's (Slaney mel, power, dB with top_db 80, ortho DCT-II)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

NUM_MELS = 128
WINDOW_SAMPLES = 2048
HOP_SAMPLES = 512
TOP_DB = 80.0
POWER_FLOOR = 1e-10


class Mfcc(nn.Module):
    """Waveform (B, N) and its padding mask -> MFCC (B, num_mfcc, S) and the number of valid columns (B,).

    A clip of n samples has 1 + n // 512 columns, with centred frames and zeros beyond both ends; they do not
    depend on padding. Columns past a clip's end are 0.
    """

    stays_eager = True  # complex numbers
    mel: Tensor  # (frequencies, NUM_MELS)
    dct: Tensor  # (NUM_MELS, num_mfcc)
    window: Tensor  # (WINDOW_SAMPLES,)

    def __init__(self, num_mfcc: int, sample_rate_hz: int) -> None:
        super().__init__()
        num_bins, highest_hz = WINDOW_SAMPLES // 2 + 1, sample_rate_hz / 2
        mel = torchaudio.functional.melscale_fbanks(
            num_bins, 0.0, highest_hz, NUM_MELS, sample_rate_hz, norm="slaney", mel_scale="slaney"
        )
        dct = torchaudio.functional.create_dct(num_mfcc, NUM_MELS, norm="ortho")
        self.register_buffer("mel", mel, persistent=False)
        self.register_buffer("dct", dct, persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(waveform.device.type, enabled=False):  # decibels need float32
            num_samples = (~padding_mask).sum(dim=1)
            waveform = waveform.float().masked_fill(padding_mask, 0.0)
            if torch.compiler.is_exporting():  # stft wants a known number of samples
                padded = F.pad(waveform, (WINDOW_SAMPLES // 2, WINDOW_SAMPLES // 2))
                pieces = padded.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES) * self.window
                spectrum = torch.fft.rfft(pieces).transpose(1, 2)
            else:
                spectrum = torch.stft(
                    waveform,
                    WINDOW_SAMPLES,
                    HOP_SAMPLES,
                    window=self.window,
                    pad_mode="constant",
                    return_complex=True,
                )
            power = spectrum.real.square() + spectrum.imag.square()
            mel_power = power.transpose(1, 2) @ self.mel  # (B, S, NUM_MELS)
            num_columns = 1 + num_samples // HOP_SAMPLES
            outside = (
                torch.arange(mel_power.shape[1], device=waveform.device) >= num_columns[:, None]
            )  # (B, S)
            decibels = 10.0 * mel_power.clamp_min(POWER_FLOOR).log10()
            loudest = decibels.masked_fill(outside[..., None], -torch.inf).amax(dim=(1, 2), keepdim=True)
            mfcc = decibels.maximum(loudest - TOP_DB) @ self.dct  # (B, S, num_mfcc)
            return mfcc.masked_fill(outside[..., None], 0.0).transpose(1, 2), num_columns


def centre_columns(mfcc: Tensor, num_columns: Tensor, wanted: int) -> Tensor:
    """The middle columns of each clip, with trailing zeros if it has fewer: (B, C, S) -> (B, C, wanted).

    The released Beyond-Masking code makes its audio tensors this way.
    """
    starts = ((num_columns - wanted) // 2).clamp_min(0)
    index = starts[:, None] + torch.arange(wanted, device=mfcc.device)  # (B, wanted)
    outside = index >= num_columns[:, None]
    index = index.clamp_max(mfcc.shape[2] - 1)[:, None].expand(-1, mfcc.shape[1], -1)
    return mfcc.gather(2, index).masked_fill(outside[:, None], 0.0)
