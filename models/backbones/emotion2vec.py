"""emotion2vec: a second of speech -> one feature, or 50 frames a second.

Ma et al., "emotion2vec: Self-Supervised Pre-Training for Speech Emotion Representation", Findings of the ACL
2024, arXiv 2312.15185; published code: ddlBoJack/emotion2vec, and modelscope/FunASR, models/emotion2vec.
Convolutions over samples, then convolutions that tell of positions, and two stacks of blocks whose attention
falls with the distance of two frames (ALiBi, with a learnt scale for each head).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.backbone import Backbone, Encoder, Plan, Weights, second_plan
from models.backbones.data2vec import (
    SAMPLE_RATE_HZ,
    WINDOW,
    Block,
    block_renames,
    frame_count,
    known_samples,
)
from models.backbones.published import load_published

KERNELS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # size and stride, of samples
HOP = math.prod(stride for _, stride in KERNELS)  # samples from frame to frame
POSITION_LAYERS, POSITION_KERNEL, POSITION_GROUPS = 5, 19, 16
EXTRA_TOKENS = 10
FRAMES = 1000  # of a piece of sound, 20 s: the longest in the settings of data2vec 2.0
RENAMES = [
    (r"local_encoder\.conv_layers\.(\d)\.0\.", r"layers.\1.conv."),
    (r"local_encoder\.conv_layers\.(\d)\.2\.1\.", r"layers.\1.norm."),
    (r"project_features\.1\.", "project.0."),
    (r"project_features\.2\.", "project.1."),
    *(
        (rf"relative_positional_encoder\.{layer + 1}\.0\.", f"positions.{layer}.conv.")
        for layer in range(POSITION_LAYERS)
    ),
    (r"context_encoder\.norm\.", "norm."),
    *block_renames(r"context_encoder\.blocks", "first_blocks"),
    *block_renames("blocks", "blocks"),
]
IGNORED = r"decoder\."  # the other half of its training


class Emotion2vecSize(NamedTuple):
    """Width E, number of blocks of both stacks and of attention heads, channels of the convolutions."""

    width: int
    first_depth: int
    depth: int
    heads: int
    channels: int


BASE = Emotion2vecSize(768, 4, 8, 12, 512)


class Emotion2vecEncoder(nn.Module):
    """encoder(samples) -> (B, T, E) of T frames: (B, N) at 16 kHz, normalised, N >= 400."""

    def __init__(self, size: Emotion2vecSize) -> None:
        super().__init__()
        width, channels = size.width, size.channels
        self.layers = nn.ModuleList(
            _NormedConv(nn.Conv1d(channels if layer else 1, channels, kernel, stride, bias=False))
            for layer, (kernel, stride) in enumerate(KERNELS)
        )
        self.project = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        kernel, padding = POSITION_KERNEL, POSITION_KERNEL // 2
        places = (
            nn.Conv1d(width, width, kernel, padding=padding, groups=POSITION_GROUPS)
            for _ in range(POSITION_LAYERS)
        )
        self.positions = nn.Sequential(*(_NormedConv(conv, affine=False) for conv in places))
        self.extra_tokens = nn.Parameter(torch.zeros(1, EXTRA_TOKENS, width))
        self.alibi_scale = nn.Parameter(torch.ones(1, 1, size.heads, 1, 1))
        self.norm = nn.LayerNorm(width)
        self.first_blocks = nn.ModuleList(Block(width, size.heads, 1e-5) for _ in range(size.first_depth))
        self.blocks = nn.ModuleList(Block(width, size.heads, 1e-5) for _ in range(size.depth))

    def forward(self, samples: Tensor) -> Tensor:
        channels = samples[:, None]
        for layer in self.layers:
            channels = layer(channels)
        frames = self.project(channels.transpose(1, 2))
        frames = frames + self.positions(frames.transpose(1, 2)).transpose(1, 2)
        bias = alibi(frames.shape[1], self.alibi_scale[0, 0, :, 0, 0])
        tokens: Tensor = torch.cat([self.extra_tokens.expand(len(frames), -1, -1), frames], dim=1)
        tokens = self.norm(tokens)
        for block in (*self.first_blocks, *self.blocks):
            tokens = block(tokens, bias)
        return tokens[:, EXTRA_TOKENS:]

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load the published file. Raises CheckpointError if it does not fit."""
        load_published(self, weights, RENAMES, source, prefix="modality_encoders.AUDIO.", ignored=IGNORED)


class _NormedConv(nn.Module):
    """layer(x) -> (B, C, T'): a convolution, a norm over the channels, and GELU."""

    def __init__(self, conv: nn.Conv1d, *, affine: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.LayerNorm(conv.out_channels, elementwise_affine=affine)

    def forward(self, channels: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(channels).transpose(1, 2)).transpose(1, 2))


def alibi(num_frames: int, scale: Tensor) -> Tensor:
    """(1, H, N, N): minus the distance of two frames times the slope and scale (H,) of each head.

    0 from and to the extra tokens, which come first. Press, Smith and Lewis, "Train Short, Test Long", ICLR
    2022; the slopes of a number of heads that is not a power of 2 are those of its published code.
    """
    heads = len(scale)
    power = 2 ** int(math.log2(heads))
    exponents = [(head + 1) / power for head in range(power)]
    exponents += [(head + 0.5) / power for head in range(heads - power)]
    slopes = 2 ** (-8 * torch.tensor(exponents, device=scale.device))
    places = torch.arange(num_frames, device=scale.device)
    distances = (places[:, None] - places).abs()
    bias = -distances * (slopes * scale.clamp_min(0))[:, None, None]
    return F.pad(bias, (EXTRA_TOKENS, 0, EXTRA_TOKENS, 0))[None]


class SecondPieces(Encoder):
    """A second, normalised as a whole, and the mean of its frames: the published "utterance" of it."""

    def forward(self, samples: Tensor) -> Tensor:
        frames: Tensor = self.network(F.layer_norm(samples, samples.shape[1:]))
        return frames.mean(dim=1, keepdim=True)


class FramePieces(Encoder):
    """All frames of a piece, up to the end of the clip, one piece at a time: attention sees no padding."""

    def forward(self, samples: Tensor) -> Tensor:
        rows = []
        for piece in samples:
            known = known_samples(piece)
            frames: Tensor = self.network(F.layer_norm(known, known.shape)[None])[0]
            rows.append(F.pad(frames, (0, 0, 0, FRAMES - len(frames))))
        return torch.stack(rows)


def frames_plan(rate_hz: Fraction, num_samples: int) -> Plan:
    """Pieces of 20 s, a row for each frame of 25 ms, 50 a second."""
    num_rows = frame_count(num_samples, HOP)
    starts = np.arange(-(-num_rows // FRAMES))[:, None] * FRAMES * HOP
    return Plan(starts, HOP / rate_hz, WINDOW / rate_hz, num_rows)


WEIGHTS = Weights(
    "emotion2vec_base.pt", "huggingface.co/emotion2vec/emotion2vec_base", "FunASR Model License 1.1"
)
BACKBONES = {
    "emotion2vec": Backbone(
        make=lambda: SecondPieces(Emotion2vecEncoder(BASE)),
        width=BASE.width,
        weights=WEIGHTS,
        plan=second_plan,
        batch_size=16,
        sample_rate_hz=SAMPLE_RATE_HZ,
        piece_samples=SAMPLE_RATE_HZ,
    ),
    "emotion2vec_frames": Backbone(
        make=lambda: FramePieces(Emotion2vecEncoder(BASE)),
        width=BASE.width,
        weights=WEIGHTS,
        plan=frames_plan,
        batch_size=1,
        sample_rate_hz=SAMPLE_RATE_HZ,
        piece_samples=(FRAMES - 1) * HOP + WINDOW,
        after_end=float("nan"),
    ),
}
