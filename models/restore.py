"""Restore detectors from checkpoints: the model with its weights, and its decision thresholds."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.blocks.published import without_wrappers
from models.menu import MODELS
from models.method import Method
from utils.checkpoint.files import CodeError, load_checkpoint
from utils.checkpoint.foreign import read_foreign_weights
from utils.clip.packed import FEATURES
from utils.config import Sections, from_args
from utils.errors import CheckpointError, UsageError
from utils.evaluation.decision import Decision
from utils.evaluation.domain import Domain
from utils.evaluation.segments import Localiser

SMALL_TENSOR = 1 << 24  # values; larger than any table that a model computes
SMALL_MODEL = 10_000  # calls of torch
RECIPE_KEYS = {"backbone", "weights", "weights_sha256", "settings"}  # of FeatureInfo.recipe


def model_type_of(name: str) -> type[Method]:
    """The class of a method. Raises UsageError for an unknown name."""
    if not isinstance(name, str) or name not in MODELS:
        raise UsageError(f"unknown --model {name}; choose from {', '.join(sorted(MODELS))}")
    return MODELS[name]


def preset_layer(model_type: type[Method], name: str) -> tuple[str, Sections]:
    """(origin, {flag group: {flag: value}}) of a preset. Raises UsageError for an unknown one."""
    if name not in model_type.presets:
        raise UsageError(f"unknown --preset {name}; choose from {', '.join(model_type.presets)}")
    return f"preset {name}", model_type.presets[name]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """`load_checkpoint`, which also reads weights that lie next to objects of other programs."""
    try:
        return load_checkpoint(path)
    except CodeError:
        return {"released": read_foreign_weights(path)}


def unwrap(model_type: type[Method], content: dict[str, Any]) -> dict[str, Any]:
    """`content` of a checkpoint without the prefixes of published weights that are not the method's own."""
    if "released" not in content:
        return content
    return content | {"released": without_wrappers(content["released"], model_type.released_keys)}


def released_fields(model_type: type[Method], content: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """Fields of the model's config read from a published checkpoint `content`; {} for a run's own.

    Raises CheckpointError if it is not a checkpoint of that method.
    """
    if "released" not in content:
        return {}
    try:
        return model_type.released_fields(content["released"], Path(path).name)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def restore_model(content: dict[str, Any], path: Path, bare: Method | None = None) -> Method:
    """The model of a run's checkpoint with its configuration; `bare` with the weights of a bare state_dict.

    `content` is what load_checkpoint read from `path`. Raises CheckpointError if the weights do not fit the
    model, UsageError if the configuration does not fit this version.
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
            # the checkpoint holds the weights: the files that the run started from are not needed
            ("a restored model", {name: defaults[name] for name in model_type.weight_sources}),
            ("the checkpoint", saved["model"]),
        )
        try:
            with _WithinWeights(content["model"]):
                model = model_type(config)
        except (RuntimeError, MemoryError, OverflowError, ZeroDivisionError) as error:
            raise CheckpointError(f"{path}: its configuration does not make a model ({error})") from error
    assert isinstance(model, nn.Module)  # every method is one
    model.recipes = _recipes(content, path, model.inputs_of(model.config))
    try:
        if "released" in content:
            model.load_released(content["released"])
        else:
            model.load_state_dict(content["model"])
    except (RuntimeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model


def _recipes(content: dict[str, Any], path: Path, inputs: frozenset[str]) -> dict[str, dict[str, Any]]:
    """How the cached features were made that a run learnt from; {} for published weights.

    Raises CheckpointError if a run does not say it.
    """
    recipes = content.get("features") or {}
    wanted = {name for name in inputs if name.startswith(FEATURES)} if "config" in content else set()
    if (
        not isinstance(recipes, dict)
        or recipes.keys() != wanted
        or not all(map(_is_recipe, recipes.values()))
    ):
        raise CheckpointError(f"{path}: does not say how its features were made")
    return recipes


def _is_recipe(value: object) -> bool:
    """Whether it has the keys and types of FeatureInfo.recipe."""
    if not isinstance(value, dict) or value.keys() != RECIPE_KEYS:
        return False
    texts = RECIPE_KEYS - {"settings"}
    return isinstance(value["settings"], dict) and all(isinstance(value[name], str) for name in texts)


class _WithinWeights(TorchFunctionMode):
    """While active, limits tensor sizes and the number of torch calls in proportion to the weights.

    The configuration in an untrusted checkpoint may describe a model of any size.
    """

    creating = frozenset((torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn))

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.largest = SMALL_TENSOR + sum(value.numel() for value in weights.values())
        self.num_left = SMALL_MODEL + 200 * len(weights)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.num_left -= 1
        size = (0,)
        if function in self.creating:
            size = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
        if self.num_left < 0 or math.prod(size) > self.largest:
            raise MemoryError("it describes a model far larger than its weights")
        return function(*args, **kwargs)


def restore_domain(content: dict[str, Any], path: Path) -> Domain | None:
    """The description of a checkpoint's training clips, None if it holds none that can tell others from them.

    Raises CheckpointError if it is damaged.
    """
    stored = content.get("domain")
    if not stored or (isinstance(stored, dict) and stored.keys() == {"reason"}):
        return None
    try:
        domain = Domain.from_plain(stored)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return domain if domain.can_tell() else None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What of a checkpoint turns scores into verdicts and segments; None for what it lacks."""

    decision: Decision | None  # how scores become verdicts
    domain: Domain | None  # what the training clips were like
    localiser: Localiser | None  # how scores over time become segments


def restore_judgement(content: dict[str, Any], path: Path) -> Judgement:
    """Decision, domain and localiser of a checkpoint. Raises CheckpointError for damage."""
    return Judgement(
        restore_decision(content, path), restore_domain(content, path), restore_localiser(content, path)
    )


def restore_localiser(content: dict[str, Any], path: Path) -> Localiser | None:
    """The rules for segments of a checkpoint, None if it holds none. Raises CheckpointError for damage."""
    if "localiser" not in content:
        return None
    try:
        return Localiser.from_plain(content["localiser"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def restore_decision(content: dict[str, Any], path: Path) -> Decision | None:
    """The decision of a checkpoint, None if it holds none. Raises CheckpointError if it is damaged."""
    if "decision" not in content:
        return None
    try:
        return Decision.from_plain(content["decision"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
