"""What is done to a window's frames and landmarks before they become tensors."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Landmarks = npt.NDArray[np.float32]  # (T, 478, 2), NaN where no face was found


def normalize_landmarks(landmarks: npt.NDArray[Any], frames: npt.NDArray[np.int64], kind: str) -> Landmarks:
    """Normalised landmarks of some `frames` of a clip, whose landmarks are (T, 478, 2).

    kind: "face_box", "clip_zscore" or "crop" (see DataConfig).
    """
    if kind == "clip_zscore":
        return normalize_clip_zscore(np.asarray(landmarks, np.float32))[frames]
    shown = np.asarray(landmarks[frames], np.float32)
    return shown if kind == "crop" else normalize_face_box(shown)


def normalize_face_box(landmarks: Landmarks) -> Landmarks:
    """(T, 478, 2) in any unit -> units of the face's width, origin at the centre of its box, per frame.

    Keeps shape and pose of the face, drops its place and size. NaN stays NaN.
    """
    by_axis = np.ascontiguousarray(landmarks.transpose(0, 2, 1))  # the points innermost, for speed
    low, high = by_axis.min(axis=2)[:, None], by_axis.max(axis=2)[:, None]  # (T, 1, 2)
    width = np.maximum(high[..., :1] - low[..., :1], 1e-6)
    return (landmarks - (low + high) / 2) / width


def normalize_clip_zscore(landmarks: Landmarks) -> Landmarks:
    """(T, 478, 2) -> each coordinate standardised over the T frames (population deviation, 0 -> 1e-6)."""
    if np.isnan(landmarks).all():
        return landmarks
    mean, std = np.nanmean(landmarks, axis=0), np.nanstd(landmarks, axis=0)
    return (landmarks - mean) / np.where(std == 0, 1e-6, std)


def jitter_color(frames: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Frames (T, H, W, 3) with one random gain (0.8 to 1.2) and one random offset per channel (-25 to 25)."""
    gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-25, 25, 3)
    table = np.arange(256)[:, None] * gain + offset  # (256, 3)
    table = table.round().clip(0, 255).astype(np.uint8)
    stacked = cv2.LUT(frames.reshape(-1, *frames.shape[2:]), table[None])  # (T*H, W, 3)
    return np.asarray(stacked, np.uint8).reshape(frames.shape)
