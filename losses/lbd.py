"""Landmark-based distillation (LBD)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def landmark_distillation(
    student: Tensor, teacher: Tensor, padding_mask: Tensor | None, *, temperature: float, reduction: str
) -> Tensor:
    """KL(teacher || student) over D of softmax distributions with `temperature`; no gradient to `teacher`.

    student, teacher: (B, T, D). padding_mask: (B, T), True = no face, left out; None = all frames count.
    reduction "mean": over the valid frames of the batch, 0 without any; does not depend on B or T.
    "sum": over frames, divided by B, like the published code's "batchmean" over (B, T, D); its weight against
    the other terms grows with T. Raises ValueError for another reduction.
    """
    student = F.log_softmax(student.float() / temperature, dim=-1)
    teacher = F.softmax(teacher.detach().float() / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none").sum(dim=-1)  # (B, T)
    if reduction not in {"mean", "sum"}:
        raise ValueError(f"reduction must be mean or sum, got {reduction!r}")
    if padding_mask is not None:
        divergence = divergence.masked_fill(padding_mask, 0.0)
    if reduction == "sum":
        return divergence.sum() / len(divergence)
    num_valid = divergence.numel() if padding_mask is None else (~padding_mask).sum().clamp_min(1)
    return divergence.sum() / num_valid
