"""Detectors out of checkpoints: the model with its weights, and how its scores become verdicts."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import MODELS
from utils.checkpoint import load_checkpoint
from utils.config import from_args
from utils.decision import Decision
from utils.errors import CheckpointError, UsageError
from utils.foreign_checkpoint import read_foreign_weights


def model_type_of(name: str) -> Any:
    """The class of a method. Raises UsageError if there is none of that name."""
    if not isinstance(name, str) or name not in MODELS:
        raise UsageError(f"unknown model {name}; there are {', '.join(sorted(MODELS))}")
    return MODELS[name]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """`load_checkpoint`, which also reads what Lightning or fairseq has wrapped around published weights."""
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        try:
            return {"released": read_foreign_weights(path)}
        except CheckpointError:
            raise error from None


def released_fields(model_type: Any, content: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """Fields of the model's configuration that the published checkpoint `content` tells; {} for a run's own.

    Raises CheckpointError if it is not one of that method.
    """
    if "released" not in content:
        return {}
    try:
        return model_type.released_fields(content["released"], Path(path).name)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def restore_model(content: dict[str, Any], path: Path, bare: nn.Module | None = None) -> nn.Module:
    """The model of a run's checkpoint, configured as it says; `bare` with the weights of a bare state_dict.

    `content` is what load_checkpoint read from `path`. Raises CheckpointError if weights and model do not go
    together, UsageError if the configuration is none of this version's.
    """
    model = bare
    if model is None:
        saved = content["config"]
        if not all(isinstance(saved.get(name), dict) for name in ("train", "model", "data")):
            raise CheckpointError(f"{path}: its configuration lacks a section")
        model_type = model_type_of(saved["train"].get("model"))
        defaults = {field.name: field.default for field in dataclasses.fields(model_type.config_type)}
        config = from_args(
            model_type.config_type,
            argparse.Namespace(),
            # its weights are in the checkpoint: where the run's first ones came from need not be there
            ("a restored model", {name: defaults[name] for name in model_type.weight_sources}),
            ("the checkpoint", saved["model"]),
        )
        _require_fitting(model_type, config, content["model"], path)
        model = model_type(config)
    try:
        if "released" in content:
            model.load_released(content["released"])
        else:
            model.load_state_dict(content["model"])
    except (RuntimeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model


def _require_fitting(model_type: Any, config: Any, weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless the weights have the names and shapes of such a model.

    Before it takes any memory: a configuration may ask for a model of any size.
    """
    try:
        with torch.device("meta"):
            shapes = {name: tuple(value.shape) for name, value in model_type(config).state_dict().items()}
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{path}: its configuration makes no model ({error})") from error
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {len(wrong)} of its {len(found)} weights are not those of the model that it describes, "
            f"e.g. {name}: {found.get(name, 'missing')}, not {shapes.get(name, 'there')}"
        )


def restore_decision(content: dict[str, Any], path: Path) -> Decision | None:
    """The decision of a checkpoint, None if it holds none. Raises CheckpointError if it is damaged."""
    if "decision" not in content:
        return None
    try:
        return Decision.from_plain(content["decision"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
