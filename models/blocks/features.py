"""Cached features of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.types import ClipBatch


def feature_rows(batch: ClipBatch, name: str) -> list[Tensor]:
    """(S, D) rows of each clip's cached features, without padding."""
    values, masks = batch.features[name], batch.feature_padding_masks[name]
    return [rows[~mask] for rows, mask in zip(values, masks, strict=True)]


def over_clips(function: Callable[[Tensor], Tensor], batch: ClipBatch, name: str) -> Tensor:
    """function((B, S, D)) of the clips' cached features, each clip by itself, since their S may differ.

    While a network is exported all clips at once: nothing is padded then.
    """
    if torch.compiler.is_exporting():
        return function(batch.features[name])
    return torch.cat([function(rows[None]) for rows in feature_rows(batch, name)])


def parts_of_rows(num_rows: int, num_parts: int, like: Tensor) -> Tensor:
    """(num_parts, num_rows) weights whose product with rows is what adaptive average pooling makes of them.

    Part i is the mean of rows floor(i S / n) to ceil((i + 1) S / n).
    """
    part = torch.arange(num_parts, device=like.device)[:, None]
    row = torch.arange(num_rows, device=like.device)
    inside = ((row + 1) * num_parts > part * num_rows) & (row * num_parts < (part + 1) * num_rows)
    weights = inside.to(like)
    return weights / weights.sum(dim=1, keepdim=True)
