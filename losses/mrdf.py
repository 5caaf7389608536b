"""The objectives of MRDF and its baselines; every term has weight 1, as in the published code.

    ce      L = CE(clip) + CE(sound) + CE(picture) + contrast
    margin  L = CE(clip) + margin(sound) + margin(picture) + contrast
    avdf    L = CE(clip); _multiclass: over four kinds of clip; _multilabel: BCE over the two modalities;
            _ensemble: CE(sound) + CE(picture)

Means leave out clips, and pairs of clips, with an unknown label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.known import known_bce, mean_of_known
from models.mrdf import MrdfOutput
from utils.config import opt, require_between
from utils.types import ClipBatch

COSINE_FLOOR = 1e-8  # lower bound of the product of two lengths


@dataclass(frozen=True, kw_only=True)
class MrdfLossConfig:
    """losses/mrdf.py: margins; below its margin, the cosine of a pair that should differ adds no loss."""

    margin_contrast: float = opt(0.0, "cosine margin of a clip's picture and sound, if either is fake")
    margin_audio: float = opt(0.0, "cosine margin of a real and a fake sound (variant margin)")
    margin_visual: float = opt(0.0, "cosine margin of a real and a fake picture (variant margin)")

    def __post_init__(self) -> None:
        require_between(self, -1, 1, "margin_contrast", "margin_audio", "margin_visual")


def known_cross_entropy(class_logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy of (B, n) scores over the known (not NaN) classes (B,); 0 without any."""
    known = ~classes.isnan()
    losses = F.cross_entropy(class_logits.float(), classes.nan_to_num().long(), reduction="none")
    return mean_of_known(losses, known)


def similarity_loss(cosines: Tensor, alike: Tensor, margin: float) -> Tensor:
    """Elementwise 1 - cos where `alike`, else the excess of cos over the margin."""
    return torch.where(alike, 1 - cosines, F.relu(cosines - margin))


def cross_modality_contrast(video: Tensor, audio: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean loss over clips: picture and sound should agree in a real clip, and differ in a fake one.

    video, audio: (B, D). labels: (B,), 1 = either is fake, NaN = unknown. Only pairs within a clip count.
    """
    video, audio = video.float(), audio.float()
    lengths = video.norm(dim=1) * audio.norm(dim=1)
    cosines = (video * audio).sum(1) / lengths.clamp_min(COSINE_FLOOR)
    return mean_of_known(similarity_loss(cosines, labels == 0, margin), ~labels.isnan())


def within_modality_margin(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean loss over all ordered pairs of clips with known labels, including each clip with itself.

    Embeddings (B, D) should agree if their labels (B,) are equal, and differ otherwise.
    """
    embeddings = embeddings.float()
    lengths = embeddings.norm(dim=1)
    cosines = embeddings @ embeddings.T / (lengths[:, None] * lengths).clamp_min(COSINE_FLOOR)
    known = ~labels.isnan()
    losses = similarity_loss(cosines, labels[:, None] == labels, margin)
    return mean_of_known(losses, known[:, None] & known)


def kinds_of_clip(batch: ClipBatch) -> Tensor:
    """(B,) 0 = real, 1 = fake picture, 2 = fake sound, 3 = both, NaN = unknown."""
    kinds = batch.video_labels + 2 * batch.audio_labels
    return torch.where(kinds.isnan() & (batch.labels == 0), 0.0, kinds)


class MrdfLoss(nn.Module):
    """criterion(MrdfOutput, ClipBatch) -> {"total", "fused", ...}; every value a scalar."""

    config_type = MrdfLossConfig

    def __init__(self, config: MrdfLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, output: MrdfOutput, batch: ClipBatch) -> dict[str, Tensor]:
        c, variant = self.config, output.variant
        terms: dict[str, Tensor] = {}
        with torch.autocast(output.logits.device.type, enabled=False):  # cosines need float32
            if output.class_logits is not None:
                terms["fused"] = self._fused(output.class_logits, variant, batch)
            if output.video_class_logits is not None and output.audio_class_logits is not None:
                terms["audio"] = known_cross_entropy(output.audio_class_logits, 1 - batch.audio_labels)
                terms["video"] = known_cross_entropy(output.video_class_logits, 1 - batch.video_labels)
            elif output.video_embedding is not None and output.audio_embedding is not None:  # variant margin
                sound, picture = output.audio_embedding, output.video_embedding
                terms["audio"] = within_modality_margin(sound, batch.audio_labels, c.margin_audio)
                terms["video"] = within_modality_margin(picture, batch.video_labels, c.margin_visual)
            if variant in {"ce", "margin"}:
                # picture or sound is fake, even if the clip's label covers only the picture
                is_fake = (batch.video_labels == 1) | (batch.audio_labels == 1)
                fake = torch.where(is_fake, 1.0, batch.labels)
                terms["contrast"] = cross_modality_contrast(
                    output.video_mean, output.audio_mean, fake, c.margin_contrast
                )
        terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    def _fused(self, class_logits: Tensor, variant: str, batch: ClipBatch) -> Tensor:
        if variant == "avdf_multiclass":
            return known_cross_entropy(class_logits, kinds_of_clip(batch))
        if variant != "avdf_multilabel":
            return known_cross_entropy(class_logits, 1 - batch.labels)
        return known_bce(class_logits, 1 - torch.stack([batch.audio_labels, batch.video_labels], dim=1))
