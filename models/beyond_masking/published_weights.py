"""Translate checkpoints of the published Beyond-Masking code to our parameter names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.blocks.position import sinusoidal_positions
from utils.errors import CheckpointError

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
RELEASED_POSITIONS = "pos_encoder.pe"  # (5000, 1, D), computed here instead


def translate_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict of a published checkpoint under our names.

    Raises CheckpointError for an unknown key, or if its position table is not the sinusoid.
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
    return renamed
