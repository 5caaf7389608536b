"""The loss of logits of frames, where it is known which of them are forged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def frame_bce(logits: Tensor, labels: Tensor, radius: int, boundary_weight: float) -> Tensor:
    """Binary cross-entropy of (B, T) logits, forged and genuine frames of the batch weighted alike.

    labels: (B, T), 1 = forged, NaN = unknown, left out. Within each kind, frames at most `radius` from one of
    the other kind weigh 1 + `boundary_weight`. A kind that is missing counts nothing; 0 without labels.
    """
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    kinds = [known & (labels == value) for value in (0.0, 1.0)]
    near = [_widened(kind, radius) for kind in reversed(kinds)]
    total = torch.zeros((), device=logits.device)
    for kind, is_near in zip(kinds, near, strict=True):
        weights = kind * (1 + boundary_weight * is_near)
        total = total + (losses * weights).sum() / weights.sum().clamp_min(1) / 2
    return total


def _widened(mask: Tensor, radius: int) -> Tensor:
    """(B, T) as float: whether an entry of (B, T) `mask` at most `radius` away is True."""
    return F.max_pool1d(mask.float()[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]
