"""The objective of a probe: logistic regression."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from utils.types import ClipBatch, DetectorOutput


@dataclass(frozen=True, kw_only=True)
class ProbeLossConfig:
    """losses/probe.py: cross-entropy, without flags; --weight_decay is its penalty."""


class ProbeLoss(nn.Module):
    """criterion(DetectorOutput, ClipBatch) -> {"total": ()}."""

    config_type = ProbeLossConfig

    def __init__(self, config: ProbeLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, output: DetectorOutput, batch: ClipBatch) -> dict[str, Tensor]:
        return {"total": F.binary_cross_entropy_with_logits(output.logits.float(), batch.labels)}
