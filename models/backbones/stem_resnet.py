"""AV-HuBERT's picture encoder: a stem over five frames, then a ResNet-18 on single frames.

He et al., "Deep Residual Learning", CVPR 2016; stem and PReLU as in lip reading. Module names are those of
the published AV-HuBERT and MRDF checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

STAGES = 4
# of the pictures, grey in 0..1, that AV-HuBERT was trained on
PICTURE_MEAN, PICTURE_STD = 0.421, 0.165


class ResidualBlock(nn.Module):
    """conv3x3, batch norm, PReLU, conv3x3, batch norm, add the input, PReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.PReLU(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(images)))))
        return self.relu2(features + self.downsample(images))


class ResNetTrunk(nn.Module):
    """Four stages of two blocks, all but the first halving the picture; (N, C, H, W) -> mean (N, D)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for stage, (inputs, outputs) in enumerate(zip((channels[0], *channels), channels, strict=False)):
            first = ResidualBlock(inputs, outputs, 1 if stage == 0 else 2)
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, ResidualBlock(outputs, outputs, 1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.children():
            images = stage(images)
        return images.mean(dim=(2, 3))


class StemResNet(nn.Module):
    """(B, C, T, H, W) float frames of C = `colours` -> (B, T, D).

    The stem gets zeros for padding frames, as before and after a clip; the rest of the network, batch norm
    included, never gets them, so a clip's features do not depend on padding. With `freeze_stem` the stem
    keeps its initial weights; its running statistics are still updated.
    """

    def __init__(self, channels: Sequence[int], *, colours: int, freeze_stem: bool = False) -> None:
        super().__init__()
        # after the convolution frames are treated as single pictures, hence the 2d norm
        self.frontend3D = nn.Sequential(
            nn.Conv3d(colours, channels[0], (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.PReLU(channels[0]),
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.trunk = ResNetTrunk(channels)
        self.out_features = channels[-1]
        self.frontend3D.requires_grad_(not freeze_stem)

    def _stem(self, video: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(B, C, T, H, W) -> pictures (N, D, H/4, W/4) of the N frames that are not padding."""
        convolution, norm, activation = self.frontend3D
        if video.is_cuda or torch.is_autocast_enabled(video.device.type):
            # convolutions are fastest in this layout
            video = video.contiguous(memory_format=torch.channels_last_3d)
        if padding_mask is None:
            images = convolution(video).transpose(1, 2).flatten(0, 1)
        else:
            video = video.masked_fill(padding_mask[:, None, :, None, None], 0.0)
            images = convolution(video).transpose(1, 2)[~padding_mask]
        return self.pool(activation(norm(images)))

    def forward(self, video: Tensor, padding_mask: Tensor | None) -> Tensor:
        """padding_mask: (B, T), True = padding, whose features are 0; None = no padding."""
        features = self.trunk(self._stem(video, padding_mask))  # (N, D)
        if padding_mask is None:
            return features.unflatten(0, (video.shape[0], video.shape[2]))
        result = features.new_zeros(*padding_mask.shape, self.out_features)
        result[~padding_mask] = features
        return result
