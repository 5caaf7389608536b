"""Flags and presets of MRDF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.backbones.stem_resnet import STAGES
from utils.config import opt, require_at_least

VARIANTS = ("ce", "margin", "avdf", "avdf_ensemble", "avdf_multiclass", "avdf_multilabel")
BRANCHED = ("ce", "margin", "avdf_ensemble")  # have a branch for each modality
WITH_HEADS = ("ce", "avdf_ensemble")  # classify each branch

# of the published code, and in both of its presets
PUBLISHED_NETWORK = {"feature_norm": False, "norm_first": False, "readout": "first"}
PUBLISHED_LOOP = {"optimizer": "adam", "weight_decay": 1e-4, "balance": "none", "patience": 0}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "corrected": {},  # the defaults of every config
    "paper": {
        "model": PUBLISHED_NETWORK,
        # no clip of FakeAVCeleb is much shorter
        "data": {"window_s": 4.0, "windows_per_clip": 1},
        "workers": {"batch_size": 64},
        "train": PUBLISHED_LOOP,
    },
    "released": {
        "model": {**PUBLISHED_NETWORK, "encoder_layers": 0, "freeze_stem": True, "cut_to_shortest": True},
        # up to 500 frames; such a batch takes up to 5 GB
        "data": {"window_s": 20.0, "windows_per_clip": 1},
        "workers": {"batch_size": 64, "prefetch_factor": 1},
        "train": {
            **PUBLISHED_LOOP,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "warmup_epochs": 0.0,
            "max_grad_norm": 0.0,
        },
    },
    "demo": {
        "model": {
            "feature_dim": 64,
            "video_channels": (16, 32, 64, 64),
            "filterbank_stack": 16,
            "encoder_layers": 2,
            "transformer_nhead": 4,
            "feedforward_dim": 128,
            "position_kernel": 8,
            "position_groups": 4,
        },
        # few frames, so that there are many steps
        "data": {"window_s": 0.96, "video_fps": 6.25, "windows_per_clip": 2},
        "workers": {"batch_size": 8},
        "split": {"val_fraction": 0.2, "test_fraction": 0.25},
        "train": {"epochs": 60, "learning_rate": 1e-3, "patience": 0},
    },
}


@dataclass(frozen=True, kw_only=True)
class MrdfConfig:
    """models/mrdf/config.py: variant, front ends, encoder."""

    mrdf_variant: str = opt(
        "ce",
        "ce and margin are MRDF with two losses of the modality branches; avdf has no branches, "
        "avdf_ensemble only the branches; avdf_multiclass predicts four kinds of clip, avdf_multilabel "
        "each modality",
        choices=VARIANTS,
    )
    init_from: Path | None = opt(
        None,
        "initialise from an AV-HuBERT base checkpoint where shapes fit; the log lists them. A resumed run "
        "reads the file again",
    )
    feature_dim: int = opt(768, "width of all feature sequences")
    video_channels: tuple[int, ...] = opt((64, 128, 256, 512), "widths of the ResNet's four stages")
    freeze_stem: bool = opt(False, "keep the ResNet's stem at its random weights (published code)")
    image_size: int = opt(112, "side in pixels that crops are resized to on the device")
    crop_size: int = opt(100, "side in pixels of the crop that is seen: random in training, else central")
    filterbank_stack: int = opt(4, "filterbank rows (100 per second) per frame: 100 / video_fps")
    feature_norm: bool = opt(
        True,
        "standardise features over the batch: clips differ little from their mean (published code: false)",
    )
    encoder_layers: int = opt(12, "transformer layers; the published code has 0, by mistake")
    transformer_nhead: int = opt(12, "attention heads")
    feedforward_dim: int = opt(3072, "width of the transformer's feed-forward layers")
    norm_first: bool = opt(
        True, "norms before each part of a layer, as AV-HuBERT was trained; false = after (published code)"
    )
    position_kernel: int = opt(128, "frames that the positional convolution spans")
    position_groups: int = opt(16, "groups of the positional convolution")
    readout: str = opt(
        "mean", "classify the mean over the frames, or the first (published code)", choices=("mean", "first")
    )
    cut_to_shortest: bool = opt(
        False,
        "cut all clips of a batch to the shortest instead of masking padding (published code): scores then "
        "depend on the rest of the batch",
    )
    dropout: float = opt(0.1, "dropout in the encoder and the branches")

    def __post_init__(self) -> None:
        sizes = ("feature_dim", "image_size", "crop_size", "filterbank_stack", "transformer_nhead")
        require_at_least(self, 1, *sizes, "feedforward_dim", "position_kernel", "position_groups")
        require_at_least(self, 0, "encoder_layers")
        if self.crop_size > self.image_size:
            raise ValueError(f"crop_size {self.crop_size} is larger than image_size {self.image_size}")
        if len(self.video_channels) != STAGES or min(self.video_channels) < 1:
            raise ValueError(f"video_channels needs {STAGES} widths, got {self.video_channels}")
        unused = self.unused()
        for name in ("position_groups", "transformer_nhead"):
            divisor = getattr(self, name)
            if name not in unused and self.feature_dim % divisor:
                raise ValueError(f"feature_dim {self.feature_dim} is not a multiple of {name} {divisor}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        layers = ("transformer_nhead", "feedforward_dim", "norm_first")
        if self.mrdf_variant == "avdf_ensemble":
            fields = (*layers, "encoder_layers", "position_kernel", "position_groups", "readout")
            return dict.fromkeys(fields, "mrdf_variant avdf_ensemble has no encoder")
        return dict.fromkeys(layers, "encoder_layers is 0") if self.encoder_layers == 0 else {}
