"""The transformer encoder of wav2vec 2.0, HuBERT and AV-HuBERT: convolutional positions, then layers.

Baevski et al., "wav2vec 2.0", NeurIPS 2020. Module names are those of fairseq's checkpoints, which MRDF's
keep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """Sizes of a Wav2Vec2Encoder and of its layers."""

    feature_dim: int  # D
    num_layers: int
    num_heads: int
    feedforward_dim: int
    norm_first: bool
    position_kernel: int = 128  # steps that the positional convolution spans
    position_groups: int = 16
    dropout: float = 0.0


class PositionConvolution(nn.Module):
    """A grouped convolution over time with normalised weights: (B, D, T) -> (B, D, T).

    weight = weight_g * weight_v / |weight_v|, with the norm taken per tap. An even kernel's last output is
    dropped: step t sees t - kernel/2 to t + kernel/2 - 1.
    """

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        width, self.kernel, self.groups = size.feature_dim, size.position_kernel, size.position_groups
        deviation = math.sqrt(4 / (self.kernel * width))
        weight = torch.randn(width, width // self.groups, self.kernel) * deviation
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        weight = self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)
        positions = F.conv1d(features, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return positions[..., : features.shape[2]]


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, feature_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = nn.Linear(feature_dim, feature_dim)
        self.k_proj = nn.Linear(feature_dim, feature_dim)
        self.v_proj = nn.Linear(feature_dim, feature_dim)
        self.out_proj = nn.Linear(feature_dim, feature_dim)

    def forward(self, features: Tensor, attended: Tensor | None) -> Tensor:
        """features: (B, T, D). attended: (B, 1, 1, T), True = steps to attend to; None = all."""
        query, key, value = (
            projection(features).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, T, D/heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attended, dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual; norms before each or after the sum."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        width, self.norm_first = size.feature_dim, size.norm_first
        self.self_attn = SelfAttention(width, size.num_heads, size.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, size.feedforward_dim)
        self.fc2 = nn.Linear(size.feedforward_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.residual_dropout = nn.Dropout(size.dropout)

    def _feed_forward(self, features: Tensor) -> Tensor:
        return self.residual_dropout(self.fc2(F.gelu(self.fc1(features))))

    def forward(self, features: Tensor, attended: Tensor | None) -> Tensor:
        if self.norm_first:
            normalized = self.self_attn_layer_norm(features)
            features = features + self.residual_dropout(self.self_attn(normalized, attended))
            return features + self._feed_forward(self.final_layer_norm(features))
        mixed = self.residual_dropout(self.self_attn(features, attended))
        features = self.self_attn_layer_norm(features + mixed)
        return self.final_layer_norm(features + self._feed_forward(features))


class Wav2Vec2Encoder(nn.Module):
    """(B, T, D) -> (B, T, D).

    norm_first: norms before each part of a layer and one after the last layer, as AV-HuBERT was trained; else
    norms after each part and one before the first layer.
    """

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        self.norm_first = size.norm_first
        self.pos_conv = nn.Sequential(PositionConvolution(size))
        self.layer_norm = nn.LayerNorm(size.feature_dim)
        self.dropout = nn.Dropout(size.dropout)
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.num_layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, padding_mask: Tensor | None) -> Tensor:
        """padding_mask: (B, T), True = padding, hidden from the other steps; None = no padding."""
        attended = None
        if padding_mask is not None:
            features = features.masked_fill(padding_mask[..., None], 0.0)
            attended = ~padding_mask[:, None, None]
        features = features + F.gelu(self.pos_conv(features.transpose(1, 2))).transpose(1, 2)
        if not self.norm_first:
            features = self.layer_norm(features)
        features = self.dropout(features)
        for layer in self.layers:
            features = layer(features, attended)
        return self.layer_norm(features) if self.norm_first else features
