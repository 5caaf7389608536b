"""MTIA, Multimodal Temporal Information Alignment: two feature sequences -> one vector per clip.

Alignment attention resamples the sound to the video's time steps, a transformer encodes each stream,
cross-attention fuses them, and a CLS token aggregates the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.beyond_masking.config import BeyondMaskingConfig
from models.blocks.position import sinusoidal_positions

POSITIONS_PER_SECOND = 25.0  # frames of 25 fps video are one position apart


@dataclass(frozen=True, slots=True)
class Streams:
    """Two feature sequences on their own clocks."""

    video: Tensor  # (B, T, D)
    audio: Tensor  # (B, S, D)
    video_times_s: Tensor  # (T,) middle of each frame
    audio_times_s: Tensor  # (S,) middle of each step
    video_padding_mask: Tensor | None  # (B, T), True = padding; None = no padding
    audio_padding_mask: Tensor | None  # (B, S)


def resample_steps(streams: Streams) -> Tensor:
    """Audio features (B, T, D), interpolated linearly at the times of the video frames.

    Alignment without attention, for the ablation rows without MTIA.
    """
    audio = streams.audio
    step_s = (streams.audio_times_s[1] - streams.audio_times_s[0]) if audio.shape[1] > 1 else 1.0
    place = (streams.video_times_s - streams.audio_times_s[0]) / step_s  # (T,) in audio steps
    last: Tensor | float = audio.shape[1] - 1.0
    if streams.audio_padding_mask is not None:
        last = ((~streams.audio_padding_mask).sum(dim=1, keepdim=True) - 1.0).clamp_min(0.0)  # (B, 1)
    place = place.clamp_min(0.0).expand(audio.shape[0], -1).clamp(max=last)
    before = place.floor().long()
    after = place.ceil().long()
    share = (place - before)[..., None].to(audio.dtype)
    rows = torch.arange(audio.shape[0], device=audio.device)[:, None]
    return audio[rows, before] * (1 - share) + audio[rows, after] * share


class TemporalAlignment(nn.Module):
    """The MTIA module.

    `positions_first` adds positions in seconds to the alignment's queries and keys; without it (published
    code) the alignment does not know the order of the audio steps. `fusion_residual` adds the video stream to
    the fused one; without it the picture reaches the read-out only through attention weights.
    """

    def __init__(self, config: BeyondMaskingConfig) -> None:
        super().__init__()
        c = self.config = config

        def attention() -> nn.MultiheadAttention:
            return nn.MultiheadAttention(c.feature_dim, c.transformer_nhead, c.dropout, batch_first=True)

        def encoder(num_layers: int) -> nn.TransformerEncoder:
            sizes = (c.feature_dim, c.transformer_nhead, c.feedforward_dim)
            layer = nn.TransformerEncoderLayer(*sizes, c.dropout, batch_first=True)
            return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)

        self.alignment_attention = attention()
        self.video_transformer = encoder(c.stream_layers)
        self.audio_transformer = encoder(c.stream_layers)
        self.fusion_attention = attention()
        self.fusion_norm = nn.LayerNorm(c.feature_dim) if c.fusion_residual else nn.Identity()
        self.cls_token = nn.Parameter(torch.randn(1, 1, c.feature_dim))
        self.aggregation_transformer = encoder(1)
        self.position_dropout = nn.Dropout(c.dropout)

    def _positions(self, times_s: Tensor, features: Tensor) -> Tensor:
        """(T, D) in the dtype of `features` (B, T, D)."""
        positions = times_s * POSITIONS_PER_SECOND
        if not self.config.positions_first:
            positions = torch.arange(times_s.shape[0], device=times_s.device)
        return sinusoidal_positions(positions, self.config.feature_dim).to(features.dtype)

    def align(self, streams: Streams) -> Tensor:
        """Audio features at the video's time steps, (B, T, D)."""
        query, keys = streams.video, streams.audio
        if self.config.positions_first:
            query = query + self._positions(streams.video_times_s, query)
            keys = keys + self._positions(streams.audio_times_s, keys)
        aligned, _ = self.alignment_attention(
            query, keys, streams.audio, key_padding_mask=streams.audio_padding_mask, need_weights=False
        )
        return aligned

    def forward(self, streams: Streams, aligned_audio: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read-out (B, D), and video, audio and fused stream (B, T, D); aligned_audio: of `align`."""
        video, padding = streams.video, streams.video_padding_mask
        positions = self._positions(streams.video_times_s, video)
        video = self.position_dropout(video + positions)
        video = self.video_transformer(video, src_key_padding_mask=padding)
        audio = self.position_dropout(aligned_audio + positions)
        audio = self.audio_transformer(audio, src_key_padding_mask=padding)
        fused, _ = self.fusion_attention(video, audio, audio, key_padding_mask=padding, need_weights=False)
        if self.config.fusion_residual:
            fused = self.fusion_norm(video + fused)
        cls = self.cls_token.expand(fused.shape[0], -1, -1).to(fused.dtype)
        tokens = torch.cat([cls, fused], dim=1)  # (B, 1 + T, D)
        if padding is not None:
            padding = torch.cat([torch.zeros_like(padding[:, :1]), padding], dim=1)
        read = self.aggregation_transformer(tokens, src_key_padding_mask=padding)
        return read[:, 0], video, audio, read[:, 1:]
