"""Reading the tables of a raw data set before its videos are prepared, which takes hours.

The loaders' readers look at prepared clips. So they are shown the data set as it will be: its metadata, and a
pack (utils/clip/packed.py) that names the clip of each raw video and holds nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from preprocess.work.raw_layouts import RawDataset
from utils.clip.files import DATA_FILES
from utils.clip.packed import FORMAT, INDEX_NAME, SCHEMA
from utils.errors import DatasetError, IncompleteError
from utils.names import is_plain

log = logging.getLogger(__name__)


def read_tables(raw: RawDataset, describe: Callable[[Path, str], str]) -> None:
    """Log `describe(root, variant)` of the data set as it will be prepared, for each of its variants.

    Raises DatasetError, with the place of the raw table, if the loader would refuse it. What is only missing,
    and may be added later, is a warning.
    """
    with tempfile.TemporaryDirectory(prefix="tables_") as place, _passed_on(place, str(raw.root)):
        show_as_prepared(raw, Path(place))
        for variant in raw.variants:
            try:
                log.info("%s", describe(Path(place), variant).replace(place, str(raw.root)))
            except IncompleteError as error:
                reason = str(error).replace(place, str(raw.root))
                log.warning("the videos are prepared, but the loader will want more: %s", reason)
            except DatasetError as error:
                raise DatasetError(str(error).replace(place, str(raw.root))) from error


def show_as_prepared(raw: RawDataset, root: Path) -> None:
    """Make `root`, an empty folder, look to the loaders like the prepared data set."""
    for name in raw.metadata:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fetched = raw.root.fetch(name, target.parent)
        if fetched != target:
            target.symlink_to(fetched.absolute())
    clips: list[tuple[str, str]] = []  # folder above, name
    parents = {Path()}
    for folder in {video.with_suffix("") for video in raw.videos if video.stem not in (".", "..")}:
        if folder.parent not in parents:
            (root / folder.parent).mkdir(parents=True, exist_ok=True)
            parents.add(folder.parent)
        if is_plain(folder.as_posix()) and "\\" not in folder.name:
            clips.append((folder.parent.as_posix() if folder.parent.name else "", folder.name))
        else:  # no name for a pack: the reader will say so, or pass it over
            (root / folder).mkdir(exist_ok=True)
            for file in DATA_FILES:
                (root / folder / file).touch()
    with contextlib.closing(sqlite3.connect(root / INDEX_NAME)) as database, database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO about VALUES (?, ?)", [("format", FORMAT), ("shards", "")])
        database.execute("INSERT INTO shards VALUES (0, 'none.tar', 0)")
        database.executemany("INSERT INTO clips VALUES (?, ?, '25', 1)", clips)
        database.executemany(
            "INSERT INTO files VALUES (?, ?, 0, 0, 0)",
            ((f"{above}/{name}" if above else name, file) for above, name in clips for file in DATA_FILES),
        )


class _PassOn(logging.Handler):
    """What the readers log, with the place of the raw data set."""

    def __init__(self, place: str, real: str) -> None:
        super().__init__()
        self._place, self._real = place, real

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, "%s", record.getMessage().replace(self._place, self._real))


@contextlib.contextmanager
def _passed_on(place: str, real: str) -> Iterator[None]:
    readers, handler = [logging.getLogger(name) for name in ("loaders", "utils.files")], _PassOn(place, real)
    for logger in readers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in readers:
            logger.removeHandler(handler)
            logger.propagate = True
