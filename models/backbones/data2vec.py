"""What the encoders of sound that were trained as data2vec 2.0 is have in common.

Baevski, Babu, Hsu and Auli, "Efficient Self-supervised Learning with Contextualized Target Representations",
2022, arXiv 2212.07525; keys as in facebookresearch/fairseq, examples/data2vec.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE_HZ = 16_000
WINDOW = 400  # samples that a frame sees, 25 ms


class Block(nn.Module):
    """block(tokens) -> (B, N, E): attention and an MLP, each added to its input, and then the norm.

    bias: (1, H, N, N), added to the products of queries and keys of H heads.
    """

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, norm_eps), nn.LayerNorm(width, norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        tokens = self.norm1(tokens + self.proj(attended))
        normed: Tensor = self.norm2(tokens + self.mlp(tokens))
        return normed


def block_renames(published: str, own: str) -> list[tuple[str, str]]:
    """Renames, see load_published(), of the blocks that lie at `published` in a file and at `own` here."""
    parts = {r"attn\.": "", r"mlp\.fc1\.": "mlp.0.", r"mlp\.fc2\.": "mlp.2.", "norm": "norm"}
    return [(rf"{published}\.(\d+)\.{theirs}", rf"{own}.\1.{ours}") for theirs, ours in parts.items()]


def known_samples(piece: Tensor) -> Tensor:
    """(N',) samples of a piece (N,) that ends in NaN after the clip; at least a WINDOW, with silence."""
    count = max(WINDOW, int((~piece.isnan()).sum()))
    return piece[:count].nan_to_num()


def frame_count(num_samples: int, hop: int) -> int:
    """How many whole windows a clip has, one every `hop` samples; at least one."""
    return max(1, 1 + (num_samples - WINDOW) // hop)
