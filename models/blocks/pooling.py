"""Means over time that leave padding out."""

from __future__ import annotations

from torch import Tensor


def masked_mean(features: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Mean (B, D) over the valid steps of (B, T, D). padding_mask: (B, T), True = padding; None = none."""
    if padding_mask is None:
        return features.mean(dim=1)
    valid = (~padding_mask).to(features.dtype)[..., None]
    return (features * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1.0)
