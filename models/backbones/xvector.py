"""x-vectors: a second of sound at 16 kHz -> who speaks, as an embedding or as scores of 7,205 speakers.

Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition", ICASSP 2018; trained on VoxCeleb 1
and 2 and published as speechbrain/spkrec-xvect-voxceleb. The network is that of SpeechBrain 1.1.2
(lobes/models/Xvector.py, lobes/features.py), but for the noise of up to 0.0001 that it adds to the means over
time: a row here does not depend on chance. 2D3MF (aiden200/2D3MF, d4fd8e8) takes the scores, and gives this
network of 16 kHz sound at 44.1 kHz; here it is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.backbones.backbone import Backbone, Encoder, Weights, second_plan
from models.backbones.published import load_published

SAMPLE_RATE_HZ = 16_000
MEL_BANDS = 24
TDNN = ((512, 5, 1), (512, 3, 2), (512, 3, 3), (512, 1, 1), (1500, 1, 1))  # channels, kernel, dilation
WIDTH = 512
SPEAKERS = 7205
STD_FLOOR = 1e-5
RENAMES = [
    (r"blocks\.16\.w\.", "embedding."),
    (r"blocks\.(\d+)\.(?:conv|norm)\.", r"tdnn.\1."),
    (r"norm\.norm\.", "speakers.1."),
    (r"DNN\.block_0\.linear\.w\.", "speakers.2."),
    (r"DNN\.block_0\.norm\.norm\.", "speakers.4."),
    (r"out\.w\.", "speakers.5."),
]


class XVector(nn.Module):
    """encoder(bands) -> (B, 512) embeddings, or (B, 7205) log-probabilities: decibels (B, 24, T)."""

    def __init__(self, *, has_speakers: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = MEL_BANDS
        for out, kernel, dilation in TDNN:
            convolution = nn.Conv1d(
                width, out, kernel, dilation=dilation, padding="same", padding_mode="reflect"
            )
            layers += [convolution, nn.LeakyReLU(), nn.BatchNorm1d(out)]
            width = out
        self.tdnn = nn.Sequential(*layers)
        self.embedding = nn.Linear(2 * width, WIDTH)
        layers = []
        if has_speakers:
            for out in (WIDTH, SPEAKERS):
                layers += [nn.LeakyReLU(), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, out)]
            layers.append(nn.LogSoftmax(dim=1))
        self.speakers = nn.Sequential(*layers)

    def forward(self, bands: Tensor) -> Tensor:
        steps = self.tdnn(bands)
        pooled = torch.cat([steps.mean(dim=2), steps.std(dim=2) + STD_FLOOR], dim=1)
        features: Tensor = self.speakers(self.embedding(pooled))
        return features

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load published files. Raises CheckpointError if they do not fit."""
        load_published(self, weights, RENAMES, source)


class BandPieces(Encoder):
    """Decibels of 24 mel bands every 10 ms, less each band's mean over the piece."""

    bands: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        from torchaudio.transforms import AmplitudeToDB, Spectrogram

        self.spectrogram = Spectrogram(
            n_fft=400, hop_length=160, window_fn=torch.hamming_window, pad_mode="constant"
        )
        self.register_buffer("bands", _mel_bands(), persistent=False)
        self.decibels = AmplitudeToDB(top_db=80)

    def forward(self, samples: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):  # decibels need float32
            power = self.bands @ self.spectrogram(samples)  # (B, 24, T)
            bands = self.decibels(power[:, None])[:, 0]  # (B, 1, ...): 80 dB of range in each piece
        features: Tensor = self.network(bands - bands.mean(dim=2, keepdim=True))
        return features[:, None]


def _mel_bands() -> Tensor:
    """(24, 201): how much of each frequency from 0 to 8 kHz is in a band.

    As SpeechBrain has them: as wide above their middle as below, and so not up to the next one's.
    """
    highest_hz = SAMPLE_RATE_HZ / 2
    highest_mel = 2595 * math.log10(1 + highest_hz / 700)
    edges_hz = 700 * (10 ** (torch.linspace(0, highest_mel, MEL_BANDS + 2) / 2595) - 1)
    middles = edges_hz[1:-1, None]
    widths = edges_hz.diff()[:-1, None]
    distances = (torch.linspace(0, highest_hz, 201) - middles).abs() / widths
    return (1 - distances).clamp_min(0)


def _backbone(*more_files: str, has_speakers: bool, width: int) -> Backbone:
    return Backbone(
        make=lambda: BandPieces(XVector(has_speakers=has_speakers)),
        width=width,
        weights=Weights(
            "embedding_model.ckpt",
            "huggingface.co/speechbrain/spkrec-xvect-voxceleb",
            "Apache-2.0",
            more_files,
        ),
        plan=second_plan,
        batch_size=32,
        sample_rate_hz=SAMPLE_RATE_HZ,
        piece_samples=SAMPLE_RATE_HZ,
    )


BACKBONES = {
    "xvector": _backbone(has_speakers=False, width=WIDTH),
    "xvector_scores": _backbone("classifier.ckpt", has_speakers=True, width=SPEAKERS),
}
