"""Means over time that know about padding."""

from __future__ import annotations

from torch import Tensor


def masked_mean(features: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Mean over the valid steps: (B, T, D) with its padding mask (B, T), None = no padding -> (B, D)."""
    if padding_mask is None:
        return features.mean(dim=1)
    valid = (~padding_mask).to(features.dtype)[..., None]
    return (features * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1.0)
