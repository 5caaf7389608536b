"""Flags and presets of Exposing the Deception."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.exposing_deception.backbones import FEATURES
from utils.config import opt, require_above, require_at_least

FRAMES = {"frames_per_clip": 8}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "corrected": {  # with the defaults of every config
        "data": FRAMES,
        "train": {"optimizer": "adam", "weight_decay": 1e-6, "learning_rate": 1e-4},
    },
    "released": {
        "model": {"channel_order": "bgr", "augmentation": "released"},
        "loss": {
            "kl_reduction": "mean",
            "kl_direction": "reverse",
            "sinkhorn_input": "log",
            "scales_shift": True,
            "balance_learning_rate": 1e-3,
        },
        "data": FRAMES,
        "workers": {"batch_size": 32},  # of 8 frames each
        "train": {
            "optimizer": "adam",
            "weight_decay": 1e-6,
            "learning_rate": 1e-3,
            "schedule": "waves",
            "balance": "none",
            "repeat_reals": 4,
            "max_grad_norm": 0.0,
            "epochs": 10,
            "patience": 0,
        },
    },
    "demo": {
        "model": {"num_libs": 2, "backbone": "mobilenet_v1", "image_size": 112, "fusion_dims": (128, 64)},
        "data": {"frames_per_clip": 3},
        "workers": {"batch_size": 8},
        "split": {"val_fraction": 0.2, "test_fraction": 0.25},
        "train": {
            "optimizer": "adam",
            "weight_decay": 1e-6,
            "epochs": 15,
            "learning_rate": 1e-3,
            "patience": 0,
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class ExposingConfig:
    """models/exposing_deception/config.py: blocks, fusion, pictures, mixup."""

    num_libs: int = opt(4, "number of Local Information Blocks, at least 2")
    backbone: str = opt("resnet34", "network of each block, with weights of its own", choices=tuple(FEATURES))
    init_from: Path | None = opt(
        None,
        "torchvision's ImageNet weights of the backbone (.pth or .safetensors), for every block. A resumed "
        "run reads the file again",
    )
    fusion_dims: tuple[int, ...] = opt((1000, 500), "widths of the two hidden layers of the fusion MLP")
    dropout: float = opt(0.5, "dropout in the fusion MLP and before the classifier")
    image_size: int = opt(224, "side in pixels that crops are resized to on the device")
    channel_order: str = opt(
        "rgb", "order of the colours that the network sees; the published code: bgr", choices=("rgb", "bgr")
    )
    augmentation: str = opt(
        "corrected",
        "corrected: the published chain of eight changes, on RGB; released: its colour changes take BGR for "
        "RGB, as in the published code",
        choices=("corrected", "released", "none"),
    )
    mixup: bool = opt(True, "mix the pictures of a training batch in pairs, and their losses")
    mixup_alpha: float = opt(0.5, "both parameters of the Beta distribution of a pair's shares")

    def __post_init__(self) -> None:
        require_at_least(self, 2, "num_libs")
        require_at_least(self, 32, "image_size")
        require_above(self, 0, "mixup_alpha")
        if len(self.fusion_dims) != 2 or min(self.fusion_dims) < 1:
            raise ValueError(f"fusion_dims needs 2 widths, got {self.fusion_dims}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.init_from and self.backbone == "mobilenet_v1":
            raise ValueError("init_from: torchvision has no weights of mobilenet_v1")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        return {} if self.mixup else {"mixup_alpha": "mixup is false"}
