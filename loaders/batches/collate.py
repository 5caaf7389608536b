"""Windows -> ClipBatch: pads and masks, never filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loaders.batches.windows import ClipWindow
from utils.clip.files import SAMPLE_RATE_HZ
from utils.errors import ClipError
from utils.types import ClipBatch


@dataclass(frozen=True)
class Collate:
    """Windows of one size -> ClipBatch. Shorter ones are padded with zeros at the end and masked."""

    video_fps: float
    spread_frames: bool = False  # see ClipBatch

    def __call__(self, windows: Sequence[ClipWindow]) -> ClipBatch:
        first = windows[0]
        for window in windows:
            if window.video.shape[1:] != first.video.shape[1:]:
                sizes = f"{tuple(window.video.shape[1:3])} next to {tuple(first.video.shape[1:3])}"
                what = f"frames of {sizes} of {first.clip_id}; prepare all clips with one --crop_size"
                raise ClipError(window.clip_id, what)
            if window.is_equalized != first.is_equalized:
                what = f"either its frames or those of {first.clip_id} are packed equalised"
                raise ClipError(window.clip_id, f"{what}; pack all data sets with the same --frames")
        video, video_padding_mask = _pad([window.video for window in windows])
        waveform, audio_padding_mask = _pad([window.waveform for window in windows])
        landmarks, _ = _pad([window.landmarks for window in windows])
        frame_labels, _ = _pad([window.frame_labels for window in windows])
        forged_frames, _ = _pad([window.forged_frames for window in windows])
        has_landmarks, _ = _pad([window.has_landmarks for window in windows])
        features = {name: _pad([window.features[name] for window in windows]) for name in first.features}

        def labels(name: str) -> Tensor:
            return torch.tensor([getattr(window, name) for window in windows], dtype=torch.float32)

        return ClipBatch(
            video=video.permute(0, 4, 1, 2, 3),  # (B, 3, T, H, W), colours innermost in memory
            waveform=waveform,
            landmarks=landmarks,
            video_padding_mask=video_padding_mask,
            audio_padding_mask=audio_padding_mask,
            landmark_padding_mask=~has_landmarks,
            frame_labels=frame_labels,
            forged_frames=forged_frames.masked_fill(video_padding_mask, torch.nan),
            video_labels=labels("video_label"),
            audio_labels=labels("audio_label"),
            labels=labels("label"),
            clip_ids=tuple(window.clip_id for window in windows),
            video_fps=self.video_fps,
            spread_frames=self.spread_frames,
            is_equalized=first.is_equalized,
            sample_rate_hz=SAMPLE_RATE_HZ,
            features={name: values for name, (values, _) in features.items()},
            feature_padding_masks={name: mask for name, (_, mask) in features.items()},
        )


def _pad(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack sequences of different lengths (n_i, ...) -> (B, n, ...) and the padding mask (B, n)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    return padded, torch.arange(padded.shape[1]) >= lengths[:, None]
