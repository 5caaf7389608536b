"""EAT, the Efficient Audio Transformer: 10.24 s of sound -> 64 features.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer", IJCAI 2024, arXiv
2401.03497; published code: cwx-worst-one/EAT. A vision transformer over patches of 16 frames and 16 mel
bands, with a norm in front of the blocks and none after them.

A row is a step of 16 frames: its 8 patches, from low to high, one after the other. The 512 tokens of 768 that
the published script gives of a clip are rows.reshape(512, 768) of a piece's 64 rows.
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
from models.backbones.data2vec import (
    SAMPLE_RATE_HZ,
    WINDOW,
    Block,
    block_renames,
    frame_count,
    known_samples,
)
from models.backbones.published import load_published

PATCH = 16  # frames, and mel bands
BANDS = 128
HOP = 160  # samples from frame to frame
FRAMES = 1024  # of a piece
ROWS = FRAMES // PATCH
MEAN, STD = -4.268, 4.569  # of AudioSet; published: divided by twice the deviation
NORM_EPS = 1e-6
RENAMES = [
    (r"local_encoder\.proj\.", "patches."),
    ("extra_tokens", "summary"),
    (r"context_encoder\.norm\.", "norm."),
    *block_renames("blocks", "blocks"),
]
# the other half of its training, and the fixed positions
IGNORED = r"decoder\.|fixed_positional_encoder\."


class EatSize(NamedTuple):
    """Width E, number of blocks and of attention heads."""

    width: int
    depth: int
    heads: int


BASE = EatSize(768, 12, 12)


class EatEncoder(nn.Module):
    """encoder(frames) -> (B, N, E) of N patches, in order of time and bands: (B, T, M) of T frames, M bands.

    The token that sums up a piece takes part, and is left out of what comes back.
    """

    def __init__(self, size: EatSize, num_frames: int = FRAMES, num_bands: int = BANDS) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, size.width, PATCH, stride=PATCH)
        positions = _positions(num_frames // PATCH, num_bands // PATCH, size.width)
        self.register_buffer("positions", positions, persistent=False)
        self.summary = nn.Parameter(torch.zeros(1, 1, size.width))
        self.norm = nn.LayerNorm(size.width, NORM_EPS)
        self.blocks = nn.ModuleList(Block(size.width, size.heads, NORM_EPS) for _ in range(size.depth))

    def forward(self, frames: Tensor) -> Tensor:
        patches = self.patches(frames[:, None]).flatten(2).transpose(1, 2) + self.positions
        summary = self.summary.expand(len(frames), -1, -1)
        tokens: Tensor = self.norm(torch.cat([summary, patches], dim=1))
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 1:]

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a file of its pretraining. Raises CheckpointError if it does not fit."""
        prefix = "modality_encoders.IMAGE."  # a spectrogram is an image of one channel
        load_published(self, weights, RENAMES, source, prefix=prefix, ignored=IGNORED)


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """(1, rows columns, E): one half for the column, one for the row; of each, half are sines."""
    rates = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    angles = places.flip(1)[:, :, None] * rates  # (N, 2, E / 4)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1).float()[None]


def spectrogram(samples: Tensor, num_frames: int) -> Tensor:
    """(num_frames, 128) log mel energies of (N,) samples, normalised; frames it lacks are 0 before that."""
    from torchaudio.compliance import kaldi

    centred = (samples - samples.mean())[None]
    with torch.autocast(samples.device.type, enabled=False):  # also where the network computes in bf16
        frames = kaldi.fbank(centred, num_mel_bins=BANDS, window_type="hanning", dither=0.0)
    return (F.pad(frames, (0, 0, 0, num_frames - len(frames))) - MEAN) / (2 * STD)


class EatPieces(Encoder):
    """The log mel energies of a piece, and its patches of a step of time in one row."""

    def forward(self, samples: Tensor) -> Tensor:
        frames = [spectrogram(known_samples(piece), FRAMES) for piece in samples]
        tokens: Tensor = self.network(torch.stack(frames))
        return tokens.unflatten(1, (ROWS, -1)).flatten(2)


def eat_plan(rate_hz: Fraction, num_samples: int) -> Plan:
    """Pieces of 1024 frames, so that rows are a regular 0.16 s apart; of the last one all rows, too.

    Published: a clip is cut or filled up to 10 s, and its 998 frames to 1024 without sound. A clip of up to
    10 s is the same here, but without sound where the 2D3MF release has silence; of a longer one nothing is
    cut. Rows after the end stay because 2D3MF's network reads the 512 tokens of a piece
    (--rows_after_end, of its preset `released`).
    """
    count = -(-frame_count(num_samples, HOP) // FRAMES)
    step, length = PATCH * HOP, (PATCH - 1) * HOP + WINDOW
    return Plan(np.arange(count)[:, None] * FRAMES * HOP, step / rate_hz, length / rate_hz, count * ROWS)


BACKBONES = {
    "eat": Backbone(
        make=lambda: EatPieces(EatEncoder(BASE)),
        width=BANDS // PATCH * BASE.width,
        weights=Weights("EAT_pretrained_AS2M.pt", "github.com/cwx-worst-one/EAT", "MIT"),
        plan=eat_plan,
        batch_size=8,
        sample_rate_hz=SAMPLE_RATE_HZ,
        piece_samples=(FRAMES - 1) * HOP + WINDOW,
        after_end=float("nan"),
    )
}
