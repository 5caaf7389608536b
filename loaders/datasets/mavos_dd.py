"""MAVOS-DD: eight languages, seven generators, and four official tests in one table.

The table is the Arrow file of the release (`datasets.Dataset.load_from_disk`), which needs pyarrow, or the
same columns as `mavos_dd.csv`. Tests: in-domain (both flags false), new generators, new languages, all of
them; a clip's category says which (`fake_open_model`, ...), so that results are told for each. Persons are
not named, and neither is what is forged: the picture of a fake is, its sound is often the genuine one. Some
files have no sound (prepare them with --allow_silent) or do not open.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loaders.datasets.metadata import (
    FolderIndex,
    as_id,
    inside,
    listed_once,
    new_clip,
    no_metadata,
    parse_label,
    read_rows,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError, UsageError
from utils.names import brief

TABLE = "mavos_dd.csv"
PYARROW = "pyarrow==24.0.0"  # 26 needs NumPy 2
COLUMNS = (
    *("video_path", "label", "split", "open_set_model", "open_set_language", "language"),
    "generative_method",
)
PARTS = {"train": "train", "validation": "val", "test": "test"}
FLAGS = {"false": False, "0": False, "true": True, "1": True}
# (open_set_model, open_set_language) -> what a category ends in
TESTS = {
    (False, False): "",
    (True, False): "_open_model",
    (False, True): "_open_language",
    (True, True): "_open_both",
}


def list_mavos_dd(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared MAVOS-DD tree.

    Raises DatasetError where root, table or clips are not as expected, UsageError for an Arrow table without
    pyarrow.
    """
    folders = FolderIndex(data_root)
    rows = listed_once((where, _make_clip(folders, where, row)) for where, row in _read_table(data_root))
    return select_clips("mavos_dd", data_root, list(rows), config)


def _read_table(root: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of the CSV, or else of the Arrow files of the release."""
    path, arrows = root / TABLE, sorted(root.glob("*.arrow"))
    if path.exists():
        yield from ((f"{path}, line {line}", row) for line, row in read_rows(path, COLUMNS))
        return
    if not arrows:
        raise no_metadata(root, TABLE, "*.arrow")
    for arrow in arrows:
        yield from _read_arrow(arrow)


def _read_arrow(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError(
            f"{path}: an Arrow table needs pyarrow ({error}): pip install {PYARROW}; or write it to {TABLE}, "
            'elsewhere, with datasets.load_from_disk("MAVOS-DD").to_csv(...), and put it next to this one'
        ) from error
    try:
        with pyarrow.memory_map(str(path)) as file:
            batches = pyarrow.ipc.open_stream(file)
            missing = [name for name in COLUMNS if name not in batches.schema.names]
            if missing:
                raise DatasetError(f"{path}: no column {', '.join(missing)}")
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows))
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: is not an Arrow stream ({brief(str(error))})") from error


def _make_clip(folders: FolderIndex, where: str, row: Mapping[str, Any]) -> Clip:
    path = without_suffix(inside(row["video_path"], where))
    fake = parse_label(row["label"], where) == 1
    part = str(row["split"]).lower()
    if part not in PARTS:
        raise DatasetError(f"{where}: split is {brief(row['split'])}, expected train, validation or test")
    words = (row["open_set_model"], row["open_set_language"])
    is_model, is_language = (FLAGS.get(as_id(str(word)).lower()) for word in words)
    if is_model is None or is_language is None:
        raise DatasetError(f"{where}: open_set_model, open_set_language: {brief(words)}, not true or false")
    return new_clip(
        "mavos_dd",
        path,
        folders.clip_folder(path),
        (1, None) if fake else (0, 0),
        category=("fake" if fake else "real") + TESTS[is_model, is_language],
        method=str(row["generative_method"] or "unknown").lower(),
        person=path.as_posix(),
        identity_is="clip",
        stratum=str(row["language"]),
        split=PARTS[part],
    )
