"""A probe: pooled features of frozen backbones, standardised, and one linear layer.

It tells what a backbone's features know of forgeries (Alain and Bengio, "Understanding intermediate layers
using linear classifier probes", arXiv 1610.01644), and is trained in seconds, since nothing but the features
is read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.backbones.menu import backbone_of
from models.blocks.features import over_clips
from models.method import Method, clips_at_once
from utils.clip.packed import FEATURES
from utils.config import opt
from utils.errors import UsageError
from utils.types import ClipBatch, DetectorOutput

# decay of adam is the penalty of ridge regression
TRAIN = {"optimizer": "adam", "learning_rate": 1e-2, "epochs": 30, "weight_decay": 0.01, "patience": 0}
WHOLE_CLIPS = {"window_s": 10.0, "windows_per_clip": 1}


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """models/probe/detector.py: which features, and how a window's rows become one."""

    features: tuple[str, ...] = opt(
        ("marlin_small", "eat"),
        "features of preprocess.extract_features: backbones, or layers of them (wavlm_base.layer6)",
    )
    pooling_of_rows: str = opt(
        "mean", "mean of a window's rows, or weighted by a learnt attention", choices=("mean", "attention")
    )

    def __post_init__(self) -> None:
        if not self.features or len(set(self.features)) != len(self.features):
            raise ValueError(f"features must be named once each, got {self.features}")
        for name in self.features:
            backbone_of(name)


class ProbeDetector(nn.Module, Method):
    """model(ClipBatch) -> DetectorOutput; the embedding is what the linear layer sees."""

    config_type = ProbeConfig
    presets: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "corrected": {"data": WHOLE_CLIPS, "train": TRAIN, "workers": {"batch_size": 64}},
        "demo": {
            "model": {"features": ("marlin_small", "audio_resnet18")},
            "data": {"window_s": 2.56, "windows_per_clip": 1},
            "train": TRAIN,
            "workers": {"batch_size": 16},
            "split": {"val_fraction": 0.2, "test_fraction": 0.25},
        },
    }

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        backbones = [backbone_of(name) for name in config.features]
        seen = {"video"} if any(backbone.sees for backbone in backbones) else set()
        heard = {"audio"} if any(backbone.hears for backbone in backbones) else set()
        self.modalities = frozenset(seen | heard)
        widths = [backbone.width for backbone in backbones]
        if config.pooling_of_rows == "attention":
            self.queries = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        self.norm = nn.BatchNorm1d(sum(widths), affine=False)
        self.head = nn.Linear(sum(widths), 1)
        nn.init.zeros_(self.head.weight)  # the loss is convex (with mean): the first weights do not matter
        nn.init.zeros_(self.head.bias)

    @classmethod
    def inputs_of(cls, config: ProbeConfig) -> frozenset[str]:
        """The features."""
        return frozenset(FEATURES + name for name in config.features)

    @staticmethod
    def check(config: Mapping[str, Mapping[str, Any]]) -> None:
        if clips_at_once(config) == 1:
            raise UsageError("features are standardised over clips: --batch_size must hold two at once")

    def forward(self, batch: ClipBatch) -> DetectorOutput:
        pooled = []
        for place, name in enumerate(self.config.features):
            pooled.append(over_clips(functools.partial(self._pool, place=place), batch, name))
        embedding = self.norm(torch.cat(pooled, dim=1))
        return DetectorOutput(logits=self.head(embedding)[:, 0], embedding=embedding)

    def _pool(self, rows: Tensor, place: int) -> Tensor:
        """(B, S, D) -> (B, D)."""
        if self.config.pooling_of_rows == "mean":
            return rows.mean(dim=1)
        scores = rows @ self.queries[place] / rows.shape[2] ** 0.5  # (B, S)
        return (scores.softmax(dim=1)[:, None] @ rows)[:, 0]
