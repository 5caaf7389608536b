"""Beyond-Masking: landmark-based distillation (LBD) and temporal alignment (MTIA) of picture and sound.

Park, Muneer, Woo: "Beyond Masking: Landmark-based Representation Learning and Knowledge-Distillation for
Audio-Visual Deepfake Detection", CIKM 2025, DOI 10.1145/3746252.3760853. Preset `released` is the published
code of 2025-08 to the letter and takes its weights; the defaults (preset `corrected`) mend what the README's
table of deviations lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.beyond_masking.audio import AudioEncoder
from models.beyond_masking.landmark import (
    LANDMARK_TEACHERS,
    LandmarkPredictor,
    LandmarkReconstruction,
    LandmarkTeacher,
)
from models.beyond_masking.mfcc import HOP_SAMPLES, Mfcc, centre_columns
from models.beyond_masking.mtia import Streams, TemporalAlignment, resample_steps
from models.beyond_masking.video import VIDEO_ENCODERS, MaskedVideoEncoder, VideoFrontEnd
from models.blocks.normalization import StepNorm
from models.blocks.pooling import masked_mean
from models.blocks.position import sinusoidal_positions
from models.method import Method
from utils.clip.files import NUM_LANDMARKS, SAMPLE_RATE_HZ
from utils.config import opt
from utils.errors import CheckpointError
from utils.types import ClipBatch, DetectorOutput

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

# prefix in a released checkpoint -> prefix here
RELEASED_PREFIXES = {
    "cls_token": "alignment.cls_token",
    "video_extractor.feature_extractor.": "video_encoder.encoder.layers.",
    "audio_extractor.feature_extractor.": "audio_encoder.layers.",
    "video_proj.": "video_projection.",
    "audio_proj.": "audio_projection.",
    "landmark_projector.projection.": "landmark_teacher.projection.layers.",
    "video_landmark_predictor.predictor.": "video_student.layers.",
    "audio_landmark_predictor.predictor.": "audio_student.layers.",
    "video_transformer.": "alignment.video_transformer.",
    "audio_transformer.": "alignment.audio_transformer.",
    "alignment_attention.": "alignment.alignment_attention.",
    "fusion_cross_attention.": "alignment.fusion_attention.",
    "aggregation_transformer.": "alignment.aggregation_transformer.",
    "classifier.": "classifier.",
}
RELEASED_POSITIONS = "pos_encoder.pe"  # (5000, 1, D), a table that we compute instead


@dataclass(frozen=True, kw_only=True)
class BeyondMaskingConfig:
    """models/beyond_masking/detector.py: encoders, landmark teacher, alignment."""

    feature_dim: int = opt(256, "width of all feature sequences (D)")
    video_encoder: str = opt(
        "conv3d", "conv3d = the published code's; the others are torchvision's", choices=VIDEO_ENCODERS
    )
    video_pretrained: bool = opt(
        False, "start a torchvision video encoder from Kinetics-400 weights (downloads them)"
    )
    video_channels: tuple[int, ...] = opt((64, 128, 256), "widths of the conv3d video encoder's blocks")
    checkpoint_activations: bool = opt(
        False, "compute the video encoder's blocks again in the backward pass: a tenth of what is kept, the "
        "same gradients, more time"
    )  # fmt: skip
    audio_channels: tuple[int, ...] = opt((64, 128, 256), "widths of the audio encoder's three blocks")
    image_size: int = opt(224, "side in pixels that crops are resized to on the device")
    equalize_luma: bool = opt(
        True, "histogram-equalise the luma of every frame, as the published pipeline does"
    )
    num_mfcc: int = opt(40, "MFCC coefficients")
    mfcc_columns: int = opt(
        0, "take the middle N MFCC columns of the clip, zeros where there are fewer; 0 = the whole window"
    )
    transformer_nhead: int = opt(4, "attention heads")
    stream_layers: int = opt(2, "transformer layers per stream")
    feedforward_dim: int = opt(512, "width of the transformers' feed-forward layers")
    classifier_hidden_dim: int = opt(256, "width of the classifier's hidden layer")
    dropout: float = opt(0.3, "dropout everywhere")
    landmark_teacher: str = opt(
        "ema",
        "what the students learn from: ema or autoencoder learn geometry, random is the published code's "
        "untrained projection, none = raw landmarks",
        choices=LANDMARK_TEACHERS,
    )
    teacher_momentum: float = opt(0.99, "momentum of the ema teacher, per training step")
    students: str = opt("both", "which modalities predict the landmark features (ablation)", choices=STUDENTS)
    temporal_alignment: bool = opt(True, "MTIA; false = pooled streams, added and classified (ablation)")
    positions_first: bool = opt(
        True, "positions in seconds before the alignment; false = frame numbers after it"
    )
    feature_norm: bool = opt(
        True,
        "standardise encoder features over the batch: what differs between clips is small beside positions",
    )
    fusion_residual: bool = opt(
        True,
        "keep the video stream beside the fused one: without it the picture reaches the read-out only "
        "through attention weights",
    )
    use_padding_masks: bool = opt(True, "padding is invisible to convolutions, attention and pooling")
    modality_heads: bool = opt(True, "say also which modality is fake")

    def __post_init__(self) -> None:
        sizes = (
            "feature_dim",
            "num_mfcc",
            "image_size",
            "transformer_nhead",
            "stream_layers",
            "feedforward_dim",
        )
        for name in (*sizes, "classifier_hidden_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.feature_dim % 2:
            raise ValueError(f"feature_dim must be even (sinusoidal positions), got {self.feature_dim}")
        if self.feature_dim % self.transformer_nhead:
            raise ValueError(
                f"feature_dim {self.feature_dim} is no multiple of transformer_nhead {self.transformer_nhead}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 <= self.teacher_momentum < 1:
            raise ValueError(f"teacher_momentum must be in [0, 1), got {self.teacher_momentum}")
        if len(self.audio_channels) != 3 or not self.video_channels:
            raise ValueError("audio_channels needs three widths, video_channels at least one")
        if self.video_encoder == "conv3d" and self.image_size < 2 ** len(self.video_channels):
            raise ValueError(
                f"image_size {self.image_size} is too small for {len(self.video_channels)} video_channels"
            )
        if self.video_pretrained and self.video_encoder == "conv3d":
            raise ValueError(
                "video_pretrained needs a torchvision video_encoder: conv3d has no published weights"
            )

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        unused: dict[str, str] = {}
        if self.video_encoder != "conv3d":
            unused["video_channels"] = f"video_encoder is {self.video_encoder}"
        if self.students == "none":
            unused |= dict.fromkeys(("landmark_teacher", "teacher_momentum"), "students is none")
        elif self.landmark_teacher != "ema":
            unused["teacher_momentum"] = f"landmark_teacher is {self.landmark_teacher}"
        if not self.temporal_alignment:
            alignment = (
                "positions_first",
                "fusion_residual",
                "stream_layers",
                "transformer_nhead",
                "feedforward_dim",
            )
            unused |= dict.fromkeys(alignment, "temporal_alignment is false")
        return unused


@dataclass(frozen=True, slots=True, kw_only=True)
class BeyondMaskingOutput(DetectorOutput):
    """What losses/beyond_masking.py reads. None where the configuration has no such part."""

    landmark_target: Tensor | None  # (B, T, D) the teacher's features, detached
    video_prediction: Tensor | None  # (B, T, D) the video student's guess of them
    audio_prediction: Tensor | None  # (B, T, D)
    landmark_padding_mask: (
        Tensor | None
    )  # (B, T), True = no face or padding: no distillation there; None: all frames count
    video_embedding: Tensor | None  # (B, D) mean of the stream, for the contrastive term
    audio_embedding: Tensor | None  # (B, D)
    reconstruction: LandmarkReconstruction | None


class BeyondMaskingDetector(nn.Module, Method):
    """model(ClipBatch) -> BeyondMaskingOutput."""

    config_type = BeyondMaskingConfig
    presets = PRESETS
    weight_sources = ("video_pretrained",)
    min_window_s = 0.1  # with less sound the audio encoder has no step

    def __init__(self, config: BeyondMaskingConfig) -> None:
        super().__init__()
        c = self.config = config
        self.video_front_end = VideoFrontEnd(
            c.image_size, equalize=c.equalize_luma, kinetics_normalization=c.video_encoder != "conv3d"
        )
        self.mfcc = Mfcc(c.num_mfcc, SAMPLE_RATE_HZ)
        self.video_encoder = MaskedVideoEncoder(
            c.video_encoder, c.video_channels,
            pretrained=c.video_pretrained, checkpoint_activations=c.checkpoint_activations,
        )  # fmt: skip
        self.audio_encoder = AudioEncoder(c.num_mfcc, c.audio_channels)
        self.video_projection = nn.Linear(self.video_encoder.out_features, c.feature_dim)
        self.audio_projection = nn.Linear(self.audio_encoder.out_features, c.feature_dim)
        if c.feature_norm:
            self.video_norm = StepNorm(self.video_encoder.out_features)
            self.audio_norm = StepNorm(self.audio_encoder.out_features)
        if c.students != "none":
            self.landmark_teacher = LandmarkTeacher(
                c.landmark_teacher, NUM_LANDMARKS, c.feature_dim, c.teacher_momentum
            )
            target_dim = self.landmark_teacher.out_features
            if c.students in {"both", "video"}:
                self.video_student = LandmarkPredictor(c.feature_dim, target_dim, c.dropout)
            if c.students in {"both", "audio"}:
                self.audio_student = LandmarkPredictor(c.feature_dim, target_dim, c.dropout)
        if c.temporal_alignment:
            self.alignment = TemporalAlignment(
                c.feature_dim, c.transformer_nhead, c.stream_layers, c.feedforward_dim, c.dropout,
                positions_first=c.positions_first, fusion_residual=c.fusion_residual,
            )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(c.feature_dim, c.classifier_hidden_dim),
            nn.ReLU(),
            nn.Dropout(c.dropout),
            nn.Linear(c.classifier_hidden_dim, 1),
        )
        if c.modality_heads:
            self.video_head = nn.Linear(c.feature_dim, 1)
            self.audio_head = nn.Linear(c.feature_dim, 1)

    def forward(self, batch: ClipBatch) -> BeyondMaskingOutput:
        if batch.sample_rate_hz != SAMPLE_RATE_HZ:
            raise ValueError(
                f"the batch has {batch.sample_rate_hz} Hz sound, the model takes {SAMPLE_RATE_HZ}"
            )
        frames = self.video_front_end(batch.video, is_equalized=batch.is_equalized)
        mfcc, num_columns = self.mfcc(batch.waveform, batch.audio_padding_mask)
        if self.config.mfcc_columns:
            mfcc = centre_columns(mfcc, num_columns, self.config.mfcc_columns)
            num_columns = num_columns.clamp_max(self.config.mfcc_columns)
        masks = (batch.video_padding_mask, num_columns, batch.landmark_padding_mask)
        return self.forward_features(frames, mfcc, batch.landmarks, *masks, video_fps=batch.video_fps)

    def forward_features(
        self,
        frames: Tensor,
        mfcc: Tensor,
        landmarks: Tensor,
        video_padding_mask: Tensor,
        num_columns: Tensor,
        landmark_padding_mask: Tensor,
        *,
        video_fps: float,
    ) -> BeyondMaskingOutput:
        """The network behind the front ends.

        frames: (B, 3, T, S, S). mfcc: (B, C, columns) of which `num_columns` (B,) are valid. landmarks: (B,
        T, L, 2).
        """
        masked = self.config.use_padding_masks
        if not masked:
            video_padding_mask = num_columns = None
        video = self.video_encoder(frames, video_padding_mask)
        audio, audio_padding_mask = self.audio_encoder(mfcc, num_columns)
        if self.config.feature_norm:
            video = self.video_norm(video, video_padding_mask)
            audio = self.audio_norm(audio, audio_padding_mask)
        video = self.video_projection(video)  # (B, T, D)
        audio = self.audio_projection(audio)  # (B, S, D)
        streams = Streams(
            video, audio, *self._times(video, audio, video_fps), video_padding_mask, audio_padding_mask
        )
        aligned_audio = (
            self.alignment.align(streams) if self.config.temporal_alignment else resample_steps(streams)
        )

        target = reconstruction = video_prediction = audio_prediction = None
        if self.config.students != "none":
            target, reconstruction = self.landmark_teacher(landmarks, landmark_padding_mask)
            if self.config.students in {"both", "video"}:
                video_prediction = self.video_student(video)
            if self.config.students in {"both", "audio"}:
                audio_prediction = self.audio_student(aligned_audio)

        # each head sees its own modality alone, before the streams are mixed
        video_mean, audio_mean = (
            masked_mean(video, video_padding_mask),
            masked_mean(audio, audio_padding_mask),
        )
        video_embedding = audio_embedding = None
        if self.config.temporal_alignment:
            readout, video_stream, audio_stream = self.alignment(streams, aligned_audio)
            video_embedding = masked_mean(video_stream, video_padding_mask)
            audio_embedding = masked_mean(audio_stream, video_padding_mask)
        else:
            readout = video_mean + audio_mean
        heads = self.config.modality_heads
        return BeyondMaskingOutput(
            logits=self.classifier(readout).squeeze(1),
            video_logits=self.video_head(video_mean).squeeze(1) if heads else None,
            audio_logits=self.audio_head(audio_mean).squeeze(1) if heads else None,
            landmark_target=target,
            video_prediction=video_prediction,
            audio_prediction=audio_prediction,
            landmark_padding_mask=landmark_padding_mask if masked else None,
            video_embedding=video_embedding,
            audio_embedding=audio_embedding,
            reconstruction=reconstruction,
        )

    def _times(self, video: Tensor, audio: Tensor, video_fps: float) -> tuple[Tensor, Tensor]:
        """Middle of every frame (T,) and of every audio step (S,), in seconds from the window's start."""
        frame = torch.arange(video.shape[1], device=video.device)
        step = torch.arange(audio.shape[1], device=audio.device)
        columns_per_step = self.audio_encoder.columns_per_step
        middle_column = step * columns_per_step + (columns_per_step - 1) / 2
        return (frame + 0.5) / video_fps, middle_column * HOP_SAMPLES / SAMPLE_RATE_HZ

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the published code (bare state_dict, its own key names), every key strictly.

        Raises CheckpointError where keys or shapes do not fit, or where its position table is not the
        sinusoid.
        """
        renamed: dict[str, Tensor] = {}
        for key, value in state.items():
            if key == RELEASED_POSITIONS:
                table = sinusoidal_positions(torch.arange(len(value)), value.shape[-1])
                if not torch.allclose(value[:, 0].float(), table, atol=2e-3):
                    raise CheckpointError(
                        f"{key} is not the sinusoidal table: not a released Beyond-Masking checkpoint"
                    )
                continue
            prefix = next((p for p in RELEASED_PREFIXES if key.startswith(p)), None)
            if prefix is None:
                raise CheckpointError(f"unknown key {key!r}: not a released Beyond-Masking checkpoint")
            renamed[RELEASED_PREFIXES[prefix] + key.removeprefix(prefix)] = value
        try:
            self.load_state_dict(renamed, strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"the released checkpoint does not fit (is --preset released set?): {error}"
            ) from error
