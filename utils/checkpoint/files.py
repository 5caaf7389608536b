"""Saving and loading checkpoints: tensors and plain values, written atomically.

A checkpoint is a zip file as torch.save writes it, with a checksum over its content. It may come from
strangers: no code in it is run, and impossible content (tensors larger than the file, numbers that are not
finite) is refused with a reason.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError
from utils.files import older_version, write_atomically

log = logging.getLogger(__name__)

# what torch.load raises for files that are not checkpoints, from its unpickler upwards
UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, MemoryError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile),
)
FORMAT = "beyond-masking-checkpoint-1"
MAX_VALUES = 10_000_000  # plain values in one file; lists that contain themselves have more


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep_older: int = 0) -> None:
    """Save a dict of tensors and plain values (they may nest) atomically, see write_atomically.

    Raises WriteError if the disk is full; the checkpoint before it is then still there.
    """
    content = {"format": FORMAT, **state}
    content["checksum"] = content_checksum(content)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # torch's own files lose the system's error if a disk is full
            torch.save(content, file)

    write_atomically(path, write, keep_older=keep_older)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors and plain values only.

    Returns {"model": state_dict, "config": ..., ...}; a bare state_dict, as the published code saves it,
    comes back as {"released": state_dict}. Raises CheckpointError if the file is missing, damaged, or holds
    anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        from utils.checkpoint.export import read_export  # its packages are not needed for training

        content = read_export(path)
    else:
        content = _read(path)
    if content.get("format") != FORMAT:
        if not (is_dict_of(Tensor, content) and content):
            raise CheckpointError(f"{path}: is neither a checkpoint of this framework nor a bare state_dict")
        content = {"released": content}
    else:
        for name, kind in (("config", dict), ("split_checksums", str), ("model", Tensor)):
            if not is_dict_of(kind, content.get(name)):
                raise CheckpointError(f"{path}: its {name} is missing, or not a dict of {kind.__name__}")
    require_finite(path, content["model"] if "model" in content else content["released"])
    return content


def is_dict_of(kind: type, value: Any) -> bool:
    """Whether `value` is a dict of names -> `kind`."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(item, kind) for name, item in value.items()
    )


def require_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless all numbers of the weights are finite."""
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; train again from before")


def _read(path: Path) -> dict[str, Any]:
    """The content of a torch file from anybody; {} if it is not a dict."""
    try:
        require_no_bomb(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        require_no_bomb(path, content)
        is_own = isinstance(content, dict) and content.get("format") == FORMAT
        if is_own and content.pop("checksum", None) != content_checksum(content):
            raise CheckpointError(f"{path}: is damaged: its content does not match its checksum")
    except UNREADABLE as error:  # torch's own advice, to allow code, is not passed on
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"is damaged, or holds more than tensors and plain values ({type(error).__name__})"
        if named:
            reason = f"asks for {named[1]}, and checkpoints that run code are not loaded"
        raise CheckpointError(f"{path}: {reason}") from error
    return content if isinstance(content, dict) else {}


def require_no_bomb(path: Path, content: Any = None) -> None:
    """Raise CheckpointError if a file or its content takes more memory than the file has bytes."""
    size = path.stat().st_size
    if content is None and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise CheckpointError(f"{path}: is a compressed archive, which checkpoints are not")
    for value in _leaves(content):
        if isinstance(value, Tensor) and value.numel() * value.element_size() > size:
            raise CheckpointError(f"{path}: holds a tensor that is larger than the file")


def _leaves(content: Any) -> Iterator[Any]:
    """Yield names, tensors and plain values of nested content, in order. Raises ValueError for too many."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError("more values than any checkpoint has")
        if isinstance(value, Mapping):
            waiting.extend(item for pair in reversed(list(value.items())) for item in reversed(pair))
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(reversed(list(value)))
        else:
            yield value


def content_checksum(content: Any) -> str:
    """Hex sha256 over names, types, shapes and bytes of a checkpoint's content."""
    digest = hashlib.sha256()
    for value in _leaves(content):
        if not isinstance(value, Tensor):
            digest.update(f"{type(value).__name__} {value!r};".encode())
            continue
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def newest_checkpoint(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """(file, content) of the newest intact version of a checkpoint, None without any version.

    Damaged versions are logged. Raises CheckpointError if no version can be read.
    """
    numbered = (older_version(path, number) for number in itertools.count(1))
    versions = [path, *itertools.takewhile(Path.exists, numbered)]
    reasons = []
    for version in filter(Path.exists, versions):
        try:
            content = load_checkpoint(version)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            log.warning("%s; %s is used instead", reason, version.name)
        return version, content
    if reasons:
        raise CheckpointError("; ".join(reasons))
    return None
