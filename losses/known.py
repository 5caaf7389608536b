"""Means over what is known: labels that are NaN, and what is masked, are left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_of_known(losses: Tensor, known: Tensor) -> Tensor:
    """Mean of the losses that are `known` (bool, same shape); 0 without any."""
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp_min(1)


def known_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits over the known labels (same shape, not NaN); 0 without any."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    return mean_of_known(losses, ~labels.isnan())
