"""Landmark teachers and the students' predictors (LBD).

random       a projection that is never trained (the published code)
autoencoder  trained to fill in coordinates and velocities of hidden landmarks; its detached output is the
             target
ema          the teacher is an exponential moving average of the autoencoder: a target that moves slowly
none         the target is the landmark vector itself (an ablation row of the paper)
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.beyond_masking.config import BeyondMaskingConfig

HIDDEN_SHARE = 0.5  # of the points, in training


class LandmarkProjection(nn.Sequential):
    """Linear, ReLU, Linear on every frame: (B, T, F) -> (B, T, D)."""

    def __init__(self, in_features: int, feature_dim: int) -> None:
        first, last = nn.Linear(in_features, feature_dim), nn.Linear(feature_dim, feature_dim)
        super().__init__(OrderedDict(layers=nn.Sequential(first, nn.ReLU(), last)))


@dataclass(frozen=True, slots=True)
class LandmarkReconstruction:
    """The landmark encoder's prediction, its target, and which points were hidden from it."""

    prediction: Tensor  # (B, T, L, 4): x, y and their velocities
    target: Tensor  # (B, T, L, 4)
    hidden: Tensor  # (B, 1, L) bool, True = hidden from the encoder


def landmark_velocities(landmarks: Tensor) -> Tensor:
    """Central differences over time, (B, T, L, 2) -> (B, T, L, 2), per frame; 0 at both ends."""
    inner = (landmarks[:, 2:] - landmarks[:, :-2]) / 2
    return F.pad(inner, (0, 0, 0, 0, 1, 1)) if landmarks.shape[1] > 2 else torch.zeros_like(landmarks)


class LandmarkTeacher(nn.Module):
    """Landmarks (B, T, L, 2) -> detached target features (B, T, D).

    The learning kinds ("ema", "autoencoder") take coordinates and velocities, and standardise their output
    over D, so that the softmax temperature has the same effect throughout training.
    """

    velocity_scale = 10.0  # brings velocities (face widths per frame) to the size of the coordinates

    def __init__(self, config: BeyondMaskingConfig, num_landmarks: int) -> None:
        super().__init__()
        self.kind, self.momentum = config.landmark_teacher, config.teacher_momentum
        kind, feature_dim = self.kind, config.feature_dim
        self.learns = kind in {"ema", "autoencoder"}
        self.out_features = 2 * num_landmarks if kind == "none" else feature_dim
        if kind == "random":
            self.projection = LandmarkProjection(2 * num_landmarks, feature_dim).requires_grad_(False)
        if self.learns:
            self.encoder = LandmarkProjection(4 * num_landmarks, feature_dim)
            self.decoder = nn.Linear(feature_dim, 4 * num_landmarks)
            self.mask_token = nn.Parameter(torch.zeros(num_landmarks, 4))
        if kind == "ema":
            self.average = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(
        self, landmarks: Tensor, padding_mask: Tensor
    ) -> tuple[Tensor, LandmarkReconstruction | None]:
        """padding_mask: (B, T), True = no face. The reconstruction is None if the teacher does not learn."""
        if not self.learns:
            flat = landmarks.flatten(2)  # (B, T, 2L)
            return (self.projection(flat) if self.kind == "random" else flat).detach(), None
        if self.kind == "ema" and self.training:
            self._update_average()
        absent = padding_mask | padding_mask.roll(1, dims=1) | padding_mask.roll(-1, dims=1)
        velocities = landmark_velocities(landmarks).masked_fill(absent[..., None, None], 0.0)
        points = torch.cat([landmarks, velocities * self.velocity_scale], dim=-1)  # (B, T, L, 4)
        hidden = self._choose_hidden(points)
        seen = torch.where(hidden[..., None], self.mask_token, points)
        prediction = self.decoder(F.relu(self.encoder(seen.flatten(2)))).view_as(points)
        with torch.no_grad():
            target_encoder = self.average if self.kind == "ema" else self.encoder
            target = target_encoder(points.flatten(2))
            target = F.layer_norm(target.float(), target.shape[-1:])
        return target, LandmarkReconstruction(prediction, points, hidden)

    @torch.no_grad()
    def _update_average(self) -> None:
        for slow, fast in zip(self.average.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1.0 - self.momentum)

    def _choose_hidden(self, points: Tensor) -> Tensor:
        """(B, 1, L) bool: the same points in all frames, or neighbouring frames would reveal them."""
        num_clips, _, num_landmarks, _ = points.shape
        if self.training:
            return torch.rand(num_clips, 1, num_landmarks, device=points.device) < HIDDEN_SHARE
        # validation is deterministic
        every_second = torch.arange(num_landmarks, device=points.device) % 2 == 0
        return every_second.expand(num_clips, 1, num_landmarks)


class LandmarkPredictor(nn.Sequential):
    """A student: predicts the teacher's features from one modality's, (B, T, D) -> (B, T, D_teacher)."""

    def __init__(self, feature_dim: int, out_features: int, dropout: float) -> None:
        first, last = nn.Linear(feature_dim, feature_dim // 2), nn.Linear(feature_dim // 2, out_features)
        super().__init__(OrderedDict(layers=nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)))
