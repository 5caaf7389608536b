"""Detectors out of checkpoints: the model with its weights, and how its scores become verdicts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import nn

from models import MODELS
from utils.config import from_args
from utils.decision import Decision
from utils.errors import CheckpointError, UsageError


def model_type_of(name: str) -> Any:
    """The class of a method. Raises UsageError if there is none of that name."""
    if name not in MODELS:
        raise UsageError(f"unknown model {name}; there are {', '.join(sorted(MODELS))}")
    return MODELS[name]


def restore_model(content: dict[str, Any], path: Path, bare: nn.Module | None = None) -> nn.Module:
    """The model of a run's checkpoint, configured as it says; `bare` with the weights of a bare state_dict.

    `content` is what load_checkpoint read from `path`. Raises CheckpointError if weights and model do not go
    together, UsageError if the configuration is none of this version's.
    """
    model = bare
    if model is None:
        saved = content["config"]
        model_type = model_type_of(saved["train"]["model"])
        config = from_args(model_type.config_type, argparse.Namespace(), ("the checkpoint", saved["model"]))
        model = model_type(config)
    try:
        if "released" in content:
            model.load_released(content["released"])
        else:
            model.load_state_dict(content["model"])
    except (RuntimeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model


def restore_decision(content: dict[str, Any], path: Path) -> Decision | None:
    """The decision of a checkpoint, None if it holds none. Raises CheckpointError if it is damaged."""
    if "decision" not in content:
        return None
    try:
        return Decision.from_plain(content["decision"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
