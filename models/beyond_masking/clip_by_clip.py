"""A convolution block that keeps the activations of one clip at a time, in both passes, to save memory.

With PLAIN_TORCH=1 in the environment, MaskedVideoEncoder uses torch's own activation checkpointing instead,
with the same gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.blocks.normalization import batch_moments

# frames processed together between convolutions: on a CPU they fit its caches, elsewhere the memory
FRAMES_AT_ONCE_ON_CPU, FRAMES_AT_ONCE = 2, 12
ALL_BUT_CHANNELS = (0, 2, 3, 4)


@torch.compiler.disable  # its functions share state, and convolutions dominate their time
def run_clip_by_clip(block: nn.Sequential, video: Tensor, padding: Tensor | None) -> Tensor:
    """[Conv3d, batch norm, max pool, ReLU] in training: (B, C, T, H, W) -> (B, C', T, H / 2, W / 2).

    padding: (B, T), True = a frame that batch norm leaves out and sets to 0; None = no padding. Batch norm
    needs sums over the whole batch, so each pass goes over the clips twice and convolves each time: forward
    for the sums of the output, then for the result; backward for the sums of the output's gradient, then for
    the gradients of video and weights.
    """
    convolution, norm, _, _ = block
    assert isinstance(norm, nn.BatchNorm3d)
    work = _Work(block, padding, video.device.type)
    totals = _OutputSums.apply(work, video, convolution.weight, convolution.bias)
    num_frames = len(video) * video.shape[2] if padding is None else int((~padding).sum())
    mean, variance = batch_moments(norm, totals, num_frames * video.shape[3] * video.shape[4])
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    return _Normalized.apply(work, video.detach(), scale.float(), shift.float())


class _Work:
    """State that the two autograd functions share: the block, scale and shift, and the incoming gradient.

    A clip is (1, C, T, H, W), `features` are frames of the convolution's output, `number` is the clip.
    """

    def __init__(self, block: nn.Sequential, padding: Tensor | None, device_type: str) -> None:
        self.convolution, _, self.pool, self.relu = block
        self.padding = None if padding is None else padding[:, None, :, None, None]
        self.frames_at_once = FRAMES_AT_ONCE_ON_CPU if device_type == "cpu" else FRAMES_AT_ONCE
        # the backward pass computes as the forward pass does
        dtype, enabled = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
        self.autocast = torch.autocast(device_type, dtype, enabled)
        self.scale = self.shift = self.gradient = torch.empty(0)

    def convolve(self, clip: Tensor) -> Tensor:
        with self.autocast:
            return self.convolution(clip)

    def slices(self, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Slices of frames, each with its features."""
        for first in range(0, features.shape[2], self.frames_at_once):
            frames = slice(first, first + self.frames_at_once)
            yield frames, features[:, :, frames]

    def normalize(self, features: Tensor) -> Tensor:
        """Batch norm of the convolution's output, in the output's dtype."""
        return torch.addcmul(self.shift, features, self.scale).to(features.dtype)

    def without_padding(self, values: Tensor, number: int, frames: slice) -> Tensor:
        """Values of these frames of a clip, 0 at padding."""
        if self.padding is None:
            return values
        return values.masked_fill(self.padding[number : number + 1, :, frames], 0.0)

    def activate(self, normalized: Tensor, number: int, frames: slice) -> Tensor:
        """The block's output for these frames of a clip."""
        return self.relu(self.pool(self.without_padding(normalized, number, frames)))

    def normalized_gradient(self, features: Tensor, number: int, frames: slice) -> Tensor:
        """Gradient of the batch norm's output, in float32."""
        normalized = self.normalize(features).requires_grad_()
        with torch.enable_grad():
            output = self.activate(normalized, number, frames)
        gradient = self.gradient[number : number + 1, :, frames]
        return torch.autograd.grad(output, normalized, gradient)[0].float()


class _OutputSums(torch.autograd.Function):
    """Sums over the batch of the convolution's output and of its squares, (2, C') float64.

    Its backward pass runs after `_Normalized`'s and returns the gradients of both, since they share the
    convolution.
    """

    @staticmethod
    def forward(ctx: Any, work: _Work, video: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(video, weight, bias)
        totals = torch.zeros(2, len(weight), dtype=torch.float64, device=video.device)
        for number, clip in enumerate(video.split(1)):
            for frames, features in work.slices(work.convolve(clip)):
                values = work.without_padding(features.float(), number, frames)
                totals[0] += values.sum(ALL_BUT_CHANNELS, dtype=torch.float64)
                totals[1] += values.square().sum(ALL_BUT_CHANNELS, dtype=torch.float64)
        return totals

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        work, (video, weight, bias) = ctx.work, ctx.saved_tensors
        of_sum, of_square = (values.float().view(-1, 1, 1, 1) for values in gradient)
        needed = ctx.needs_input_grad[1:]
        of_video, of_weight, of_bias = (
            torch.zeros_like(value) if wanted else None
            for value, wanted in zip((video, weight, bias), needed, strict=True)
        )
        for number, clip in enumerate(video.split(1)):
            clip = clip.detach().requires_grad_(needed[0])
            with torch.enable_grad():
                output = work.convolve(clip)
            output_gradient = torch.empty_like(output)
            for frames, features in work.slices(output.detach()):
                direct = work.normalized_gradient(features, number, frames)
                through_moments = torch.addcmul(of_sum, features, 2 * of_square)
                through_moments = work.without_padding(through_moments, number, frames)
                output_gradient[:, :, frames] = through_moments.addcmul_(direct, work.scale)
            inputs = [value for value, wanted in zip((clip, weight, bias), needed, strict=True) if wanted]
            gradients = iter(torch.autograd.grad(output, inputs, output_gradient))
            if of_video is not None:
                of_video[number] = next(gradients)[0]
            for of_parameter in (of_weight, of_bias):
                if of_parameter is not None:
                    of_parameter += next(gradients)
        work.gradient = torch.empty(0)
        return None, of_video, of_weight, of_bias


class _Normalized(torch.autograd.Function):
    """The block's output from the batch norm's scale and shift, (C',) float32."""

    @staticmethod
    def forward(ctx: Any, work: _Work, video: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(video)
        work.scale, work.shift = (values.view(-1, 1, 1, 1) for values in (scale, shift))
        outputs = []
        for number, clip in enumerate(video.split(1)):
            slices = work.slices(work.convolve(clip))
            parts = [work.activate(work.normalize(features), number, frames) for frames, features in slices]
            outputs.append(torch.cat(parts, dim=2))
        return torch.cat(outputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        work, (video,) = ctx.work, ctx.saved_tensors
        work.gradient = gradient
        totals = torch.zeros(2, work.scale.numel(), dtype=torch.float64, device=video.device)
        for number, clip in enumerate(video.split(1)):
            for frames, features in work.slices(work.convolve(clip)):
                direct = work.normalized_gradient(features, number, frames)
                totals[0] += direct.mul(features).sum(ALL_BUT_CHANNELS)
                totals[1] += direct.sum(ALL_BUT_CHANNELS)
        return None, None, *totals.float()
