"""The weighted total of Beyond-Masking: classification, landmark distillation (LBD), contrastive term (MTIA).

    L = (1 - alpha) * BCE + alpha * (KL_video + beta * KL_audio + gamma * contrastive)

as weighted in the published code. The corrected preset adds a BCE per modality head to the first term, and
the landmark teacher's reconstruction loss to the second; --frame_head adds a BCE of frames to the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from losses.contrastive import contrastive_all_pairs, contrastive_real_pairs
from losses.frames import frame_bce
from losses.known import known_bce, mean_of_known
from losses.lbd import landmark_distillation
from models.beyond_masking import BeyondMaskingOutput
from models.beyond_masking.landmark import LandmarkReconstruction
from utils.config import opt, require_above, require_at_least, require_between
from utils.types import ClipBatch

BOUNDARY_S = 0.08  # frames that near to an end of a forged segment are next to it


@dataclass(frozen=True, kw_only=True)
class BeyondMaskingLossConfig:
    """losses/beyond_masking.py: weights and temperatures of the objective."""

    auxiliary_weight: float = opt(
        0.8, "weight of LBD and contrastive term, 0..1; BCE has the rest (alpha in the paper)"
    )
    lbd_audio_weight: float = opt(0.5, "weight of the audio student's KL (beta in the paper)")
    contrastive_weight: float = opt(0.5, "weight of the contrastive term (gamma in the paper)")
    lbd_temperature: float = opt(0.1, "softmax temperature of teacher and students")
    contrastive_temperature: float = opt(0.07, "temperature of the contrastive similarities")
    lbd_reduction: str = opt(
        "mean", "KL over valid frames: mean, or sum (published code)", choices=("mean", "sum")
    )
    contrastive_pairs: str = opt(
        "real", "positive pairs: real in both modalities, or all (published code)", choices=("real", "all")
    )
    modality_weight: float = opt(
        0.5, "weight of each modality head's BCE relative to the clip's; unknown labels are ignored"
    )
    reconstruction_weight: float = opt(1.0, "weight of the landmark teacher's own reconstruction loss")
    frame_weight: float = opt(1.0, "with --frame_head: weight of its BCE relative to the clip's")
    boundary_weight: float = opt(
        1.0, "with --frame_head: extra weight of frames next to the beginning or end of a forged segment"
    )

    def __post_init__(self) -> None:
        require_between(self, 0, 1, "auxiliary_weight")
        require_above(self, 0, "lbd_temperature", "contrastive_temperature")
        require_at_least(self, 0, "frame_weight", "boundary_weight")


class BeyondMaskingLoss(nn.Module):
    """criterion(BeyondMaskingOutput, ClipBatch) -> {"total", "bce", ...}; only `total` is weighted."""

    config_type = BeyondMaskingLossConfig

    def __init__(self, config: BeyondMaskingLossConfig) -> None:
        super().__init__()
        self.config = config
        self.auxiliary_weights = {
            "video_lbd": 1.0,
            "audio_lbd": config.lbd_audio_weight,
            "contrastive": config.contrastive_weight,
            "reconstruction": config.reconstruction_weight,
        }

    def forward(self, output: BeyondMaskingOutput, batch: ClipBatch) -> dict[str, Tensor]:
        c = self.config
        terms = {"bce": known_bce(output.logits, batch.labels)}
        if output.video_logits is not None:
            terms["video_bce"] = known_bce(output.video_logits, batch.video_labels)
        if output.audio_logits is not None:
            terms["audio_bce"] = known_bce(output.audio_logits, batch.audio_labels)
        heads = [term for name, term in terms.items() if name != "bce"]
        classification = terms["bce"] + c.modality_weight * sum(heads)
        if output.frame_logits is not None and batch.forged_frames is not None:
            labels, radius = batch.forged_frames, max(1, round(BOUNDARY_S * batch.video_fps))
            terms["frame_bce"] = frame_bce(output.frame_logits, labels, radius, c.boundary_weight)
            classification = classification + c.frame_weight * terms["frame_bce"]

        mask = output.landmark_padding_mask
        students = {"video_lbd": output.video_prediction, "audio_lbd": output.audio_prediction}
        for name, prediction in students.items():
            if prediction is not None and output.landmark_target is not None:
                terms[name] = landmark_distillation(
                    prediction,
                    output.landmark_target,
                    mask,
                    temperature=c.lbd_temperature,
                    reduction=c.lbd_reduction,
                )
        if output.video_embedding is not None and output.audio_embedding is not None:
            terms["contrastive"] = self._contrastive(output.video_embedding, output.audio_embedding, batch)
        if output.reconstruction is not None:
            terms["reconstruction"] = reconstruction_error(output.reconstruction, mask)
        auxiliary = torch.zeros((), device=output.logits.device)
        for name, weight in self.auxiliary_weights.items():
            if name in terms:
                auxiliary = auxiliary + weight * terms[name]
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
    return mean_of_known(errors, counted)
