"""Published weights for M2SD: its own file, and VideoMAE's as first weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from models.backbones.published import NOTHING, renamed_keys
from models.backbones.videomae import VIT_RENAMES, vit_weights
from models.m2sd.config import STUDENTS
from utils.checkpoint.files import CodeError, load_checkpoint
from utils.checkpoint.foreign import read_foreign_weights
from utils.errors import CheckpointError
from utils.names import brief

log = logging.getLogger(__name__)
RELEASED_KEYS = ("cls_token", "patch_embed.", "blocks.", "norm.", "head.")
HEAD = "head."


def size_of_released(state: Mapping[str, Tensor], name: str) -> str:
    """Which of STUDENTS a published checkpoint `state` (file `name`) is, by width and number of blocks.

    Raises CheckpointError if it fits no size.
    """
    depth = len({match[1] for key in state if (match := re.match(r"blocks\.(\d+)\.", key))})
    width = state["cls_token"].shape[-1] if "cls_token" in state else 0
    for vit, size in STUDENTS.items():
        if (size.width, size.depth) == (width, depth):
            return vit
    raise CheckpointError(f"{name}: not a released checkpoint of m2sd ({depth} blocks of width {width})")


def released_names(keys: Iterable[str]) -> dict[str, str]:
    """{published key: our name} of a whole M2SD."""
    names = renamed_keys(keys, VIT_RENAMES, NOTHING)
    return {key: name if key.startswith(HEAD) else f"vit.{name}" for key, name in names.items()}


def take_released(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a published M2SD; the log lists what is in it besides.

    Raises CheckpointError if a tensor is missing or has another shape: the published code would go on with
    random weights, whose scores look plausible.
    """
    own, names = model.state_dict(), released_names(state)
    others = [key for key, name in names.items() if name not in own]
    try:
        model.load_state_dict({name: state[key] for key, name in names.items() if name in own})
    except RuntimeError as error:
        raise CheckpointError(f"the released checkpoint does not fit: {error}") from error
    if others:
        log.info("not used, of the released checkpoint: %s", brief(", ".join(others)))


def start_student(model: nn.Module, path: Path) -> None:
    """Start from the checkpoint of a student's pre-training, a published M2SD, or a VideoMAE.

    VideoMAE's tubelets have the positions that M2SD's have one row further: its class token takes the first.
    Raises CheckpointError if it is something else, or of another size.
    """
    own = model.state_dict()
    taken = _run_weights(path)
    if taken is None:
        state = read_foreign_weights(path)
        if "cls_token" in state:
            take_released(model, state)
            return
        taken = {f"vit.{name}": value for name, value in vit_weights(state).items()}
    wanted = [name for name in own if name.startswith("vit.") and name != "vit.class_token"]
    if missing := [name for name in wanted if name not in taken]:
        raise CheckpointError(f"{path}: neither M2SD nor a VideoMAE: it lacks {brief(', '.join(missing))}")
    taken = {name: value for name, value in taken.items() if name in own}
    try:
        model.load_state_dict(own | taken)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not of this --vit: {error}") from error
    new = brief(", ".join(name for name in own if name not in taken))
    log.info("%s: took %d tensors; new: %s", path, len(taken), new)


def _run_weights(path: Path) -> dict[str, Tensor] | None:
    """The weights of a run's checkpoint of stage pretrain; None for other programs' files.

    Raises CheckpointError if it is of another stage.
    """
    try:
        content = load_checkpoint(path)
    except CodeError:
        return None
    if "model" not in content:
        return None
    if content["config"].get("model", {}).get("stage") != "pretrain":
        raise CheckpointError(f"{path}: not a checkpoint of m2sd's stage pretrain")
    weights: dict[str, Tensor] = content["model"]
    return weights
