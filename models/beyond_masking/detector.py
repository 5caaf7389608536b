"""Beyond-Masking: landmark-based distillation (LBD) and temporal alignment (MTIA) of picture and sound.

Park, Muneer, Woo: "Beyond Masking: Landmark-based Representation Learning and Knowledge-Distillation for
Audio-Visual Deepfake Detection", CIKM 2025, DOI 10.1145/3746252.3760853. Preset `released` equals the
published code of 2025-08 and loads its weights; the defaults (preset `corrected`) fix what the README's table
of deviations lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.beyond_masking.audio import AudioEncoder
from models.beyond_masking.config import PRESETS, BeyondMaskingConfig
from models.beyond_masking.frame_head import FrameHead
from models.beyond_masking.landmark import LandmarkPredictor, LandmarkReconstruction, LandmarkTeacher
from models.beyond_masking.mfcc import HOP_SAMPLES, Mfcc, centre_columns
from models.beyond_masking.mtia import Streams, TemporalAlignment, resample_steps
from models.beyond_masking.published_weights import RELEASED_KEYS, load_released
from models.beyond_masking.video import MaskedVideoEncoder, VideoFrontEnd
from models.blocks.normalization import StepNorm
from models.blocks.pooling import masked_mean
from models.method import Method
from utils.clip.files import NUM_LANDMARKS, SAMPLE_RATE_HZ
from utils.types import ClipBatch, DetectorOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class BeyondMaskingOutput(DetectorOutput):
    """What losses/beyond_masking.py reads; None where the configuration lacks the part."""

    landmark_target: Tensor | None = None  # (B, T, D) the teacher's features, detached
    video_prediction: Tensor | None = None  # (B, T, D) the video student's prediction of them
    audio_prediction: Tensor | None = None  # (B, T, D)
    # (B, T), True = no face or padding, left out of the distillation; None = all frames count
    landmark_padding_mask: Tensor | None = None
    video_embedding: Tensor | None = None  # (B, D) mean of the stream, for the contrastive term
    audio_embedding: Tensor | None = None  # (B, D)
    reconstruction: LandmarkReconstruction | None = None


class BeyondMaskingDetector(nn.Module, Method):
    """model(ClipBatch) -> BeyondMaskingOutput."""

    config_type = BeyondMaskingConfig
    presets = PRESETS
    for_losses = frozenset({"landmarks"})
    weight_sources = ("video_pretrained",)
    released_keys = RELEASED_KEYS
    min_window_s = 0.1  # with less sound the audio encoder gives no step

    def __init__(self, config: BeyondMaskingConfig) -> None:
        super().__init__()
        c = self.config = config
        self.video_front_end = VideoFrontEnd(
            c.image_size, equalize=c.equalize_luma, kinetics_normalization=c.video_encoder != "conv3d"
        )
        self.mfcc = Mfcc(c.num_mfcc, SAMPLE_RATE_HZ)
        self.video_encoder = MaskedVideoEncoder(c)
        self.audio_encoder = AudioEncoder(c.num_mfcc, c.audio_channels)
        self.video_projection = nn.Linear(self.video_encoder.out_features, c.feature_dim)
        self.audio_projection = nn.Linear(self.audio_encoder.out_features, c.feature_dim)
        if c.feature_norm:
            self.video_norm = StepNorm(self.video_encoder.out_features)
            self.audio_norm = StepNorm(self.audio_encoder.out_features)
        if c.students != "none":
            self.landmark_teacher = LandmarkTeacher(c, NUM_LANDMARKS)
            target_dim = self.landmark_teacher.out_features
            if c.students in {"both", "video"}:
                self.video_student = LandmarkPredictor(c.feature_dim, target_dim, c.dropout)
            if c.students in {"both", "audio"}:
                self.audio_student = LandmarkPredictor(c.feature_dim, target_dim, c.dropout)
        if c.temporal_alignment:
            self.alignment = TemporalAlignment(c)
        self.classifier = nn.Sequential(
            nn.Linear(c.feature_dim, c.classifier_hidden_dim),
            nn.ReLU(),
            nn.Dropout(c.dropout),
            nn.Linear(c.classifier_hidden_dim, 1),
        )
        if c.modality_heads:
            self.video_head = nn.Linear(c.feature_dim, 1)
            self.audio_head = nn.Linear(c.feature_dim, 1)
        if c.frame_head and c.temporal_alignment:
            self.frame_head = FrameHead(c.feature_dim, c.dropout)

    def forward(self, batch: ClipBatch) -> BeyondMaskingOutput:
        if batch.sample_rate_hz != SAMPLE_RATE_HZ:
            raise ValueError(f"the model takes sound of {SAMPLE_RATE_HZ} Hz, got {batch.sample_rate_hz}")
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
        video_padding_mask: Tensor | None,
        num_columns: Tensor | None,
        landmark_padding_mask: Tensor,
        *,
        video_fps: float,
    ) -> BeyondMaskingOutput:
        """The network after the front ends.

        frames: (B, 3, T, S, S). mfcc: (B, C, columns); the first `num_columns` (B,) are valid.
        landmarks: (B, T, L, 2).
        """
        exports = torch.compiler.is_exporting()  # then nothing is padded, and only scores are wanted
        masked = self.config.use_padding_masks
        if not masked or exports:
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
        # before the alignment: runs resume bit for bit only if dropout draws its numbers in this order
        parts: dict[str, Any] = {}
        if not exports:
            parts = self._distill(video, aligned_audio, landmarks, landmark_padding_mask)

        # each head sees only its own modality, before the streams are mixed
        video_mean = masked_mean(video, video_padding_mask)
        audio_mean = masked_mean(audio, audio_padding_mask)
        if self.config.temporal_alignment:
            readout, video_stream, audio_stream, fused = self.alignment(streams, aligned_audio)
            if self.config.frame_head:
                local_audio = resample_steps(streams)
                parts["frame_logits"] = self.frame_head(fused, video, local_audio, video_padding_mask)
            parts["video_embedding"] = masked_mean(video_stream, video_padding_mask)
            parts["audio_embedding"] = masked_mean(audio_stream, video_padding_mask)
        else:
            readout = video_mean + audio_mean
        parts["logits"] = self.classifier(readout).squeeze(1)
        if self.config.modality_heads:
            parts["video_logits"] = self.video_head(video_mean).squeeze(1)
            parts["audio_logits"] = self.audio_head(audio_mean).squeeze(1)
        if masked:
            parts["landmark_padding_mask"] = landmark_padding_mask
        return BeyondMaskingOutput(embedding=readout, **parts)

    def _distill(
        self, video: Tensor, aligned_audio: Tensor, landmarks: Tensor, landmark_padding_mask: Tensor
    ) -> dict[str, Any]:
        """The output's fields of teacher and students; both streams are (B, T, D)."""
        parts: dict[str, Any] = {}
        if self.config.students != "none":
            target, reconstruction = self.landmark_teacher(landmarks, landmark_padding_mask)
            parts = {"landmark_target": target, "reconstruction": reconstruction}
        if self.config.students in {"both", "video"}:
            parts["video_prediction"] = self.video_student(video)
        if self.config.students in {"both", "audio"}:
            parts["audio_prediction"] = self.audio_student(aligned_audio)
        return parts

    def _times(self, video: Tensor, audio: Tensor, video_fps: float) -> tuple[Tensor, Tensor]:
        """Middle of every frame (T,) and of every audio step (S,), in seconds from the window's start."""
        frame = torch.arange(video.shape[1], device=video.device)
        step = torch.arange(audio.shape[1], device=audio.device)
        columns_per_step = self.audio_encoder.columns_per_step
        middle_column = step * columns_per_step + (columns_per_step - 1) / 2
        return (frame + 0.5) / video_fps, middle_column * HOP_SAMPLES / SAMPLE_RATE_HZ

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        load_released(self, state)
