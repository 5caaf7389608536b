"""What is done to a window's frames and landmarks before they become tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from loaders.batches.data_config import DataConfig

ERASED_SHARE = (0.02, 0.33)  # of a picture, as in RealForensics (stage2/conf/data/crop_type/full_face.yaml)
ERASED_RATIO = (0.3, 3.3)  # of height and width, as torchvision's RandomErasing draws them
Frames = npt.NDArray[np.uint8]  # (T, H, W, 3) RGB
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


def change_frames(frames: Frames, config: DataConfig, key: Sequence[int]) -> Frames:
    """Frames of a training window as the flags change them at random, all of a window alike.

    Each flag has a stream of its own, from `key` (seed, epoch, repetition, clip), so that it moves neither
    the windows nor what another flag draws.
    """
    if config.augment:
        frames = jitter_color(frames, np.random.default_rng((*key, 1)))
    if np.random.default_rng((*key, 2)).random() < config.gray_chance:
        frames = without_color(frames)
    rng = np.random.default_rng((*key, 3))
    return erase_rectangle(frames, rng) if rng.random() < config.erase_chance else frames


def without_color(frames: Frames) -> Frames:
    """Frames with their luma (of BT.601) in all three channels."""
    stacked = cv2.cvtColor(frames.reshape(-1, *frames.shape[2:]), cv2.COLOR_RGB2GRAY)  # (T*H, W)
    return np.repeat(stacked.reshape(*frames.shape[:3], 1), 3, axis=3)


def erase_rectangle(frames: Frames, rng: np.random.Generator) -> Frames:
    """Frames with one random rectangle, the same in all, in their mean colour: about 0 once normalised."""
    height, width = frames.shape[1:3]
    share = rng.uniform(*ERASED_SHARE)
    ratio = math.exp(rng.uniform(*np.log(ERASED_RATIO)))
    ratio = min(max(ratio, share), 1 / share)  # so that it fits
    rows, columns = round(math.sqrt(share * ratio) * height), round(math.sqrt(share / ratio) * width)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    erased = frames.copy()
    erased[:, top : top + rows, left : left + columns] = frames.mean(axis=(0, 1, 2)).round()
    return erased


def jitter_color(frames: Frames, rng: np.random.Generator) -> Frames:
    """Frames (T, H, W, 3) with one random gain (0.8 to 1.2) and one random offset per channel (-25 to 25)."""
    gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-25, 25, 3)
    table = np.arange(256)[:, None] * gain + offset  # (256, 3)
    table = table.round().clip(0, 255).astype(np.uint8)
    stacked = cv2.LUT(frames.reshape(-1, *frames.shape[2:]), table[None])  # (T*H, W, 3)
    return np.asarray(stacked, np.uint8).reshape(frames.shape)
