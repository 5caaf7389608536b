"""Video-audio contrastive terms (InfoNCE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _similarities(video: Tensor, audio: Tensor, temperature: float) -> Tensor:
    """(B, B) float32: cosine of each (B, D) video with each (B, D) audio embedding, over the temperature."""
    with torch.autocast(video.device.type, enabled=False):  # a temperature of 0.07 magnifies bf16 rounding
        return F.normalize(video.float(), dim=-1) @ F.normalize(audio.float(), dim=-1).T / temperature


def contrastive_all_pairs(video: Tensor, audio: Tensor, *, temperature: float) -> Tensor:
    """The published code's term, mean over B: video i matches audio i, real or fake; video-to-audio only."""
    logits = _similarities(video, audio, temperature)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def contrastive_real_pairs(video: Tensor, audio: Tensor, is_real: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE in both directions, with pairs real in both modalities as positives, all others as negatives.

    is_real: (B,) bool. Mean over the real pairs; 0 if the batch has none.
    """
    logits = _similarities(video, audio, temperature)
    if not is_real.any():
        return logits.sum() * 0.0
    diagonal = torch.arange(len(logits), device=logits.device)
    both = F.cross_entropy(logits, diagonal, reduction="none") + F.cross_entropy(
        logits.T, diagonal, reduction="none"
    )
    return both[is_real].mean() / 2
