"""The weighted total of Beyond-Masking: classification, landmark distillation (LBD), contrastive term (MTIA).

    L = (1 - alpha) * BCE + alpha * (KL_video + beta * KL_audio + gamma * contrastive)

as weighted in the published code. The corrected preset adds a BCE per modality head to the first term, and
the landmark teacher's reconstruction loss to the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.contrastive import contrastive_all_pairs, contrastive_real_pairs
from losses.lbd import landmark_distillation
from models.beyond_masking import BeyondMaskingOutput
from models.beyond_masking.landmark import LandmarkReconstruction
from utils.config import opt
from utils.types import ClipBatch


@dataclass(frozen=True, kw_only=True)
class BeyondMaskingLossConfig:
    """losses/beyond_masking.py: weights and temperatures of the objective."""

    auxiliary_weight: float = opt(
        0.8, "weight of LBD and contrastive term, 0..1; BCE has the rest (alpha in the paper)"
    )
    lbd_audio_weight: float = opt(0.5, "weight of the audio student's KL (beta in the paper)")
    contrastive_weight: float = opt(
        0.5, "weight of the contrastive term within the auxiliary loss (gamma in the paper)"
    )
    lbd_temperature: float = opt(0.1, "softmax temperature of teacher and students")
    contrastive_temperature: float = opt(0.07, "temperature of the contrastive similarities")
    lbd_reduction: str = opt(
        "mean", "KL over valid frames: mean, or sum (published code)", choices=("mean", "sum")
    )
    contrastive_pairs: str = opt(
        "real",
        "positive pairs: those real in both modalities, or all (published code)",
        choices=("real", "all"),
    )
    modality_weight: float = opt(
        0.5, "weight of each modality head's BCE relative to the clip's; unknown labels are ignored"
    )
    reconstruction_weight: float = opt(1.0, "weight of the landmark teacher's own reconstruction loss")

    def __post_init__(self) -> None:
        if not 0 <= self.auxiliary_weight <= 1:
            raise ValueError(f"auxiliary_weight must be in [0, 1], got {self.auxiliary_weight}")
        for name in ("lbd_temperature", "contrastive_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


def known_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of (B,) logits over the known labels (not NaN); 0 if all are unknown."""
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)


class BeyondMaskingLoss(nn.Module):
    """criterion(BeyondMaskingOutput, ClipBatch) -> {"total", "bce", ...}; only `total` is weighted."""

    config_type = BeyondMaskingLossConfig

    def __init__(self, config: BeyondMaskingLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, output: BeyondMaskingOutput, batch: ClipBatch) -> dict[str, Tensor]:
        c = self.config
        terms = {"bce": known_bce(output.logits, batch.labels)}
        classification = terms["bce"]
        for name in ("video", "audio"):
            logits = getattr(output, f"{name}_logits")
            if logits is not None:
                terms[f"{name}_bce"] = known_bce(logits, getattr(batch, f"{name}_labels"))
        if heads := [terms[name] for name in ("video_bce", "audio_bce") if name in terms]:
            classification = classification + c.modality_weight * sum(heads)

        auxiliary = torch.zeros((), device=output.logits.device)
        predictions = {"video": output.video_prediction, "audio": output.audio_prediction}
        for (name, prediction), weight in zip(predictions.items(), (1.0, c.lbd_audio_weight), strict=True):
            if prediction is not None:
                assert output.landmark_target is not None  # students have a teacher
                mask = output.landmark_padding_mask
                terms[f"{name}_lbd"] = landmark_distillation(
                    prediction,
                    output.landmark_target,
                    mask,
                    temperature=c.lbd_temperature,
                    reduction=c.lbd_reduction,
                )
                auxiliary = auxiliary + weight * terms[f"{name}_lbd"]
        if output.video_embedding is not None and output.audio_embedding is not None:
            terms["contrastive"] = self._contrastive(output.video_embedding, output.audio_embedding, batch)
            auxiliary = auxiliary + c.contrastive_weight * terms["contrastive"]
        if output.reconstruction is not None:
            terms["reconstruction"] = reconstruction_error(
                output.reconstruction, output.landmark_padding_mask
            )
            auxiliary = auxiliary + c.reconstruction_weight * terms["reconstruction"]
        terms["total"] = (1 - c.auxiliary_weight) * classification + c.auxiliary_weight * auxiliary
        return terms

    def _contrastive(self, video: Tensor, audio: Tensor, batch: ClipBatch) -> Tensor:
        temperature = self.config.contrastive_temperature
        if self.config.contrastive_pairs == "all":
            return contrastive_all_pairs(video, audio, temperature=temperature)
        is_real = (batch.video_labels == 0) & (batch.audio_labels == 0)
        return contrastive_real_pairs(video, audio, is_real, temperature=temperature)


def reconstruction_error(reconstruction: LandmarkReconstruction, padding_mask: Tensor | None) -> Tensor:
    """Mean squared error of the hidden landmarks over the frames with a face."""
    errors = (reconstruction.prediction.float() - reconstruction.target).square().mean(dim=-1)  # (B, T, L)
    counted = reconstruction.hidden.expand_as(errors)
    if padding_mask is not None:
        counted = counted & ~padding_mask[..., None]
    return (errors * counted).sum() / counted.sum().clamp_min(1)
