"""Weights out of the checkpoints of other programs (Lightning, fairseq), of which nothing is run.

Such a file wraps its state_dict in a dict, next to callbacks, configurations and optimisers, whose classes
need not be installed: they become empty objects, and are dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from utils.checkpoint.files import FORMAT, UNREADABLE, require_no_bomb, require_weights
from utils.errors import CheckpointError

WEIGHTS = ("state_dict", "model")  # under which Lightning and fairseq keep them


class _Inert:
    """Stands for an object of a class that is not ours: takes any arguments and state, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _read(path: Path) -> Any:
    """What torch.load makes of the file, foreign classes being _Inert."""
    require_no_bomb(path)
    try:
        foreign = get_unsafe_globals_in_checkpoint(str(path))
    except ValueError:  # the format before torch 1.6, of which torch gives no list
        foreign = []
    stand_ins = [(type(name, (_Inert,), {}), name) for name in foreign]
    with safe_globals(stand_ins):
        content = torch.load(path, map_location="cpu", weights_only=True)
    require_no_bomb(path, content)
    return content


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict) and bool(value) and all(isinstance(item, Tensor) for item in value.values())
    )


def read_foreign_weights(path: Path) -> dict[str, Tensor]:
    """The state_dict of a Lightning or fairseq checkpoint, or a bare one.

    Raises CheckpointError if there is no such file, if it cannot be read, is one of this framework, or holds
    no such thing, and for numbers that are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content = _read(path)
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: is damaged, or no checkpoint ({type(error).__name__})") from error
    places = []
    if isinstance(content, dict) and content.get("format") != FORMAT:
        places = [content, *(content.get(name) for name in WEIGHTS)]
    state = next((dict(place) for place in places if _is_state(place)), None)
    if state is None:
        wanted = f"neither bare nor under {' or '.join(WEIGHTS)}"
        raise CheckpointError(f"{path}: holds no state_dict of another program, {wanted}")
    require_weights(path, state)
    return state
