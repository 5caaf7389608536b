"""MARLIN's video encoder: 16 frames of a face -> one feature.

Cai et al., "MARLIN: Masked Autoencoder for facial video Representation LearnINg", CVPR 2023, arXiv
2211.06627; published code: ControlNet/MARLIN, c9d5698. A vision transformer over tubelets of 2x16x16 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.backbone import Backbone, Encoder, Plan, Weights
from models.backbones.published import load_published

TUBELET = (2, 16, 16)  # frames, rows, columns of a token
SPAN = 32  # frames between the beginnings of two windows
FRAMES = 16  # every second one of them


class MarlinSize(NamedTuple):
    """Width E, number of blocks and of attention heads."""

    width: int
    depth: int
    heads: int


SIZES = {"small": MarlinSize(384, 12, 6), "base": MarlinSize(768, 12, 12), "large": MarlinSize(1024, 24, 16)}
RENAMES = [
    (r"patch_embedding\.projection\.", "patch_embedding."),
    (r"(blocks\.\d+)\.attn\.", r"\1."),
    (r"(blocks\.\d+\.mlp)\.layers\.0\.linear\.", r"\1.0."),
    (r"(blocks\.\d+\.mlp)\.layers\.1\.linear\.", r"\1.2."),
]
# the other half of its training, and the fixed positions
IGNORED = r"decoder\.|enc_dec_proj\.|discriminator|pos_embedding\."


class MarlinEncoder(nn.Module):
    """encoder(video) -> (B, E) features of windows: (B, 3, 16, 224, 224) RGB in [0, 1], not normalised."""

    def __init__(self, size: MarlinSize, num_frames: int = 16, image_size: int = 224) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(3, size.width, TUBELET, stride=TUBELET)
        grid = (num_frames // TUBELET[0]) * (image_size // TUBELET[1]) * (image_size // TUBELET[2])
        self.register_buffer("positions", _positions(grid, size.width), persistent=False)
        self.blocks = nn.ModuleList(_Block(size.width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, video: Tensor) -> Tensor:
        features: Tensor = self.norm(self._blocks(video).mean(dim=1))
        return features

    def tokens(self, video: Tensor) -> Tensor:
        """(B, N, E) of N tubelets, in order of time, rows and columns."""
        tokens: Tensor = self.norm(self._blocks(video))
        return tokens

    def _blocks(self, video: Tensor) -> Tensor:
        tokens: Tensor = self.patch_embedding(video).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a published file, `.encoder.pt` or `.full.pt`. Raises CheckpointError if it does not fit."""
        load_published(self, weights, RENAMES, source, prefix="encoder.", ignored=IGNORED)


class _Block(nn.Module):
    """Attention, whose keys have no bias, and an MLP, each after its norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(self.norm1(tokens), self.qkv.weight, bias)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.proj(attended)
        return tokens + self.mlp(self.norm2(tokens))


def _positions(count: int, width: int) -> Tensor:
    """(1, N, E): column j holds the sine (even j) or cosine of n / 10000^(2 floor(j / 2) / E)."""
    columns = torch.arange(width, dtype=torch.float64)
    rates = 10_000.0 ** (-2 * (columns // 2) / width)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()[None]


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
