"""Saving and loading checkpoints: tensors and plain values, written atomically.

A checkpoint is a zip file as torch.save writes it, with a checksum over its content. It may come from
strangers: no code in it is run, and impossible content (tensors larger than the file, numbers that are not
finite) is refused with a reason.
"""

from __future__ import annotations

import hashlib
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
from utils.files import versions_of, write_atomically
from utils.names import brief

log = logging.getLogger(__name__)

# what torch.load raises for files that are not checkpoints, from its unpickler upwards
UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, MemoryError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile),
)
FORMAT = "beyond-masking-checkpoint-1"
MAX_VALUES = 10_000_000  # plain values in one file; lists that contain themselves have more
# where other programs keep a model's weights; the first one is taken if a file has several state_dicts
WEIGHTS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
VALUES_PER_BYTE = 8  # of a file, at most; lists of the same lists have more, and take minutes to look through
MAX_DEPTH = 3  # of the dicts around weights
AVERAGE = "_ema"  # a dict that fairseq's data2vec keeps among its weights: their moving average, its teacher
OWN = {"format", "checksum", "split_checksums"}  # keys of a run's checkpoint, also if one of them is damaged


class CodeError(CheckpointError):
    """A checkpoint asks for code, which is not run."""


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

    Returns {"model": state_dict, "config": ..., ...}; the state_dict of another program, bare or in a dict,
    comes back as {"released": state_dict}. Raises CheckpointError if the file is missing, damaged, or holds
    anything else, CodeError if it asks for code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        from utils.checkpoint.export import read_export  # its packages are not needed for training

        content = read_export(path)
    else:
        content = _read(path)
    if content.get("format") != FORMAT:
        content = {"released": find_weights(path, content)}
    else:
        for name, kind in (("config", dict), ("split_checksums", str), ("model", Tensor)):
            if not is_dict_of(kind, content.get(name)):
                raise CheckpointError(f"{path}: its {name} is missing, or not a dict of {kind.__name__}")
        generated = content.get("generated_sets")  # None: from before, it is not known
        if not (generated is None or (isinstance(generated, list) and set(map(type, generated)) <= {str})):
            raise CheckpointError(f"{path}: its generated_sets is not a list of names")
        if not is_dict_of(int, content.get("landmark_backends", {})):  # {}: from before, it is not known
            raise CheckpointError(f"{path}: its landmark_backends is not a dict of int")
    require_finite(path, content["model"] if "model" in content else content["released"])
    return content


def is_dict_of(kind: type, value: Any) -> bool:
    """Whether `value` is a dict of names -> `kind`."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(item, kind) for name, item in value.items()
    )


def find_weights(path: Path, content: Any) -> dict[str, Tensor]:
    """The state_dict in what another program has saved: bare, or in dicts, the log then says where.

    Raises CheckpointError if there is none, or if there are several and WEIGHTS has the name of none.
    """
    is_own = isinstance(content, dict) and not OWN.isdisjoint(content)  # and damaged
    found = {} if is_own else dict(_state_dicts(content, ()))
    if not found:
        raise CheckpointError(f"{path}: is neither a checkpoint of this framework nor holds a state_dict")

    def rank(place: tuple[str, ...]) -> tuple[bool, int, int]:
        is_known = bool(place) and place[-1] in WEIGHTS
        return not is_known, len(place), WEIGHTS.index(place[-1]) if is_known else 0

    place = min(found, key=rank)
    names = {place: repr(".".join(place)) for place in found}
    if len(found) > 1 and place[-1] not in WEIGHTS:
        raise CheckpointError(
            f"{path}: holds the state_dicts {brief(', '.join(names.values()))}, and none of them is called "
            f"{', '.join(WEIGHTS)}; save the one that is meant to a file of its own"
        )
    if place:
        others = ", ".join(name for other, name in names.items() if other != place)
        more = f"; not taken: {brief(others)}" if others else ""
        log.info("%s: the weights are taken from %s in it%s", path, names[place], more)
    return dict(found[place])


def _state_dicts(content: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """(keys that lead to it, state_dict) of each one in nested dicts, but for those of optimisers."""
    weights = content
    if isinstance(content, dict):
        weights = {name: value for name, value in content.items() if name != AVERAGE}
    if is_dict_of(Tensor, weights) and weights:
        yield place, weights
    elif isinstance(content, dict) and "param_groups" not in content and len(place) < MAX_DEPTH:
        for name, value in content.items():
            if isinstance(name, str):
                yield from _state_dicts(value, (*place, name))


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
        if named:
            reason = f"asks for {named[1]}, and checkpoints that run code are not loaded"
            raise CodeError(f"{path}: {reason}") from error
        reason = f"is damaged, or holds more than tensors and plain values ({type(error).__name__})"
        raise CheckpointError(f"{path}: {reason}") from error
    return content if isinstance(content, dict) else {}


def require_no_bomb(path: Path, content: Any = None) -> None:
    """Raise CheckpointError if a file or its content takes more memory than the file has bytes."""
    size = path.stat().st_size
    if content is None and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise CheckpointError(f"{path}: is a compressed archive, which checkpoints are not")
    # a value takes a byte at least; a list that is in several places counts in each
    for value in _leaves(content, min(MAX_VALUES, VALUES_PER_BYTE * size)):
        if isinstance(value, Tensor) and value.numel() * value.element_size() > size:
            raise CheckpointError(f"{path}: holds a tensor that is larger than the file")


def _leaves(content: Any, limit: int = MAX_VALUES) -> Iterator[Any]:
    """Yield names, tensors and plain values of nested content, in order. Raises ValueError for too many."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > limit:
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

    A version may be absent while older ones are there. Damaged ones are logged. Raises CheckpointError if no
    version can be read.
    """
    reasons = []
    for version in versions_of(path):
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
