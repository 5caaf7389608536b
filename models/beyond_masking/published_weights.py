"""Checkpoints of the published Beyond-Masking code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.blocks.position import sinusoidal_positions
from models.blocks.published import load_renamed
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
RELEASED_KEYS = (*RELEASED_PREFIXES, RELEASED_POSITIONS)


def load_released(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a checkpoint of the published code (a bare state_dict); every key must match.

    Raises CheckpointError if keys or shapes do not fit, or if its position table is not the sinusoid.
    """
    weights = dict(state)
    table = weights.pop(RELEASED_POSITIONS, None)
    if table is not None:
        sinusoid = sinusoidal_positions(torch.arange(len(table)), table.shape[-1])
        if not torch.allclose(table[:, 0].float(), sinusoid, atol=2e-3):
            raise CheckpointError(
                f"{RELEASED_POSITIONS} is not the sinusoidal table: not a released checkpoint"
            )
    load_renamed(model, weights, RELEASED_PREFIXES)
