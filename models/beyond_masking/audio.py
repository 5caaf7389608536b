"""Audio encoder: MFCC (B, C, S) -> features (B, S // 8, D)."""

from __future__ import annotations

import typing
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.normalization import PaddedBatchNorm1d


class AudioEncoder(nn.Module):
    """Three blocks of [Conv1d, batch norm, ReLU, max pool 2]; an output step spans eight MFCC columns.

    The layers are those of the released Beyond-Masking audio extractor. Padded columns are left out of the
    batch norms' statistics and set to 0 before every convolution, so a clip's valid steps do not depend on
    padding.
    """

    columns_per_step = 8

    def __init__(self, num_mfcc: int, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((num_mfcc, *channels), channels, strict=False):
            layers += [
                nn.Conv1d(inputs, outputs, 3, padding=1),
                PaddedBatchNorm1d(outputs),
                nn.ReLU(),
                nn.MaxPool1d(2),
            ]
        self.layers = nn.Sequential(*layers)
        self.out_features = channels[-1]

    def forward(self, mfcc: Tensor, num_columns: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """mfcc: (B, C, S). num_columns: (B,) valid ones, None = all. -> (B, S // 8, D), its padding mask."""
        features, valid = mfcc, num_columns
        padding = _padding(features, valid)
        has_padding = padding is not None and bool(padding.any())
        for layer in self.layers:
            if isinstance(layer, PaddedBatchNorm1d):
                layer.padding = padding if has_padding else None
            if isinstance(layer, nn.MaxPool1d) and torch.compiler.is_exporting():
                # torch pools in one dimension only where the number of columns is known
                features = F.max_pool2d(features[:, :, None], (1, 2))[:, :, 0]
            else:
                features = layer(features)
            if isinstance(layer, nn.MaxPool1d) and valid is not None:
                valid = valid // 2
                padding = _padding(features, valid)
                features = features.masked_fill(padding[:, None], 0.0)
        return features.transpose(1, 2), padding


@typing.overload
def _padding(features: Tensor, valid: Tensor) -> Tensor: ...
@typing.overload
def _padding(features: Tensor, valid: Tensor | None) -> Tensor | None: ...
def _padding(features: Tensor, valid: Tensor | None) -> Tensor | None:
    """(B, C, S) and the number of valid columns (B,), None = all -> (B, S), True = padding; None = none."""
    if valid is None:
        return None
    return torch.arange(features.shape[2], device=features.device) >= valid[:, None]
