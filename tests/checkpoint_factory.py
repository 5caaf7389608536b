"""Checkpoints of small networks with random weights, of every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import train
from loaders.batches.data_config import DataConfig
from models import MODELS
from tests.feature_factory import random_recipe
from utils.checkpoint.files import save_checkpoint
from utils.clip.packed import FEATURES

SIZES = {
    "exposing_deception": "--num_libs 2 --backbone mobilenet_v1 --image_size 32 --fusion_dims 16 8",
    "beyond_masking": "--image_size 32 --video_channels 4 8 --audio_channels 8 8 8 --feature_dim 16 "
    "--feedforward_dim 16 --classifier_hidden_dim 16",
    "m2sd": "--vit tiny --image_size 32",
    "mrdf": "--image_size 16 --crop_size 14 --feature_dim 16 --video_channels 4 4 8 8 --position_kernel 8 "
    "--position_groups 4",
    "probe": "",
    "td3mf": "--hidden_dim 16",
}
ENCODER = ("--encoder_layers", "1", "--transformer_nhead", "4", "--feedforward_dim", "16")


def write_small_checkpoint(path: Path, model: str, *flags: str, **more: Any) -> tuple[Any, DataConfig]:
    """Write a checkpoint of a method, with `more` content; return the method and how its clips are cut."""
    config = train.parse_args(["--model", model, *SIZES[model].split(), *flags])
    torch.manual_seed(0)
    method: Any = MODELS[model](config.model)
    names = [name for name in method.inputs_of(config.model) if name.startswith(FEATURES)]
    recipes = {name: random_recipe(name.removeprefix(FEATURES)) for name in names}
    content = {"model": method.state_dict(), "config": config.as_plain(), "features": recipes}
    save_checkpoint(path, content | {"split_checksums": {}} | more)
    return method.eval(), config.data
