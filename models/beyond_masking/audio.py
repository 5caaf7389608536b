"""Audio encoder: MFCC (B, C, S) -> features (B, S // 8, D)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AudioEncoder(nn.Module):
    """Three blocks of [Conv1d, batch norm, ReLU, max pool 2]; an output step spans eight MFCC columns.

    The layers are those of the released Beyond-Masking audio extractor. Padded columns are set to 0 before
    every convolution, so a clip's valid steps do not depend on padding.
    """

    columns_per_step = 8

    def __init__(self, num_mfcc: int, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((num_mfcc, *channels), channels, strict=False):
            layers += [
                nn.Conv1d(inputs, outputs, 3, padding=1),
                nn.BatchNorm1d(outputs),
                nn.ReLU(),
                nn.MaxPool1d(2),
            ]
        self.layers = nn.Sequential(*layers)
        self.out_features = channels[-1]

    def forward(self, mfcc: Tensor, num_columns: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """mfcc: (B, C, S). num_columns: (B,) valid ones, None = all. -> (B, S // 8, D), its padding mask."""
        features, valid, padding = mfcc, num_columns, None
        for layer in self.layers:
            features = layer(features)
            if valid is None:
                continue
            if isinstance(layer, nn.MaxPool1d):
                valid = valid // 2
            if isinstance(layer, (nn.BatchNorm1d, nn.MaxPool1d)):
                padding = torch.arange(features.shape[2], device=features.device) >= valid[:, None]
                features = features.masked_fill(padding[:, None], 0.0)
        return features.transpose(1, 2), padding
