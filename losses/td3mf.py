"""The objective of 2D3MF: cross-entropy of real and fake, or of emotions."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import opt, require_at_least
from utils.types import ClipBatch, DetectorOutput

FOCAL_SHARE = 0.25  # of fakes, in the published focal loss


@dataclass(frozen=True, kw_only=True)
class TD3MFLossConfig:
    """losses/td3mf.py: cross-entropy, or a focal loss."""

    focal_gamma: float = opt(
        0.0,
        "focal loss: clips that are told well count less; 0 = all count alike; published, but off: 2",
    )

    def __post_init__(self) -> None:
        require_at_least(self, 0, "focal_gamma")


class TD3MFLoss(nn.Module):
    """criterion(DetectorOutput, ClipBatch) -> {"total": ()}."""

    config_type = TD3MFLossConfig

    def __init__(self, config: TD3MFLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, output: DetectorOutput, batch: ClipBatch) -> dict[str, Tensor]:
        if output.emotion_logits is not None:
            return {"total": F.cross_entropy(output.emotion_logits.float(), batch.labels.long())}
        logits = output.logits.float()
        losses = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
        if gamma := self.config.focal_gamma:
            probs = logits.sigmoid()
            missing = (batch.labels - probs).abs()
            shares = FOCAL_SHARE * batch.labels + (1 - FOCAL_SHARE) * (1 - batch.labels)
            losses = shares * missing**gamma * losses
        return {"total": losses.mean()}
