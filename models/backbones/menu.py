"""The backbones whose features are extracted, what each reads of a clip, and where its weights come from.

To add one, write an encoder with `load_published` in a file of this folder and a line in BACKBONES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.backbones import audio_resnet18, efficientface, marlin

PICTURE_SIZE = 224
MARLIN_SPAN = 32  # frames between the beginnings of two windows
MARLIN_FRAMES = 16  # every second one of them


class Plan(NamedTuple):
    """Which P pieces of a clip a backbone sees, and the seconds of the rows that it makes of them.

    Row i covers [i step_s, i step_s + length_s) seconds.
    """

    pieces: npt.NDArray[np.int64]  # (P, n) numbers of the frames; of sound (P, 1) first samples
    step_s: Fraction
    length_s: Fraction
    num_rows: int  # S of the clip, of the P R that are made: those after its end are left out


class Weights(NamedTuple):
    """A published file of weights."""

    file: str
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen encoder: make() has random weights, and encodes (B, n, 224, 224, 3) uint8 RGB, or (B, N)
    float32 samples at `sample_rate_hz`, as (B, R, width) features: R rows of each piece.
    """

    make: Callable[[], Encoder]
    width: int
    weights: Weights
    # (rate, length of the clip in frames or samples) -> the pieces
    plan: Callable[[Fraction, int], Plan]
    batch_size: int
    sample_rate_hz: int = 0  # 0: it sees pictures
    piece_samples: int = 0

    def settings(self) -> dict[str, Any]:
        """What shapes the features besides the weights."""
        if self.sample_rate_hz:
            return {"sample_rate_hz": self.sample_rate_hz, "piece_samples": self.piece_samples}
        return {"image_size": PICTURE_SIZE}


class Encoder(nn.Module):
    """A backbone with what turns pieces of a clip into its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def load_published(self, weights: dict[str, Tensor], source: str) -> None:
        """Load a published file. Raises CheckpointError if it does not fit."""
        self.network.load_published(weights, source)  # type: ignore[operator]  # every backbone has it


class MarlinPieces(Encoder):
    """RGB of 0 to 1, not normalised."""

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network(frames.permute(0, 4, 1, 2, 3).float() / 255)
        return features[:, None]


class FacePieces(Encoder):
    """As 2D3MF has it: BGR of 0 to 255, which is not how the network was trained."""

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network(frames[:, 0].permute(0, 3, 1, 2).flip(1).float())
        return features[:, None]


class MfccPieces(Encoder):
    """librosa's MFCC: slaney's mel bands, 80 dB of range in a piece."""

    def __init__(self, network: nn.Module, sample_rate_hz: int) -> None:
        super().__init__(network)
        from torchaudio.transforms import MFCC

        options = {"n_fft": 2048, "hop_length": 512, "n_mels": 128, "norm": "slaney", "mel_scale": "slaney",
                   "center": True, "pad_mode": "constant"}  # fmt: skip
        self.mfcc = MFCC(sample_rate_hz, n_mfcc=10, melkwargs=options)

    def forward(self, samples: Tensor) -> Tensor:
        # one piece at a time: torchaudio takes the 80 dB from the loudest of a batch
        coefficients = torch.stack([self.mfcc(piece) for piece in samples])
        features: Tensor = self.network(coefficients)
        return features[:, None]


def marlin_plan(fps: Fraction, num_frames: int) -> Plan:
    """Windows of 16 frames, every second one; a clip of at most 32 frames shows its first 16 without a gap.

    As published, but that a last window which ends with the clip counts, too (the published code drops it).
    A clip of less than 16 frames repeats its last one.
    """
    if num_frames <= MARLIN_SPAN:
        frames = np.minimum(np.arange(MARLIN_FRAMES), num_frames - 1)[None]
        return Plan(frames, MARLIN_SPAN / fps, min(MARLIN_FRAMES, num_frames) / fps, 1)
    starts = np.arange(0, num_frames - MARLIN_SPAN + 1, MARLIN_SPAN)
    frames = starts[:, None] + np.arange(0, MARLIN_SPAN, 2)
    return Plan(frames, MARLIN_SPAN / fps, MARLIN_SPAN / fps, len(starts))


def frame_plan(fps: Fraction, num_frames: int) -> Plan:
    """Every frame by itself."""
    return Plan(np.arange(num_frames)[:, None], 1 / fps, 1 / fps, num_frames)


def second_plan(rate_hz: Fraction, num_samples: int) -> Plan:
    """Whole seconds of sound; less than one is one, with silence after it."""
    count = max(1, num_samples // int(rate_hz))
    return Plan(np.arange(count)[:, None] * int(rate_hz), Fraction(1), Fraction(1), count)


def _marlin(size: str, batch_size: int) -> Backbone:
    return Backbone(
        make=lambda: MarlinPieces(marlin.MarlinEncoder(marlin.SIZES[size])),
        width=marlin.SIZES[size].width,
        weights=Weights(
            f"marlin_vit_{size}_ytf.encoder.pt", "huggingface.co/ControlNet/MARLIN", "CC BY-NC 4.0"
        ),
        plan=marlin_plan,
        batch_size=batch_size,
    )


BACKBONES: dict[str, Backbone] = {
    "marlin_small": _marlin("small", 16),
    "marlin_base": _marlin("base", 8),
    "marlin_large": _marlin("large", 4),
    "efficientface": Backbone(
        make=lambda: FacePieces(efficientface.EfficientFace()),
        width=efficientface.WIDTH,
        weights=Weights(
            "EfficientFace_Trained_on_AffectNet7.pth.tar", "github.com/zengqunzhao/EfficientFace", "MIT"
        ),
        plan=frame_plan,
        batch_size=64,
    ),
    "audio_resnet18": Backbone(
        make=lambda: MfccPieces(audio_resnet18.AudioResNet18(), 44_100),
        width=audio_resnet18.WIDTH,
        weights=Weights(
            "RAVDESS_bs_32_lr_0.001_ep_250_03-30-22-28-29.pth", "github.com/aiden200/2D3MF", "CC BY-NC 4.0"
        ),
        plan=second_plan,
        batch_size=32,
        sample_rate_hz=44_100,
        piece_samples=44_100,
    ),
}
