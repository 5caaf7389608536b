"""A logit for every frame: where, in time, is the forgery?"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrameHead(nn.Module):
    """Fused stream and both encoders' features at the frame's own time, each (B, T, D) -> logits (B, T).

    The streams after attention see the whole window and mix it; the encoders' features say what is there at
    this very moment. A convolution over `NUM_FRAMES` frames compares them with those next to them.
    """

    NUM_FRAMES = 5

    def __init__(self, feature_dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3 * feature_dim, feature_dim, self.NUM_FRAMES, padding=self.NUM_FRAMES // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv1d(feature_dim, 1, 1),
        )

    def forward(self, fused: Tensor, video: Tensor, audio: Tensor, padding_mask: Tensor | None) -> Tensor:
        """padding_mask: (B, T), True = padding; None = no padding."""
        features = torch.cat([fused, video, audio], dim=2)  # (B, T, 3 * D)
        if padding_mask is not None:
            features = features.masked_fill(padding_mask[..., None], 0.0)
        logits: Tensor = self.layers(features.transpose(1, 2)).squeeze(1)
        return logits
