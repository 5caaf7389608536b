"""Padding, which an exported network has none of."""

from __future__ import annotations

import torch
from torch import Tensor


def real_padding(mask: Tensor | None) -> Tensor | None:
    """`mask` (True = padding), or None if it masks nothing: then the faster way of a layer gives the same.

    While a network is exported always None: it takes windows of one length, and cannot branch on values.
    """
    if mask is None or torch.compiler.is_exporting() or not mask.any():
        return None
    return mask
