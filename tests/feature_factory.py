"""Cached features that no encoder computed, as preprocess.extract_features would have written them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from models.backbones.menu import BACKBONES
from preprocess.features.extraction import NO_WEIGHTS, RANDOM_WEIGHTS
from tests.clip_factory import feature_info
from utils.clip.features import write_features
from utils.clip.files import VIDEO_NAME, find_audio
from utils.clip.frames import open_crop
from utils.clip.packed import FEATURES
from utils.clip_type import EMOTIONS


def random_recipe(backbone: str) -> dict[str, Any]:
    """The recipe of --random_weights."""
    weights = NO_WEIGHTS if BACKBONES[backbone].weights is None else RANDOM_WEIGHTS
    settings = BACKBONES[backbone].settings() | {"precision": "fp32"}
    return {"backbone": backbone, "weights": weights, "weights_sha256": weights, "settings": settings}


def write_noise_features(
    folder: Path, backbone: str, *, fake: bool = False, emotion: str = "", seed: int = 0
) -> None:
    """As many rows as the clip's length asks for, of noise; those of a fake are higher on average, and every
    eighth value of an emotion is.
    """
    about = BACKBONES[backbone]
    with open_crop(folder / VIDEO_NAME) as crop:
        fps, num_frames = crop.fps, crop.num_frames
    plan, source = about.plan(fps, num_frames), folder / VIDEO_NAME
    if about.hears and not about.sees:
        rate = about.sample_rate_hz
        plan, source = about.plan(Fraction(rate), round(num_frames / fps * rate)), find_audio(folder)
    rows = np.random.default_rng(seed).standard_normal((plan.num_rows, about.width)) + fake
    if emotion:
        rows[:, EMOTIONS.index(emotion) :: len(EMOTIONS)] += 2
    info = dataclasses.replace(
        feature_info("1"), **random_recipe(backbone), source=source.name, step_s=str(plan.step_s),
        length_s=str(plan.length_s),
    )  # fmt: skip
    write_features(folder, FEATURES + backbone, rows.astype(np.float32), info)
