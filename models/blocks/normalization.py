"""Normalisation that knows about padding, and about other processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from models.blocks.padding import real_padding


class StepNorm(nn.BatchNorm1d):
    """Batch norm over the valid steps of a batch: (B, T, D) -> (B, T, D), 0 at padding.

    padding_mask: (B, T), True = padding; None = no padding. Encoder features are means over whole pictures:
    clips differ little compared with their common mean, and with the positions added later.
    """

    def forward(  # type: ignore[override]  # a forgotten mask must be an error
        self, features: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        mask = real_padding(padding_mask)
        if mask is None:
            return super().forward(features.flatten(0, 1)).view_as(features)
        normalized = torch.zeros_like(features)
        valid = ~mask
        normalized[valid] = super().forward(features[valid]).to(features.dtype)
        return normalized


class _PaddedBatchNorm(_BatchNorm):
    """Batch norm of (B, C, T, ...) over the valid steps only, also in training; 0 at padding.

    `padding` is (B, T), True = padding, set by whoever calls a network of such layers; None = no padding.
    """

    padding: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        if self.padding is None:
            return super().forward(features)
        mask = self.padding.view(len(features), 1, -1, *[1] * (features.dim() - 3))
        if not self.training:
            return super().forward(features).masked_fill(mask, 0.0)
        valid = ~self.padding
        steps = super().forward(features.transpose(1, 2)[valid].unsqueeze(2))  # (N, C, 1, ...)
        normalized = torch.zeros_like(features, dtype=steps.dtype)
        normalized.transpose(1, 2)[valid] = steps.squeeze(2)
        return normalized


class PaddedBatchNorm1d(_PaddedBatchNorm, nn.BatchNorm1d):
    """`_PaddedBatchNorm` of (B, C, T)."""


class PaddedBatchNorm3d(_PaddedBatchNorm, nn.BatchNorm3d):
    """`_PaddedBatchNorm` of (B, C, T, H, W)."""


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """(C,) -> the shape in which it multiplies (N, C, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _moments(totals: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """(2C,) sums of values and of squares over `count` values -> mean and variance (C,)."""
    mean, square = (totals / count).chunk(2)
    return mean, (square - mean.square()).clamp_min(0.0)


@torch.no_grad()
def _count_batch(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Update the running statistics with the moments of a batch."""
    assert norm.num_batches_tracked is not None  # the norms of all methods keep running statistics
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    unbiased = variance * count / (count - 1)
    for running, value in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        assert running is not None
        running.lerp_(value.to(running.dtype), norm.momentum)


class _NormalizeOverProcesses(torch.autograd.Function):
    """Standardise (N, C, ...) by the mean and variance over the values of all processes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own = features.detach().double()
        others = [0, *range(2, features.dim())]
        count = own.new_tensor([own.numel() / own.shape[1]])
        totals = torch.cat([own.sum(others), own.square().sum(others), count])
        dist.all_reduce(totals)
        count = totals[-1]
        mean, variance = _moments(totals[:-1], count)
        scale = (variance + eps).rsqrt()
        normalized = ((own - _per_channel(mean, own)) * _per_channel(scale, own)).to(features.dtype)
        ctx.save_for_backward(normalized, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalized, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        normalized, scale, count = ctx.saved_tensors
        others = [0, *range(2, gradient.dim())]
        gradient, own = gradient.double(), normalized.double()
        totals = torch.cat([gradient.sum(others), (gradient * own).sum(others)])
        dist.all_reduce(totals)
        mean, along = (_per_channel(values, own) for values in (totals / count).chunk(2))
        return ((gradient - mean - own * along) * _per_channel(scale, own)).to(normalized.dtype), None


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes in training, on CPUs; sums are float64.

    torch's own SyncBatchNorm takes GPU tensors only.
    """

    stays_eager = True  # an exchange between processes

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        self._check_input_dim(features)
        normalized, mean, variance, count = _NormalizeOverProcesses.apply(features, self.eps)
        _count_batch(self, mean, variance, count)
        weight, bias = (_per_channel(values, features) for values in (self.weight, self.bias))
        return (normalized * weight + bias).to(features.dtype)


def batch_moments(norm: _BatchNorm, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of a batch norm in training; updates its running statistics.

    totals: (2, C) float64, sums of the values and of their squares over `count` values per channel. If the
    norm is synchronised, the result covers all processes.
    """
    values = torch.cat([totals.flatten(), totals.new_tensor([count])])
    if isinstance(norm, (nn.SyncBatchNorm, SynchronizedBatchNorm)):
        values = all_reduce(values)
    mean, variance = _moments(values[:-1], values[-1])
    _count_batch(norm, mean, variance, values[-1])
    return mean, variance


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Make every batch norm of `model` take its statistics over the clips of all processes.

    A module keeps its parameters, hooks and own `forward`; only the batch norm that this calls is replaced.
    """
    synchronized = nn.SyncBatchNorm if device.type == "cuda" else SynchronizedBatchNorm
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            members = {"process_group": None}  # torch's way to say: all processes
            module.__class__ = type(f"Synchronized{kind.__name__}", (kind, synchronized), members)
