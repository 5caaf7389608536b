"""What the student predicts of teacher and expert, and their answers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.backbones.av_expert import PROJECTED, slot_means
from models.backbones.videomae import PIXELS
from models.blocks.vit import MaskedDecoder, TubeletViT
from models.m2sd.config import STUDENTS, M2SDConfig, decoder_of
from models.m2sd.front_end import Shown
from models.m2sd.teachers import Frozen, Parts, masked_pixels, masks_of, sound_of
from utils.errors import UsageError
from utils.types import ClipBatch


class Distiller(nn.Module):
    """The heads of distillation: distiller(vit, frozen, ...) -> the fields of M2SDOutput that they fill."""

    def __init__(self, config: M2SDConfig) -> None:
        super().__init__()
        self.config = config
        width = STUDENTS[config.vit].width
        if config.stp != "none":
            widths = {"tokens": config.teacher_size.width, "pixels": PIXELS}
            self.kinds = tuple(name for name in widths if config.stp in (name, "both"))
            outputs = [widths[name] for name in self.kinds]
            grid = config.clip_frames // 2, config.image_size // 16, config.image_size // 16
            self.decoder = MaskedDecoder(
                decoder_of(config.vit), width, math.prod(grid), outputs, class_token=True
            )
        if config.vac != "none":
            self.slot_head, self.clip_head = (
                nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, PROJECTED))
                for _ in range(2)
            )

    def forward(
        self,
        vit: TubeletViT,
        frozen: Frozen,
        tokens: Tensor | None,
        shown: Shown,
        levels: Tensor,
        batch: ClipBatch,
    ) -> Parts:
        """tokens: (B, 1 + N, E) of the whole clip, for slots; levels: (B, 3, T, S, S), the video in 0..1."""
        parts: Parts = {}
        if self.config.stp != "none" and (self.training or hasattr(frozen, "teacher")):
            parts |= self._patterns(vit, frozen, shown, levels)
        if self.config.vac != "none" and (self.training or hasattr(frozen, "expert")):
            assert tokens is not None
            parts |= self._slots(vit, frozen, tokens, shown.video, batch)
        return parts

    def _patterns(self, vit: TubeletViT, frozen: Frozen, shown: Shown, levels: Tensor) -> Parts:
        video = shown.video
        masked = masks_of(shown, vit.grid, self.config.mask_ratio, training=self.training)
        predictions = self.decoder(vit(video, ~masked), masked)
        parts: Parts = {}
        for name, predicted in zip(self.kinds, predictions, strict=True):
            if name == "pixels":
                parts |= {"pixel_predictions": predicted, "pixel_targets": masked_pixels(levels, masked)}
                continue
            if not hasattr(frozen, "teacher"):
                raise UsageError("--stp tokens needs the pixel-wise teacher: --teacher")
            with torch.no_grad():
                features = frozen.teacher(video)
            targets = features[masked].view(len(video), -1, features.shape[2])
            parts |= {"token_predictions": predicted, "token_targets": targets}
        return parts

    def _slots(
        self, vit: TubeletViT, frozen: Frozen, tokens: Tensor, video: Tensor, batch: ClipBatch
    ) -> Parts:
        if not hasattr(frozen, "expert"):
            raise UsageError(f"--vac {self.config.vac} needs the audio-visual expert: --expert")
        with torch.no_grad():
            targets = frozen.expert.video_slots(video)
            if self.config.vac == "mixed" and self.training:
                heard = frozen.expert.audio_slots(sound_of(batch), batch.sample_rate_hz)
                has_sound = (batch.waveform != 0).any(1) & (batch.audio_labels == 0)
                chosen = has_sound & (torch.rand(len(video)) < 0.5).to(has_sound.device)
                targets = torch.where(chosen[:, None, None], heard, targets)
        slots = slot_means(tokens[:, 1:], vit.grid[0])
        return {
            "slot_predictions": self.slot_head(slots),
            "clip_predictions": self.clip_head(tokens[:, 0]),
            "slot_targets": targets,
        }
