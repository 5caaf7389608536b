"""MFCC of a second of sound: a backbone without weights, and what AudioResNet18 sees.

As 2D3MF has them (aiden200/2D3MF, d4fd8e8): librosa's defaults, at 44.1 kHz.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.backbones.backbone import Backbone, Encoder, second_plan

SAMPLE_RATE_HZ = 44_100
COEFFICIENTS = 10
STEPS = 87


class MfccPieces(Encoder):
    """What the network makes of librosa's MFCC (B, 10, 87): slaney's mel bands, 80 dB of range in a piece."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        from torchaudio.transforms import MFCC

        options = {"n_fft": 2048, "hop_length": 512, "n_mels": 128, "norm": "slaney", "mel_scale": "slaney",
                   "center": True, "pad_mode": "constant"}  # fmt: skip
        self.mfcc = MFCC(SAMPLE_RATE_HZ, n_mfcc=COEFFICIENTS, melkwargs=options)

    def forward(self, samples: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):  # decibels need float32
            # one piece at a time: torchaudio takes the 80 dB from the loudest of a batch
            coefficients = torch.stack([self.mfcc(piece) for piece in samples])
        features: Tensor = self.network(coefficients)
        return features[:, None]


BACKBONES = {
    "mfcc": Backbone(
        make=lambda: MfccPieces(nn.Flatten()),  # coefficient by coefficient
        width=COEFFICIENTS * STEPS,
        weights=None,
        plan=second_plan,
        batch_size=32,
        sample_rate_hz=SAMPLE_RATE_HZ,
        piece_samples=SAMPLE_RATE_HZ,
    )
}
