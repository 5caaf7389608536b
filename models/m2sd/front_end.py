"""Clips of faces on the device as M2SD sees them: 16 frames, aligned together, normalised."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.blocks.alignment import TEMPLATE_SIDE, five_points, similarity_to, template, warp
from models.blocks.frames import resize_frames
from models.m2sd.config import M2SDConfig
from utils.types import ClipBatch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, RGB in 0..1


def mirrored_places(lengths: Tensor, count: int) -> Tensor:
    """(B, count) numbers of the frames to show of clips of `lengths` (B,): after the last one back again."""
    period = (2 * (lengths[:, None] - 1)).clamp_min(1)
    places = torch.arange(count, device=lengths.device) % period
    return torch.minimum(places, period - places)


class Shown(NamedTuple):
    """Clips as the network sees them, and where the face is in their pictures."""

    video: Tensor  # (B, 3, window_frames, S, S) float32, normalised
    # (B, 478, 2) means of a clip's landmarks in units of its sides, NaN without any; None without mask_parts
    points: Tensor | None


class AlignedClips(nn.Module):
    """ClipBatch -> Shown.

    The batch's landmarks are in units of the crop (--landmark_normalization crop). A clip without any is
    shown as prepared. Too short clips are mirrored at their end, as the published code mirrors them at both.
    In training the template's points are moved at random, and half of the clips are mirrored.
    """

    stays_eager = True  # random numbers on the CPU
    mean: Tensor
    std: Tensor
    template: Tensor

    def __init__(self, config: M2SDConfig) -> None:
        super().__init__()
        self.config = config
        # small pictures are warped at 224 first: a warp to a smaller size would let detail alias
        self.side = max(config.image_size, TEMPLATE_SIDE)
        constants = {"mean": torch.tensor(MEAN), "std": torch.tensor(STD)}
        for name, value in constants.items():
            self.register_buffer(name, value[:, None, None, None], persistent=False)
        self.register_buffer("template", template(self.side).float(), persistent=False)

    @torch.no_grad()
    def forward(self, batch: ClipBatch) -> Shown:
        with torch.autocast(batch.video.device.type, enabled=False):  # places of pixels need float32
            places = mirrored_places((~batch.video_padding_mask).sum(1), self.config.window_frames)
            video = batch.video
            face = _mean_face(batch) if self.config.mask_parts else None
            if self.config.align:
                points = _of_frames(five_points(batch.landmarks), places)
                known = _of_frames(~batch.landmark_padding_mask, places)
                matrices = self._matrices(video, points, known)
                if face is not None:
                    face = self._moved(face, matrices, video)
                video = warp(video, matrices, self.side)
            if video.shape[-1] != self.config.image_size or video.shape[-2] != video.shape[-1]:
                # clip by clip, which a CPU's caches hold
                clips = (video,) if torch.compiler.is_exporting() else video.split(1)
                video = torch.cat([resize_frames(clip, self.config.image_size) for clip in clips])
            video = _of_frames(video.transpose(1, 2), places).transpose(1, 2)  # now that frames are small
            if self.training:
                mirrored = (torch.rand(len(video)) < 0.5).to(video.device)
                video = torch.where(mirrored[:, None, None, None, None], video.flip(-1), video)
                if face is not None:
                    turned = torch.stack([1 - face[..., 0], face[..., 1]], dim=-1)
                    face = torch.where(mirrored[:, None, None], turned, face)
            return Shown((video / 255 - self.mean) / self.std, face)

    def levels(self, video: Tensor) -> Tensor:
        """Normalised pictures -> their levels in 0..1."""
        return video * self.std + self.mean

    def _matrices(self, video: Tensor, points: Tensor, known: Tensor) -> Tensor:
        """(B, 2, 3) from pixels of the crops to those of the result, see `warp`.

        points: (B, T, 5, 2) in units of the crop; known: (B, T) bool, where there are any.
        """
        unit = _sides(video)
        counts = known.sum(1).clamp_min(1)[:, None, None]
        points = torch.where(known[..., None, None], points, 0.0).sum(1) / counts * unit
        targets = self.template.expand(video.shape[0], -1, -1)
        if self.training:
            moves = (2 * torch.rand(targets.shape) - 1) * self.config.jitter_px * self.side / TEMPLATE_SIDE
            targets = targets + moves.to(targets)
        matrices = similarity_to(targets, points)
        scale = (self.side / unit).diag()
        whole = torch.cat([scale, (scale.sum(1, keepdim=True) - 1) / 2], dim=1)  # the crop as it is
        fits = known.any(1) & matrices.isfinite().all(dim=(1, 2))
        return torch.where(fits[:, None, None], matrices, whole)

    def _moved(self, face: Tensor, matrices: Tensor, video: Tensor) -> Tensor:
        """The places (B, L, 2) of the crops of `video` in the result, both in units of the sides."""
        pixels = face * _sides(video) @ matrices[:, :, :2].mT + matrices[:, None, :, 2]
        return (pixels + 0.5) / self.side  # centres of pixels are whole numbers


def _sides(video: Tensor) -> Tensor:
    """(2,) width and height."""
    return torch.tensor([video.shape[-1], video.shape[-2]], device=video.device)


def _mean_face(batch: ClipBatch) -> Tensor:
    """(B, 478, 2) means of the landmarks of frames that have them; NaN where none has."""
    known = ~batch.landmark_padding_mask
    return torch.where(known[..., None, None], batch.landmarks, 0.0).sum(1) / known.sum(1)[:, None, None]


def _of_frames(values: Tensor, places: Tensor) -> Tensor:
    """(B, n, ...) of (B, T, ...), by the numbers of frames (B, n)."""
    return values[torch.arange(values.shape[0], device=values.device)[:, None], places]
