"""Flags and presets of 2D3MF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.backbones.menu import BACKBONES, backbone_of
from models.td3mf.fusion import FUSION_TYPES, audio_width
from utils.config import opt, require_at_least

SEEING = sorted(name for name, backbone in BACKBONES.items() if not backbone.hears)
KINDS = {"mfcc": "mfcc", "xvector_scores": "scores"}  # of the others: tokens
TOKENS_OF_A_ROW = {"eat": 8}  # bands of frequency, each a token
EAT_ROWS = 64  # of 10.24 s
MIN_TOKENS = 7  # two steps of middle fusion leave three tokens out each
WINDOWS = {"windows_per_clip": 1}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "corrected": {  # with the defaults of every config
        "data": {"window_s": 10.24, **WINDOWS},
        "train": {"learning_rate": 1e-3, "epochs": 60},
        "workers": {"batch_size": 32},
    },
    "released": {
        "model": {
            "hidden_dim": 64,
            "audio_positions": False,
            "rows": "cut",
            "modality_dropout": 0.0,
        },
        # ten rows of MARLIN at 25 frames per second
        "data": {"window_s": 12.8, "rows_after_end": True, **WINDOWS},
        "train": {
            "optimizer": "adam",
            "adam_betas": (0.5, 0.9),
            "weight_decay": 0.0,
            "learning_rate": 5e-4,
            "schedule": "plateau",
            "max_grad_norm": 0.0,
            "balance": "none",
            "epochs": 200,
            "patience": 0,
        },
        "workers": {"batch_size": 32},
    },
    "emotion": {  # as corrected
        "model": {"task": "emotion"},
        "data": {"window_s": 10.24, "label_rule": "emotion", **WINDOWS},
        "train": {"learning_rate": 1e-3, "epochs": 60, "domain_clips": 0},
        "workers": {"batch_size": 32},
    },
    "demo": {
        "model": {"audio_features": "audio_resnet18", "hidden_dim": 32},
        "data": {"window_s": 2.56, **WINDOWS},
        "split": {"val_fraction": 0.2, "test_fraction": 0.25},
        "train": {"learning_rate": 1e-3, "epochs": 20, "patience": 0},
        "workers": {"batch_size": 16},
    },
}


@dataclass(frozen=True, kw_only=True)
class TD3MFConfig:
    """models/td3mf/config.py: features, fusion, modality dropout."""

    video_features: str = opt(
        "marlin_small", "backbone of the picture, of preprocess.extract_features", choices=SEEING
    )
    audio_features: str = opt("eat", "backbone of the sound, or a layer of one: wavlm_base.layer6")
    task: str = opt(
        "deepfake",
        "what is told: real from fake, or which of eight emotions, with --label_rule emotion",
        choices=("deepfake", "emotion"),
    )
    only: str = opt(
        "both",
        "a linear head on the features of one modality, without fusion",
        choices=("both", "video", "audio"),
    )
    num_steps: int = opt(10, "rows of features that a window is brought to")
    audio_steps: int = opt(0, "rows of the sound's features; 0 = num_steps, of eat 64")
    rows: str = opt(
        "spread",
        "how a window's rows are brought to that number; spread: means of equal parts; cut: the first ones, "
        "with zeros after the last (published code)",
        choices=("spread", "cut"),
    )
    hidden_dim: int = opt(128, "width of the streams after the fusion")
    num_heads: int = opt(2, "attention heads; must divide the widths of both streams")
    fusion_type: str = opt("default", "what attends to what", choices=FUSION_TYPES)
    fusion: str = opt(
        "mf",
        "mf: middle fusion, convolutions after the attention; lf: late fusion, none",
        choices=("mf", "lf"),
    )
    audio_positions: bool = opt(True, "add positions to the sound's tokens")
    modality_dropout: float = opt(0.1, "share of training windows of which picture or sound is dropped")
    dropped_modality: str = opt(
        "token",
        "what is in its place; noise: Gaussian (published code); token: a learnt row",
        choices=("token", "zeros", "noise"),
    )
    finetune: bool = opt(False, "see raw frames, and train the picture's backbone, too")
    init_from: Path | None = opt(
        None, "published weights of the backbone, for finetune. A resumed run reads them again"
    )
    backbone_learning_rate: float = opt(1e-5, "peak learning rate of the backbone")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_steps", "hidden_dim", "num_heads")
        require_at_least(self, 0, "audio_steps", "backbone_learning_rate")
        if backbone_of(self.audio_features).sees:
            raise ValueError(f"audio_features: {self.audio_features} sees pictures")
        if self.finetune and self.only != "audio" and BACKBONES[self.video_features].mouth:
            raise ValueError(f"finetune: {self.video_features} sees mouths, which the frames are not cut to")
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(f"modality_dropout must be in [0, 1), got {self.modality_dropout}")
        if self.only == "both":
            heads, tokens = self.num_heads, self.num_audio_tokens
            for width in {self.hidden_dim, audio_width(self.audio_kind, self.audio_dim, self.hidden_dim)}:
                if width % heads:
                    raise ValueError(f"num_heads must divide the width {width} of a stream, got {heads}")
            if self.fusion == "mf" and tokens < MIN_TOKENS:
                raise ValueError(f"middle fusion needs {MIN_TOKENS} tokens of sound, got {tokens}")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        unused: dict[str, str] = {}
        if self.only != "both":
            names = ("num_heads", "fusion_type", "fusion", "audio_positions", "modality_dropout")
            others = {"video": ("audio_features", "audio_steps"), "audio": ("video_features", "finetune")}
            fields = (*names, "dropped_modality", *others[self.only])
            unused |= dict.fromkeys(fields, f"only is {self.only}")
        if not self.modality_dropout:
            unused["dropped_modality"] = "modality_dropout is 0"
        if not self.finetune:
            unused |= dict.fromkeys(("init_from", "backbone_learning_rate"), "finetune is false")
        return unused

    @property
    def audio_kind(self) -> str:
        """Of AUDIO_KINDS."""
        return KINDS.get(self.audio_features, "tokens")

    @property
    def audio_dim(self) -> int:
        """Width of a token of the sound."""
        return backbone_of(self.audio_features).width // TOKENS_OF_A_ROW.get(self.audio_features, 1)

    @property
    def num_audio_rows(self) -> int:
        """Rows of the sound that a window is brought to."""
        return self.audio_steps or (EAT_ROWS if self.audio_features == "eat" else self.num_steps)

    @property
    def num_audio_tokens(self) -> int:
        """N: the tokens of those rows."""
        return self.num_audio_rows * TOKENS_OF_A_ROW.get(self.audio_features, 1)
