"""Landmark-based distillation (LBD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.known import mean_of_known


def landmark_distillation(
    student: Tensor, teacher: Tensor, padding_mask: Tensor | None, *, temperature: float, reduction: str
) -> Tensor:
    """KL(teacher || student) over D of softmax distributions with `temperature`; no gradient to `teacher`.

    student, teacher: (B, T, D). padding_mask: (B, T), True = no face, left out; None = all frames count.
    reduction "mean": over the valid frames of the batch, 0 without any; does not depend on B or T.
    "sum": over frames, divided by B, like the published code's "batchmean" over (B, T, D); its weight against
    the other terms grows with T.
    """
    student = F.log_softmax(student.float() / temperature, dim=-1)
    teacher = F.softmax(teacher.detach().float() / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none").sum(dim=-1)  # (B, T)
    counted = torch.ones_like(divergence, dtype=torch.bool) if padding_mask is None else ~padding_mask
    if reduction == "sum":
        return torch.where(counted, divergence, 0.0).sum() / len(divergence)
    return mean_of_known(divergence, counted)
