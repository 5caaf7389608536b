"""EfficientFace: a picture of a face -> one feature.

Zhao, Liu and Zhou, "Robust Lightweight Facial Expression Recognition Network with Label Distribution
Training", AAAI 2021; the weights of AffectNet-7 that 2D3MF uses (aiden200/2D3MF, d4fd8e8). ShuffleNetV2 units
see the whole face, a layer of its own each of four quarters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.backbones.backbone import Backbone, Encoder, Weights, frame_plan
from models.backbones.published import load_published

WIDTH = 1024
STEM = 29  # channels
STAGES = ((116, 4), (232, 8), (464, 4))  # channels and units of stages 2, 3 and 4
GATE = 7  # channels within the modulator's gates
_CHANNEL, _SPATIAL = r"modulator\.channel_att\.gate_c\.", r"modulator\.spatial_att\.gate_s\."
RENAMES = [
    *((rf"local\.{kind}{part + 1}_{half + 1}\.", f"local.{part}.{3 * half + place}.")
      for part in range(4) for half in range(2) for place, kind in enumerate(("conv", "bn"))),
    (_CHANNEL + r"gate_c_fc_0\.", "channel_gate.0."),
    (_CHANNEL + r"gate_c_bn_1\.", "channel_gate.1."),
    (_CHANNEL + r"gate_c_fc_final\.", "channel_gate.3."),
    (_SPATIAL + r"gate_s_conv_reduce0\.", "spatial_gate.0."),
    (_SPATIAL + r"gate_s_bn_reduce0\.", "spatial_gate.1."),
    (_SPATIAL + r"gate_s_conv_di_0\.", "spatial_gate.3."),
    (_SPATIAL + r"gate_s_bn_di_0\.", "spatial_gate.4."),
    (_SPATIAL + r"gate_s_conv_di_1\.", "spatial_gate.6."),
    (_SPATIAL + r"gate_s_bn_di_1\.", "spatial_gate.7."),
    (_SPATIAL + r"gate_s_conv_final\.", "spatial_gate.9."),
]  # fmt: skip
IGNORED = r"(?:fc|conv1d_\d|classifier_1)\."  # expressions, and layers over time


class EfficientFace(nn.Module):
    """encoder(faces) -> (B, 1024) features: (B, 3, 224, 224); 2D3MF gives it BGR of 0 to 255."""

    def __init__(self) -> None:
        from torchvision.models.shufflenetv2 import InvertedResidual  # as slow to import as torch itself

        super().__init__()
        self.conv1 = nn.Sequential(*_convolution(3, STEM, stride=2), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages, width = [], STEM
        for out, units in STAGES:
            shapes = [(width, 2), *[(out, 1)] * (units - 1)]
            stages.append(nn.Sequential(*(InvertedResidual(inp, out, stride) for inp, stride in shapes)))
            width = out
        self.stage2, self.stage3, self.stage4 = stages
        first = STAGES[0][0]
        self.local = nn.ModuleList(_quarter(first) for _ in range(4))
        self.channel_gate = nn.Sequential(
            nn.Linear(first, GATE), nn.BatchNorm1d(GATE), nn.ReLU(), nn.Linear(GATE, first)
        )
        self.spatial_gate = nn.Sequential(
            nn.Conv2d(first, GATE, 1), nn.BatchNorm2d(GATE), nn.ReLU(),
            nn.Conv2d(GATE, GATE, 3, padding=4, dilation=4), nn.BatchNorm2d(GATE), nn.ReLU(),
            nn.Conv2d(GATE, GATE, 3, padding=4, dilation=4), nn.BatchNorm2d(GATE), nn.ReLU(),
            nn.Conv2d(GATE, 1, 1),
        )  # fmt: skip
        self.conv5 = nn.Sequential(nn.Conv2d(width, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())

    def forward(self, faces: Tensor) -> Tensor:
        stem = self.maxpool(self.conv1(faces))
        whole = self.stage2(stem)
        gate = self.channel_gate(whole.mean(dim=(2, 3)))[:, :, None, None] * self.spatial_gate(whole)
        halves = [column.chunk(2, dim=2) for column in stem.chunk(2, dim=3)]  # left, right: upper, lower
        quarters = [layer(part) for layer, part in zip(self.local, (*halves[0], *halves[1]), strict=True)]
        columns = [torch.cat(quarters[place : place + 2], dim=2) for place in (0, 2)]
        both = gate.sigmoid() * whole + torch.cat(columns, dim=3)
        features: Tensor = self.conv5(self.stage4(self.stage3(both))).mean(dim=(2, 3))
        return features

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a published file. Raises CheckpointError if it does not fit."""
        load_published(self, weights, RENAMES, source, prefix="module.", ignored=IGNORED)


def _convolution(width: int, out: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(width, out, 3, stride, padding=1, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out)]


def _quarter(out: int) -> nn.Sequential:
    """(B, 29, H, W) -> (B, out, H / 2, W / 2)."""
    first = _convolution(STEM, out, stride=2, groups=STEM)
    second = _convolution(out, out, groups=out)
    return nn.Sequential(*first, nn.ReLU(inplace=True), *second, nn.ReLU(inplace=True))


class FacePieces(Encoder):
    """As 2D3MF has it: BGR of 0 to 255, which is not how the network was trained."""

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network(frames[:, 0].permute(0, 3, 1, 2).flip(1).float())
        return features[:, None]


BACKBONES = {
    "efficientface": Backbone(
        make=lambda: FacePieces(EfficientFace()),
        width=WIDTH,
        weights=Weights(
            "EfficientFace_Trained_on_AffectNet7.pth.tar", "github.com/zengqunzhao/EfficientFace", "MIT"
        ),
        plan=frame_plan,
        batch_size=64,
    )
}
