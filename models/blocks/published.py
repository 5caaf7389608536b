"""Published checkpoints under our names."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from utils.errors import CheckpointError

log = logging.getLogger(__name__)
# modules that torch puts around others, at any depth: compile, FSDP and activation checkpoints
INNER_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
AVERAGE_COUNT = "n_averaged"  # next to the weights of torch's AveragedModel


def without_wrappers(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """A published state_dict without the names of what its model was wrapped in.

    Left out, and named in the log, is each first part that all keys share (`module.`, `model.`, `network.`)
    until a key begins like one of the method's `own`.
    """
    keys = {key: INNER_WRAPPERS.sub("", key) for key in state if key != AVERAGE_COUNT}
    prefix, beginnings = "", tuple(own)
    while keys and not any(name.startswith(beginnings) for name in keys.values()):
        first, dot, _ = next(iter(keys.values())).partition(".")
        if not dot or not all(name.startswith(first + dot) for name in keys.values()):
            break
        prefix += first + dot
        keys = {key: name.removeprefix(first + dot) for key, name in keys.items()}
    if not any(name.startswith(beginnings) for name in keys.values()):
        return dict(state)  # of something else: errors name the keys as they are in the file
    if keys.keys() != state.keys() or any(key != name for key, name in keys.items()):
        log.info("the weights' keys are read without %s", prefix or "the names of wrappers")
    return {name: state[key] for key, name in keys.items()}


def renamed(key: str, prefixes: Mapping[str, str]) -> str | None:
    """`key` with its prefix replaced; None if it begins with none of `prefixes` (theirs -> ours)."""
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return None


def load_renamed(model: nn.Module, state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> None:
    """Load a published state_dict; every key must match.

    Raises CheckpointError for an unknown key, or if keys or shapes do not fit.
    """
    weights: dict[str, Tensor] = {}
    for key, value in state.items():
        name = renamed(key, prefixes)
        if name is None:
            raise CheckpointError(f"unknown key {key!r}: not a released checkpoint of this method")
        weights[name] = value
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        wish = "is --preset released set, are variant and layers right?"
        raise CheckpointError(f"the released checkpoint does not fit ({wish}): {error}") from error
