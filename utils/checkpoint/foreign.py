"""Weights from checkpoints of other programs (Lightning, fairseq), without running their code.

Such a file wraps its state_dict in a dict, next to callbacks, configurations and optimisers. Their classes
need not be installed: the objects become empty and are dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from utils.checkpoint.files import FORMAT, UNREADABLE, is_dict_of, require_finite, require_no_bomb
from utils.errors import CheckpointError

WEIGHTS = ("state_dict", "model")  # keys of Lightning and fairseq


class _Inert:
    """Stands for an object of a foreign class: takes any arguments and state, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _read(path: Path) -> Any:
    """The content of the file, with objects of foreign classes replaced by _Inert."""
    require_no_bomb(path)
    try:
        foreign = get_unsafe_globals_in_checkpoint(str(path))
    except ValueError:  # the format before torch 1.6, for which torch gives no list
        foreign = []
    with safe_globals([(type(name, (_Inert,), {}), name) for name in foreign]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    require_no_bomb(path, content)
    return content


def read_foreign_weights(path: Path) -> dict[str, Tensor]:
    """The state_dict of a Lightning or fairseq checkpoint, or a bare one.

    Raises CheckpointError if the file is missing, unreadable, a checkpoint of this framework or without a
    state_dict, or if numbers are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content = _read(path)
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: is damaged, or not a checkpoint ({type(error).__name__})") from error
    if isinstance(content, dict) and content.get("format") != FORMAT:
        for state in (content, *(content.get(name) for name in WEIGHTS)):
            if is_dict_of(Tensor, state) and state:
                require_finite(path, state)
                return dict(state)
    wanted = f"neither bare nor under {' or '.join(WEIGHTS)}"
    raise CheckpointError(f"{path}: holds no state_dict of another program, {wanted}")
