"""Checkpoints: plain tensors and plain values, written beside and renamed, read with weights_only=True."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utils.errors import CheckpointError
from utils.files import write_atomically

# what torch.load raises on files that are not checkpoints, from its unpickler upwards
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError)
UNREADABLE += (AssertionError, struct.error, pickle.UnpicklingError)
FORMAT = "beyond-masking-checkpoint-1"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Save a dict of tensors and plain values (they may nest) atomically."""
    write_atomically(path, lambda partial: torch.save({"format": FORMAT, **state}, partial))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors and plain values only.

    Returns {"model": state_dict, "config": ..., ...}; a bare state_dict, as the published code saves it,
    comes back as {"released": state_dict}. Raises CheckpointError if the file is missing, damaged, or holds
    anything else.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: {'a folder, not a checkpoint' if path.is_dir() else 'no such checkpoint'}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:  # torch's own advice, to allow code, is not passed on
        reason = f"{path}: is damaged, or holds more than tensors and plain values ({type(error).__name__})"
        raise CheckpointError(reason) from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if missing := {"model", "config", "split_checksums"} - content.keys():
            raise CheckpointError(f"{path}: has no {', '.join(sorted(missing))}")
        return content
    if (
        isinstance(content, dict)
        and content
        and all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        return {"released": content}
    raise CheckpointError(f"{path}: is neither a checkpoint of this framework nor a bare state_dict")
