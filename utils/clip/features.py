"""Cached features of a clip: what a frozen backbone makes of it, loaded instead of its signals.

features/NAME.npy    (S, D) float32: row i is what the backbone saw of [i step_s, i step_s + length_s) seconds
features/NAME.json   FeatureInfo; written before the rows, so rows that are there are whole

Both lie in the clip folder, or in the pack that holds the clip.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.clip.files import read_info_values
from utils.clip.packed import (
    FEATURES,
    RATE,
    clip_names,
    find_clip,
    find_member,
    open_array,
    open_member,
)
from utils.errors import ClipError
from utils.files import file_sha256, write_atomically, write_text
from utils.names import brief, parse_json

AGAIN = "extract the features again"
_FIELD_TYPES = {"str": str, "dict[str, Any]": dict}


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """features/NAME.json: which seconds the rows belong to, and what they were made from, with what."""

    backbone: str
    weights: str  # names of the files; "random", or "none" of a backbone without weights
    weights_sha256: str  # the same number of them
    settings: dict[str, Any]  # that shape the rows
    source: str  # file of the clip that was read
    source_sha256: str
    step_s: str  # fraction: from the beginning of a row's seconds to that of the next one
    length_s: str  # fraction: how long a row's seconds are
    rows_sha256: str  # of the .npy file
    tools: dict[str, Any]  # versions of the packages that made them
    # more files of the clip that were read -> sha256
    more_sources: dict[str, Any] = field(default_factory=dict)

    def recipe(self) -> dict[str, Any]:
        """What must be equal for rows of different clips to be comparable."""
        return {name: getattr(self, name) for name in ("backbone", "weights", "weights_sha256", "settings")}

    def made_like(self, other: FeatureInfo) -> bool:
        """Whether both are the same backbone's view of the same files, whatever versions computed it."""
        free: dict[str, Any] = {"rows_sha256": "", "tools": {}}
        return dataclasses.replace(self, **free) == dataclasses.replace(other, **free)


def write_features(folder: Path, name: str, rows: npt.NDArray[np.float32], info: FeatureInfo) -> None:
    """Write `rows` (S, D) into the clip `folder` as "features/NAME", with their checksum in `info`."""
    path = folder / f"{name}.npy"
    file = io.BytesIO()
    np.save(file, rows)
    path.unlink(missing_ok=True)  # at no moment do older rows have the newer description
    info = dataclasses.replace(info, rows_sha256=hashlib.sha256(file.getbuffer()).hexdigest())
    write_text(path.with_suffix(".json"), json.dumps(vars(info), sort_keys=True, indent=1) + "\n")
    write_atomically(path, lambda partial: partial.write_bytes(file.getbuffer()))


def list_features(folder: Path) -> list[str]:
    """Names ("features/NAME") of the cached features of a clip folder, packed or not, sorted.

    A .npy or .json file alone counts, too: it must be reported.
    """
    if find_clip(folder) is None:
        below = folder / FEATURES
        names = [f"{FEATURES}{name}" for name in clip_names(below)] if below.is_dir() else []
    else:
        names = [name for name in clip_names(folder) if name.startswith(FEATURES)]
    return sorted({name.rpartition(".")[0] for name in names if name.endswith((".npy", ".json"))})


def read_info(folder: Path, name: str) -> FeatureInfo:
    """features/NAME.json of a clip folder, packed or not. Raises ClipError if it is missing or not valid."""
    path = folder / f"{name}.json"
    member = find_member(path)
    try:
        text = path.read_bytes() if member is None else member.open().read()
        values = parse_json(text)
        if not isinstance(values, dict):
            raise ValueError(brief(values))
        info = FeatureInfo(**values)
        for field in dataclasses.fields(info):
            if not isinstance(getattr(info, field.name), _FIELD_TYPES[str(field.type)]):
                raise ValueError(f"{field.name} is {brief(getattr(info, field.name))}")
        for value in (info.step_s, info.length_s):
            if not RATE.fullmatch(value):
                raise ValueError(f"{brief(value)} is not a fraction above 0")
    except FileNotFoundError as error:
        raise ClipError(path, f"missing; {AGAIN}") from error
    except (ValueError, TypeError, OSError) as error:
        raise ClipError(path, f"does not describe features ({error}); {AGAIN}") from error
    return info


def open_rows(folder: Path, name: str) -> npt.NDArray[np.float32]:
    """(S, D) rows of "features/NAME", mapped into memory. Raises ClipError if they are missing or damaged."""
    path = folder / f"{name}.npy"
    member = find_member(path)
    if member is None and not path.is_file():
        when = " before packing" if find_clip(folder) else ""
        raise ClipError(path, f"missing; run preprocess.extract_features{when}")
    try:
        rows = member.array() if member else open_array(path)
    except (ValueError, OSError, EOFError) as error:
        raise ClipError(path, f"not readable features ({error}); {AGAIN}") from error
    if rows.ndim != 2 or not len(rows) or rows.dtype != np.float32:
        raise ClipError(path, f"{rows.dtype} {rows.shape}, expected float32 (S, D) with S > 0; {AGAIN}")
    return rows


def check_features(folder: Path, name: str, *, deep: bool = False) -> None:
    """Raise ClipError if "features/NAME" is damaged, or was made from another version of the clip.

    With `deep`, also if a value is not finite.
    """
    rows, info = open_rows(folder, name), read_info(folder, name)
    path = folder / f"{name}.npy"
    if file_sha256(open_member(path) or path) != info.rows_sha256:
        raise ClipError(path, f"checksum differs from its .json; {AGAIN}")
    known = read_info_values(folder).get("files", {})
    for source, digest in {info.source: info.source_sha256, **info.more_sources}.items():
        if known.get(source, digest) != digest:
            raise ClipError(path, f"was made from another {source} than the clip's; {AGAIN}")
    if deep and not np.isfinite(rows).all():
        raise ClipError(path, f"holds values that are not finite; {AGAIN}")


def read_features(
    folder: Path, name: str, start_s: float, end_s: float, recipes: MutableMapping[str, Any] | None = None
) -> npt.NDArray[np.float32]:
    """(S', D) rows of "features/NAME" whose middles lie in [start_s, end_s), at least the nearest one.

    `recipes`: name -> the recipe that the rows must have been made by; a name that is not there is added.
    Raises ClipError if a file is missing or damaged, or was made otherwise.
    """
    rows, info = open_rows(folder, name), read_info(folder, name)
    if recipes is not None and (wanted := recipes.setdefault(name, info.recipe())) != info.recipe():
        raise ClipError(folder / f"{name}.npy", f"was made by {info.recipe()}, expected {wanted}; {AGAIN}")
    step_s, half_s = float(Fraction(info.step_s)), float(Fraction(info.length_s)) / 2
    first, end = (
        min(max(math.ceil((time_s - half_s) / step_s - 1e-6), 0), len(rows)) for time_s in (start_s, end_s)
    )
    if first >= end:  # between two rows, or after the last one
        middle = ((start_s + end_s) / 2 - half_s) / step_s
        first = min(max(round(middle), 0), len(rows) - 1)
        end = first + 1
    return np.array(rows[first:end])
