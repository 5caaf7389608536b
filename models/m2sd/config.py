"""Flags and presets of M2SD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.backbones.videomae import DECODER
from models.blocks.vit import SIZES, TUBELET, ViTSize
from utils.config import opt, require_at_least, require_between

# slots, of two frames each, by which the expert's sound is moved; and other moments of it in training
MAX_SHIFT, NUM_RIVALS = 4, 3
MAX_TUBELETS = 16_384  # of a clip; 384 pixels have 4,608. An untrusted checkpoint may name any size
STUDENTS = {"tiny": ViTSize(48, 2, 3), **SIZES}
CLIP = {"window_s": 0.64, "landmark_normalization": "crop"}  # 16 frames at 25 per second
FINE_TUNING = {  # as VideoMAE's models are; the rate is 5e-4 for 256 clips
    "weight_decay": 0.05,
    "learning_rate": 3e-5,
    "warmup_epochs": 5.0,
}

SELF_SUPERVISED = {  # as VideoMAE is trained; the rate is 1.5e-4 for 256 clips
    "weight_decay": 0.05,
    "adam_betas": (0.9, 0.95),
    "learning_rate": 1e-5,
    "balance": "real",
    "select_by": "val_loss",
    "patience": 0,
}
DATA = {**CLIP, "windows_per_clip": 8}
ONE_WINDOW = {**CLIP, "windows_per_clip": 1}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "corrected": {"data": DATA, "train": FINE_TUNING},  # with the defaults of every config
    "released": {"model": {"head_init_scale": 0.0}, "data": DATA, "train": FINE_TUNING},
    "demo": {
        "model": {
            "vit": "tiny",
            "image_size": 64,
            "first_weights": "narrow",
            "drop_path": 0.0,
            "layer_decay": 1.0,
            "jitter_px": 0.0,
        },
        "loss": {"rs_weight": 0.0},  # 0.1 keeps so small a network at the loss of chance for long
        "data": {**CLIP, "windows_per_clip": 2, "label_rule": "video"},  # it hears nothing
        "workers": {"batch_size": 16},
        "split": {"val_fraction": 0.2, "test_fraction": 0.25},
        "train": {"weight_decay": 0.05, "learning_rate": 1e-3, "epochs": 40, "patience": 0},
    },
    "m2sd_teacher": {
        "model": {"stage": "teacher", "drop_path": 0.0},
        "data": ONE_WINDOW,
        "train": {**SELF_SUPERVISED, "epochs": 100, "warmup_epochs": 40.0},
    },
    "m2sd_expert": {
        "model": {"stage": "expert", "vit": "small"},
        "data": {**ONE_WINDOW, "window_s": 1.28},  # the clip's sound, and what is before and after it
        "train": {**SELF_SUPERVISED, "learning_rate": 1e-4, "epochs": 100, "warmup_epochs": 10.0},
    },
    "m2sd_pretrain": {
        "model": {"stage": "pretrain", "stp": "tokens", "vac": "mixed", "layer_decay": 1.0},
        "data": ONE_WINDOW,
        "train": {**SELF_SUPERVISED, "epochs": 50, "warmup_epochs": 5.0},
    },
    "m2sd_finetune": {
        "model": {"stp": "tokens", "vac": "video"},
        "data": DATA,
        "train": FINE_TUNING,
    },
}
STAGES = ("teacher", "expert", "pretrain", "finetune")


def decoder_of(vit: str) -> ViTSize:
    """The decoder of a masked autoencoder whose encoder is `vit`."""
    return ViTSize(24, 1, 3) if vit == "tiny" else DECODER


def frames_of(stage: str, clip_frames: int) -> int:
    """Of what is cut from a video: the clip, and for the expert the sound before and after it."""
    return clip_frames + (2 * MAX_SHIFT * TUBELET[0] if stage == "expert" else 0)


@dataclass(frozen=True, kw_only=True)
class M2SDConfig:
    """models/m2sd/config.py: stage, student, head, what it distils, alignment."""

    stage: str = opt(
        "finetune",
        "what is trained: the pixel-wise teacher, the audio-visual expert, the student without labels, or "
        "with labels",
        choices=STAGES,
    )
    vit: str = opt("base", "size of the vision transformer of this stage", choices=tuple(STUDENTS))
    image_size: int = opt(224, "side in pixels of the aligned face; published: 224, 384 and 512")
    clip_frames: int = opt(16, "consecutive frames of a clip: --window_s times --video_fps")
    fake_index: int = opt(
        0,
        "which of the head's two scores is that of a fake. The published script reads 0 as fake; its unused "
        "heads have real first, so compare known clips before you trust a published file",
    )
    init_from: Path | None = opt(
        None,
        "start from VideoMAE's weights (its own files or transformers', pre-trained or fine-tuned); a "
        "student also from M2SD.pt, or the checkpoint of its pre-training. A resumed run reads it again",
    )
    first_weights: str = opt(
        "published",
        "of a student without init_from. published: deviation 0.02, for 768 inputs; narrow: larger, and more "
        "of a tubelet's detail, for tiny networks, which learn little in a few thousand steps otherwise",
        choices=("published", "narrow"),
    )
    teacher: Path | None = opt(
        None, "checkpoint of stage teacher, or VideoMAE's weights. A resumed run reads the file again"
    )
    teacher_vit: str = opt("same", "size of the teacher; same: as --vit", choices=("same", *STUDENTS))
    expert: Path | None = opt(None, "checkpoint of stage expert. A resumed run reads the file again")
    stp: str = opt(
        "none",
        "what the student predicts of masked tubelets: the teacher's features (tokens), standardised pixels, "
        "or both",
        choices=("none", "tokens", "pixels", "both"),
    )
    vac: str = opt(
        "none",
        "what it predicts of the expert: slots of the picture, or for half of the clips with real sound "
        "those of the sound (mixed)",
        choices=("none", "video", "mixed"),
    )
    mask_ratio: float = opt(0.9, "share of a clip's places that are masked, in all slots alike")
    mask_parts: bool = opt(
        False, "mask eyes, nose, mouth and hair first, where a clip's mean landmarks have them, as in MARLIN"
    )
    head_init_scale: float = opt(
        0.001,
        "factor of the head's first weights; the published default 0 sends no gradient into the network in "
        "the first step",
    )
    real_direction: bool = opt(
        False, "learn the direction of real features that --real_similarity margin draws reals to"
    )
    drop_path: float = opt(0.1, "how often a clip skips a part of the last block; falls to 0 at the first")
    layer_decay: float = opt(
        0.75, "learning rate of each block as a share of the next one's; the head has --learning_rate"
    )
    align: bool = opt(
        True, "turn and scale a clip by five landmarks, all frames alike; false = crops as prepared, resized"
    )
    jitter_px: float = opt(
        4.0, "in training, move each of the five points of the template by up to this, in 224 pixels"
    )

    def __post_init__(self) -> None:
        for name, side in (("clip_frames", TUBELET[0]), ("image_size", TUBELET[1])):
            if getattr(self, name) < side or getattr(self, name) % side:
                raise ValueError(f"{name} must be a multiple of {side}, got {getattr(self, name)}")
        frames, rows, _ = TUBELET
        if (self.clip_frames // frames) * (self.image_size // rows) ** 2 > MAX_TUBELETS:
            sizes = f"{self.clip_frames} frames of {self.image_size} pixels"
            raise ValueError(f"{sizes} are more than {MAX_TUBELETS} tubelets")
        require_between(self, 0, 1, "fake_index", "head_init_scale")
        require_at_least(self, 0, "jitter_px")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, got {self.mask_ratio}")
        if self.stage == "pretrain" and self.stp == self.vac == "none":
            raise ValueError("stage pretrain needs stp or vac: it has no labels")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        unused = {} if self.align else {"jitter_px": "align is false"}
        reason = f"stage is {self.stage}"
        if self.stage != "finetune":
            unused |= dict.fromkeys(("fake_index", "head_init_scale", "real_direction"), reason)
        if not self.is_student:
            names = ("first_weights", "teacher", "teacher_vit", "expert", "stp", "vac", "layer_decay")
            unused |= dict.fromkeys(names, reason)
        if self.stage == "expert":
            unused |= dict.fromkeys(("mask_ratio", "mask_parts", "drop_path"), reason)
        elif self.is_student:
            if self.init_from:
                unused["first_weights"] = "init_from has the weights"
            if self.stp == "none":
                unused |= dict.fromkeys(("mask_ratio", "mask_parts"), "nothing is masked without stp")
            if self.stp in ("none", "pixels"):
                unused |= dict.fromkeys(("teacher", "teacher_vit"), "stp asks for no tokens")
            if self.vac == "none":
                unused["expert"] = "vac asks for no slots"
        return unused

    @property
    def teacher_size(self) -> ViTSize:
        """Of the teacher that the student learns from."""
        return STUDENTS[self.vit if self.teacher_vit == "same" else self.teacher_vit]

    @property
    def window_frames(self) -> int:
        return frames_of(self.stage, self.clip_frames)

    @property
    def is_student(self) -> bool:
        return self.stage in ("pretrain", "finetune")
