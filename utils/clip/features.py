"""Cached features of a clip, e.g. of a frozen backbone: computed once, loaded instead of its signals.

features/NAME.npy    (S, D) float32, row i belongs to the time (i + 0.5) / rate_hz of the clip
features/NAME.json   {"rate_hz": rows per second}
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from utils.clip.packed import open_array
from utils.errors import ClipError
from utils.files import write_atomically, write_text
from utils.names import parse_json

FEATURES = "features/"  # a clip's subfolder: inputs that begin with it name cached features


def write_features(folder: Path, name: str, rows: npt.NDArray[np.float32], rate_hz: float) -> None:
    """Write `rows` (S, D) into the clip `folder` as "features/NAME", the rows last: they are then whole."""

    def save(partial: Path) -> None:
        with partial.open("wb") as file:  # given a name, NumPy would append a suffix of its own
            np.save(file, rows)

    write_text(folder / f"{name}.json", json.dumps({"rate_hz": rate_hz}) + "\n")
    write_atomically(folder / f"{name}.npy", save)


def read_features(folder: Path, name: str, start_s: float, end_s: float) -> npt.NDArray[np.float32]:
    """(S', D) rows of "features/NAME" whose times lie in [start_s, end_s), at least the nearest one.

    Raises ClipError if a file is missing or damaged. A pack holds no cached features.
    """
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise ClipError(path, "missing: extract the method's features first (packs hold none)")
    try:
        rows = open_array(path)
        rate_hz = float(parse_json(path.with_suffix(".json").read_bytes())["rate_hz"])
    except (ValueError, TypeError, KeyError, OSError, EOFError) as error:
        reason = f"not readable features with a rate_hz ({error}); extract them again"
        raise ClipError(path, reason) from error
    if rows.ndim != 2 or not len(rows) or rows.dtype != np.float32 or not 0 < rate_hz < math.inf:
        found = f"{rows.dtype} {rows.shape} at {rate_hz} Hz"
        raise ClipError(path, f"{found}, expected float32 (S, D); extract them again")
    first_after = np.ceil(np.array([start_s, end_s]) * rate_hz - 0.5 - 1e-6)
    first, end = np.clip(first_after, 0, len(rows)).astype(int).tolist()
    if first >= end:  # between two rows, or after the last one
        first = min(int((start_s + end_s) / 2 * rate_hz), len(rows) - 1)
        end = first + 1
    return np.array(rows[first:end])
