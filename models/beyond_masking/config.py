"""Flags and presets of Beyond-Masking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from utils.config import opt, require_at_least

VIDEO_ENCODERS = ("conv3d", "r3d_18", "mc3_18", "r2plus1d_18")  # all but the first are torchvision's
LANDMARK_TEACHERS = ("ema", "autoencoder", "random", "none")  # see models/beyond_masking/landmark.py
STUDENTS = ("both", "video", "audio", "none")

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "corrected": {},  # the defaults of every config
    "released": {
        "model": {
            "landmark_teacher": "random",
            "positions_first": False,
            "use_padding_masks": False,
            "modality_heads": False,
            "fusion_residual": False,
            "feature_norm": False,
            "mfcc_columns": 600,
        },
        "loss": {"lbd_reduction": "sum", "contrastive_pairs": "all"},
        "data": {
            "window": "released",
            "landmark_normalization": "clip_zscore",
            "label_rule": "video",
            "windows_per_clip": 1,
        },
        "workers": {"batch_size": 4},  # of its launcher
        "train": {
            "optimizer": "adam",
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup_epochs": 0.0,
            "max_grad_norm": 0.0,
            "precision": "fp32",
            "balance": "none",
            "select_by": "val_loss",
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class BeyondMaskingConfig:
    """models/beyond_masking/config.py: encoders, landmark teacher, alignment."""

    feature_dim: int = opt(256, "width of all feature sequences (D)")
    video_encoder: str = opt(
        "conv3d", "conv3d (published code), or one of torchvision's", choices=VIDEO_ENCODERS
    )
    video_pretrained: bool = opt(False, "start a torchvision encoder from Kinetics-400 weights (a download)")
    video_channels: tuple[int, ...] = opt((64, 128, 256), "widths of the conv3d video encoder's blocks")
    checkpoint_activations: bool = opt(
        False,
        "recompute video blocks in the backward pass: a tenth of the memory, the same gradients, slower",
    )
    audio_channels: tuple[int, ...] = opt((64, 128, 256), "widths of the audio encoder's three blocks")
    image_size: int = opt(224, "side in pixels that crops are resized to on the device")
    equalize_luma: bool = opt(True, "histogram-equalise the luma of every frame (published pipeline)")
    num_mfcc: int = opt(40, "MFCC coefficients")
    mfcc_columns: int = opt(
        0, "the middle N MFCC columns, zero-padded if there are fewer; 0 = the whole window"
    )
    transformer_nhead: int = opt(4, "attention heads")
    stream_layers: int = opt(2, "transformer layers per stream")
    feedforward_dim: int = opt(512, "width of the transformers' feed-forward layers")
    classifier_hidden_dim: int = opt(256, "width of the classifier's hidden layer")
    dropout: float = opt(0.3, "dropout everywhere")
    landmark_teacher: str = opt(
        "ema",
        "what the students learn from: ema and autoencoder learn geometry, random is the published code's "
        "untrained projection, none = raw landmarks",
        choices=LANDMARK_TEACHERS,
    )
    teacher_momentum: float = opt(0.99, "momentum of the ema teacher, per training step")
    students: str = opt("both", "which modalities predict the landmark features (ablation)", choices=STUDENTS)
    temporal_alignment: bool = opt(True, "MTIA; false = pooled streams, added and classified (ablation)")
    positions_first: bool = opt(
        True, "positions in seconds before the alignment; false = frame numbers after"
    )
    feature_norm: bool = opt(
        True, "standardise encoder features over the batch, or positions outweigh differences between clips"
    )
    fusion_residual: bool = opt(
        True, "add the video stream to the fused one, or the picture is seen only through attention weights"
    )
    use_padding_masks: bool = opt(True, "hide padding from convolutions, attention and pooling")
    modality_heads: bool = opt(True, "also predict which modality is fake")
    frame_head: bool = opt(
        False,
        "also score every frame, to locate forgeries: learnt from segments, where these are known",
    )

    def __post_init__(self) -> None:
        sizes = ("feature_dim", "num_mfcc", "image_size", "transformer_nhead", "stream_layers")
        require_at_least(self, 1, *sizes, "feedforward_dim", "classifier_hidden_dim")
        if self.feature_dim % 2:
            raise ValueError(f"feature_dim must be even (sinusoidal positions), got {self.feature_dim}")
        if self.feature_dim % self.transformer_nhead:
            heads = self.transformer_nhead
            raise ValueError(f"feature_dim {self.feature_dim} is not a multiple of transformer_nhead {heads}")
        for name in ("dropout", "teacher_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if len(self.audio_channels) != 3 or not self.video_channels:
            raise ValueError("audio_channels needs three widths, video_channels at least one")
        if self.video_encoder == "conv3d" and self.image_size < 2 ** len(self.video_channels):
            num_blocks = len(self.video_channels)
            raise ValueError(f"image_size {self.image_size} is too small for {num_blocks} video_channels")
        if self.video_pretrained and self.video_encoder == "conv3d":
            raise ValueError("video_pretrained needs a torchvision encoder: conv3d has no published weights")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        unused: dict[str, str] = {}
        if self.video_encoder != "conv3d":
            unused["video_channels"] = f"video_encoder is {self.video_encoder}"
        if self.students == "none":
            unused |= dict.fromkeys(("landmark_teacher", "teacher_momentum"), f"students is {self.students}")
        elif self.landmark_teacher != "ema":
            unused["teacher_momentum"] = f"landmark_teacher is {self.landmark_teacher}"
        if not self.temporal_alignment:
            layers = ("stream_layers", "transformer_nhead", "feedforward_dim")
            fields = ("positions_first", "fusion_residual", "frame_head", *layers)
            unused |= dict.fromkeys(fields, "temporal_alignment is false")
        return unused
