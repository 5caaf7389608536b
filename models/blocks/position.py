"""Sinusoidal positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal_positions(positions: Tensor, feature_dim: int) -> Tensor:
    """(T, D) float32 sinusoidal encoding of positions ("Attention Is All You Need", section 3.5).

    positions: (T,), in steps, fractions allowed. `feature_dim` D is even. Even columns hold sines, odd ones
    cosines.
    """
    even = torch.arange(0, feature_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = torch.exp(even * (-math.log(10_000.0) / feature_dim))
    angles = positions.float()[:, None] * frequencies  # (T, D/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (T, D)


def sinusoid_table(count: int, feature_dim: int) -> Tensor:
    """(N, D) float32 `sinusoidal_positions` of 0 to N - 1, computed in float64."""
    columns = torch.arange(feature_dim, dtype=torch.float64)
    rates = 10_000.0 ** (-2 * (columns // 2) / feature_dim)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()
