"""Weights from checkpoints of other programs (Lightning, fairseq), without running their code.

Such a file holds its state_dict next to callbacks, configurations and optimisers. Their classes need not be
installed: the objects become empty and are dropped.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from utils.checkpoint.files import UNREADABLE, find_weights, require_finite, require_no_bomb
from utils.errors import CheckpointError
from utils.names import brief

MAX_CLASSES = 1000  # of other programs in one file
# what torch says of a class that it does not know, and of one whose objects are dicts
UNKNOWN = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
DICT = re.compile(rf"Can only SETITEMS? for .* got <class '{re.escape(__name__)}\.([\w.]+)'>")
# in what torch says of a TorchScript archive, and of a module as torch before 1.6 saved it
PROGRAMS = ("TorchScript", "Only persistent_load of storage is allowed")


class _Inert:
    """Stands for an object of a foreign class: takes any arguments and state, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


class _InertDict:
    """Stands for a foreign class of dicts, such as defaultdict: its objects become plain ones."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return OrderedDict()


def _read(path: Path) -> tuple[Any, list[str]]:
    """(content of the file with objects of foreign classes replaced, names of these classes)."""
    if path.suffix == ".safetensors":
        from utils.checkpoint.export import read_export  # its packages are not needed for training

        return read_export(path), []
    require_no_bomb(path)
    try:
        names = get_unsafe_globals_in_checkpoint(str(path))
    except ValueError:  # the format before torch 1.6, for which torch gives no list: they come up one by one
        names = []
    stand_ins: dict[str, type] = dict.fromkeys(names, _Inert)
    while True:
        try:
            with safe_globals([(type(name, (base,), {}), name) for name, base in stand_ins.items()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
            break
        except pickle.UnpicklingError as error:
            message, before = str(error), dict(stand_ins)
            if unknown := UNKNOWN.search(message):
                stand_ins[unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"] = _Inert
            elif is_dict := DICT.search(message):
                stand_ins[is_dict[1]] = _InertDict
            if stand_ins == before or len(stand_ins) > MAX_CLASSES:
                raise
    require_no_bomb(path, content)
    return content, sorted(stand_ins)


def read_foreign_weights(path: Path) -> dict[str, Tensor]:
    """The state_dict of a checkpoint of another program, see find_weights; or a .safetensors file's tensors.

    Raises CheckpointError if the file is missing, unreadable, a checkpoint of this framework or without a
    state_dict, or if numbers are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content, classes = _read(path)
    except UNREADABLE as error:
        reason = f"is damaged, or not a checkpoint ({type(error).__name__})"
        if any(word in str(error) for word in PROGRAMS):
            reason = "holds a whole model with its code, which is not run; save its state_dict()"
        raise CheckpointError(f"{path}: {reason}") from error
    try:
        state = find_weights(path, content)
    except CheckpointError as error:
        if not classes:
            raise
        objects = f"objects of {brief(', '.join(classes))}, whose code is not run"
        raise CheckpointError(
            f"{error}, but {objects}; where it is, save the model's state_dict()"
        ) from error
    require_finite(path, state)
    return state
