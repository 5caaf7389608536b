"""Cached features of a batch."""

from __future__ import annotations

from torch import Tensor

from utils.types import ClipBatch


def feature_rows(batch: ClipBatch, name: str) -> list[Tensor]:
    """(S, D) rows of each clip's cached features, without padding."""
    values, masks = batch.features[name], batch.feature_padding_masks[name]
    return [rows[~mask] for rows, mask in zip(values, masks, strict=True)]
