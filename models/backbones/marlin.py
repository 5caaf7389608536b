"""MARLIN's video encoder: 16 frames of a face -> one feature.

Cai et al., "MARLIN: Masked Autoencoder for facial video Representation LearnINg", CVPR 2023, arXiv
2211.06627; published code: ControlNet/MARLIN, c9d5698. A vision transformer over tubelets of 2x16x16 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from torch import Tensor

from models.backbones.backbone import Backbone, Encoder, Plan, Weights
from models.backbones.published import load_published
from models.blocks.vit import SIZES, TubeletViT, ViTSize

SPAN = 32  # frames between the beginnings of two windows
FRAMES = 16  # every second one of them
NORM_EPS = 1e-5
RENAMES = [
    (r"patch_embedding\.projection\.", "patch_embedding."),
    (r"(blocks\.\d+)\.attn\.", r"\1."),
    (r"(blocks\.\d+\.mlp)\.layers\.0\.linear\.", r"\1.0."),
    (r"(blocks\.\d+\.mlp)\.layers\.1\.linear\.", r"\1.2."),
]
# the other half of its training, and the fixed positions
IGNORED = r"decoder\.|enc_dec_proj\.|discriminator|pos_embedding\."


class MarlinEncoder(TubeletViT):
    """encoder(video) -> (B, E) features of windows: (B, 3, 16, 224, 224) RGB in [0, 1], not normalised."""

    def __init__(self, size: ViTSize, num_frames: int = 16, image_size: int = 224) -> None:
        super().__init__(size, num_frames, image_size, norm_eps=NORM_EPS)

    def forward(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        features: Tensor = self.norm(self.encoded(video, visible).mean(dim=1))
        return features

    def tokens(self, video: Tensor) -> Tensor:
        """(B, N, E) of N tubelets, in order of time, rows and columns."""
        return super().forward(video)

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a published file, `.encoder.pt` or `.full.pt`. Raises CheckpointError if it does not fit."""
        load_published(self, weights, RENAMES, source, prefix="encoder.", ignored=IGNORED)


class MarlinPieces(Encoder):
    """RGB of 0 to 1, not normalised."""

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network(frames.permute(0, 4, 1, 2, 3).float() / 255)
        return features[:, None]


def marlin_plan(fps: Fraction, num_frames: int) -> Plan:
    """Windows of 16 frames, every second one; a clip of at most 32 frames shows its first 16 without a gap.

    As published, but that a last window which ends with the clip counts, too (the published code drops it).
    A clip of less than 16 frames repeats its last one.
    """
    if num_frames <= SPAN:
        frames = np.minimum(np.arange(FRAMES), num_frames - 1)[None]
        return Plan(frames, SPAN / fps, min(FRAMES, num_frames) / fps, 1)
    starts = np.arange(0, num_frames - SPAN + 1, SPAN)
    frames = starts[:, None] + np.arange(0, SPAN, 2)
    return Plan(frames, SPAN / fps, SPAN / fps, len(starts))


def _backbone(size: str, batch_size: int) -> Backbone:
    return Backbone(
        make=lambda: MarlinPieces(MarlinEncoder(SIZES[size])),
        width=SIZES[size].width,
        weights=Weights(
            f"marlin_vit_{size}_ytf.encoder.pt", "huggingface.co/ControlNet/MARLIN", "CC BY-NC 4.0"
        ),
        plan=marlin_plan,
        batch_size=batch_size,
    )


BACKBONES = {
    "marlin_small": _backbone("small", 16),
    "marlin_base": _backbone("base", 8),
    "marlin_large": _backbone("large", 4),
}
