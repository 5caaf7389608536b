"""A vision transformer over tubelets, the two halves of a masked autoencoder.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", NeurIPS 2022, arXiv 2203.12602. B clips, N tubelets, E the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.position import sinusoid_table

TUBELET = (2, 16, 16)  # frames, rows, columns of a token
NORM_EPS = 1e-6
DETAIL = 6.0  # tried: 1, with which a tiny student was at chance after 150 steps that gave 0.88 with 6


class ViTSize(NamedTuple):
    """Width E, number of blocks and of attention heads."""

    width: int
    depth: int
    heads: int


SIZES = {"small": ViTSize(384, 12, 6), "base": ViTSize(768, 12, 12), "large": ViTSize(1024, 24, 16)}


class ViTBlock(nn.Module):
    """Attention, whose keys have no bias, and an MLP, each after its norm and added to its input.

    drop_path: how often, in training, a clip skips either of the two.
    """

    def __init__(self, width: int, heads: int, norm_eps: float = NORM_EPS, drop_path: float = 0.0) -> None:
        from torchvision.ops import StochasticDepth  # as slow to import as torch itself

        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, norm_eps), nn.LayerNorm(width, norm_eps)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, tokens: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(self.norm1(tokens), self.qkv.weight, bias)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.drop_path(self.proj(attended))
        mixed: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return mixed


class TubeletViT(nn.Module):
    """vit(video) -> (B, N, E) normed tokens of (B, 3, T, S, S), in order of time, rows and columns.

    With a class token (B, 1 + N, E): it comes first and has the first row of the fixed positions, so the
    tubelets' rows are one further than without it. With `visible` (B, N) bool, as many in each clip, only
    those tubelets take part. drop_path is that of the last block and falls linearly to 0 at the first one.
    """

    positions: Tensor  # (1, [1 +] N, E)

    def __init__(
        self,
        size: ViTSize,
        num_frames: int,
        image_size: int,
        *,
        class_token: bool = False,
        norm_eps: float = NORM_EPS,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        lengths = zip((num_frames, image_size, image_size), TUBELET, strict=True)
        self.grid = tuple(length // side for length, side in lengths)
        self.patch_embedding = nn.Conv3d(3, size.width, TUBELET, stride=TUBELET)
        table = sinusoid_table(class_token + math.prod(self.grid), size.width)
        self.register_buffer("positions", table[None], persistent=False)
        if class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, size.width))
        rates = [drop_path * number / max(1, size.depth - 1) for number in range(size.depth)]
        self.blocks = nn.ModuleList(ViTBlock(size.width, size.heads, norm_eps, rate) for rate in rates)
        self.norm = nn.LayerNorm(size.width, norm_eps)

    def forward(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        normed: Tensor = self.norm(self.encoded(video, visible))
        return normed

    def encoded(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """The tokens before the last norm."""
        tokens: Tensor = self.patch_embedding(video).flatten(2).transpose(1, 2)
        tokens = tokens + self.positions[:, -tokens.shape[1] :]
        if visible is not None:
            tokens = tokens[visible].view(len(tokens), -1, tokens.shape[2])
        if hasattr(self, "class_token"):
            first = (self.class_token + self.positions[:, :1]).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([first, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class MaskedDecoder(nn.Module):
    """decoder(tokens, masked) -> tuple of (B, M, outputs[i]) for the M masked places of each clip.

    tokens: (B, [1 +] N - M, E) of the encoder, normed; masked: (B, N) bool, M of each row.
    """

    positions: Tensor

    def __init__(
        self, size: ViTSize, encoder_width: int, num_places: int, outputs: Sequence[int], *, class_token: bool
    ) -> None:
        super().__init__()
        self.project = nn.Linear(encoder_width, size.width, bias=False)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, size.width), std=0.02))
        table = sinusoid_table(class_token + num_places, size.width)
        self.register_buffer("positions", table[None], persistent=False)
        self.blocks = nn.ModuleList(ViTBlock(size.width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, NORM_EPS)
        self.heads = nn.ModuleList(nn.Linear(size.width, width) for width in outputs)

    def forward(self, tokens: Tensor, masked: Tensor) -> tuple[Tensor, ...]:
        count, num_places = masked.shape
        positions = self.positions.expand(count, -1, -1)
        own, places = positions.split([positions.shape[1] - num_places, num_places], dim=1)
        shown = torch.cat([own, places[~masked].view(count, -1, own.shape[2])], dim=1)
        hidden = self.mask_token + places[masked].view(count, -1, own.shape[2])
        tokens = torch.cat([self.project(tokens) + shown, hidden], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens[:, -hidden.shape[1] :])
        return tuple(head(tokens) for head in self.heads)


def tube_masks(
    count: int,
    grid: Sequence[int],
    ratio: float,
    generator: torch.Generator | None = None,
    *,
    first: Tensor | None = None,
) -> Tensor:
    """(count, N) bool, True = masked: int(ratio places) of each clip's places, the same in all time slots.

    grid: (slots, rows, columns). Drawn on the CPU. first: (B, places) bool, those to mask before the others,
    at random where there are too many; with a count of 1 or B, the result is (B, N), on its device.
    """
    slots, places = grid[0], grid[1] * grid[2]
    draws = torch.rand(count, places, generator=generator)
    if first is not None:
        draws = draws.to(first.device) - first.float()
    order = draws.argsort(dim=1)
    masks = torch.zeros_like(draws, dtype=torch.bool)
    masks.scatter_(1, order[:, : int(ratio * places)], True)
    return masks.repeat(1, slots)


def tubelet_pixels(video: Tensor) -> Tensor:
    """(B, N, 1536) pixels of the tubelets of (B, 3, T, S, S): by frames, rows, columns, colour innermost."""
    parts = video
    for dim, side in zip((4, 3, 2), reversed(TUBELET), strict=True):
        parts = parts.unflatten(dim, (-1, side))  # (B, 3, t, 2, h, 16, w, 16) in the end
    return parts.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


def standardised_pixels(pixels: Tensor) -> Tensor:
    """Each tubelet's pixels (..., 1536) standardised by colour: unbiased deviation, plus 1e-6."""
    colours = pixels.unflatten(-1, (-1, 3))
    scaled = (colours - colours.mean(-2, keepdim=True)) / (colours.std(-2, keepdim=True) + 1e-6)
    return scaled.flatten(-2)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Weights of linear layers drawn with deviation 0.02, truncated; their biases 0: for Module.apply()."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def initialise_narrow(vit: TubeletViT) -> None:
    """Weights with which a narrow, untrained transformer sees the detail of its tubelets from the start.

    Linear layers: Glorot's uniform distribution, as in MAE's code (He et al., CVPR 2022); a deviation of 0.02
    is made for 768 inputs, and lets little of 48 through. Neighbouring pixels are alike, so the sum of 512
    random weights is nearly a tubelet's mean colour: what a filter has besides its mean is drawn `DETAIL`
    times larger.
    """
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    weight = vit.patch_embedding.weight
    mean = weight.mean(dim=(2, 3, 4), keepdim=True)  # by colour
    weight.copy_(mean + DETAIL * (weight - mean))
