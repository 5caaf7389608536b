"""Normalisation that knows about padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StepNorm(nn.BatchNorm1d):
    """Batch norm over all valid steps of the batch: (B, T, D) with its padding mask (B, T) -> (B, T, D), 0 at
    padding.

    Encoder features are averages over a whole picture: what differs between clips is small beside their
    common mean, and smaller still beside the positions that are added to them. Standardised over the batch,
    it is what the transformers see.
    """

    def forward(self, features: Tensor, padding_mask: Tensor | None) -> Tensor:
        if padding_mask is None or not padding_mask.any():
            return super().forward(features.flatten(0, 1)).view_as(features)
        normalized = torch.zeros_like(features)
        valid = ~padding_mask
        normalized[valid] = super().forward(features[valid]).to(features.dtype)
        return normalized
