"""Published checkpoints under our names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from utils.errors import CheckpointError


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
