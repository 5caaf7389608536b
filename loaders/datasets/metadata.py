"""Reading what data sets ship: tables, paths, and the prepared clip folders they name.

Names are compared in Unicode form NFC: Korean folder names arrive decomposed (NFD) from some archives.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from utils.clip.files import AUDIO_NAMES, LANDMARKS_NAME, VIDEO_NAME, VIDEO_SUFFIXES
from utils.clip.packed import clip_names, packed_clips, walk
from utils.clip_type import Clip
from utils.errors import DatasetError, IncompleteError
from utils.files import read_text
from utils.names import brief, fits_file_system, is_litter, is_plain, one_line

log = logging.getLogger(__name__)
T = TypeVar("T")

LABELS = {"real": 0, "0": 0, "false": 0, "fake": 1, "1": 1, "true": 1}
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
UNNAMED = "Unnamed:"
INDEX = re.compile(r"unnamed: \d+(\.\d+)*|index|level_\d+", re.IGNORECASE)
ROUNDED = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)
PLAIN_PATH = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)  # no part begins with a dot
_CLIP_FILES = {VIDEO_NAME, LANDMARKS_NAME, *AUDIO_NAMES}
Segments = tuple[tuple[float, float], ...]  # (start, end) in seconds


def nfc(text: str) -> str:
    """The text in Unicode form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", text)


def require_file(path: Path, what: str) -> Path:
    """`path` if it is a file. Raises IncompleteError that says `what` was expected and what lies there."""
    if path.is_file():
        return path
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    raise IncompleteError(f"{path}: no such file ({what}); {folder} holds {contents(folder)}")


def require_folder(path: Path) -> Path:
    """`path` if it is a folder, else DatasetError."""
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder (--data_root is the output of preprocess.prepare)")
    return path


def contents(folder: Path) -> str:
    """The first names in a folder, for an error message. Raises DatasetError if it is not a folder."""
    found = sorted(entry.name for entry in require_folder(folder).iterdir())
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return shown or "nothing"


def no_metadata(root: Path, *expected: str) -> IncompleteError:
    """The error for a data root that holds none of the `expected` files and folders."""
    return IncompleteError(
        f"{root}: neither {' nor '.join(expected)} is there; it holds {contents(root)}; --data_root is the "
        "folder that preprocess.prepare wrote"
    )


def read_rows(
    path: Path, required: Sequence[str], *, unnamed_last: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV whose header must have the columns `required`.

    Column names and values are trimmed and in NFC; an unnamed column is called "Unnamed: 9", as pandas does,
    also one that the header leaves out, which `unnamed_last` allows. Raises DatasetError that names file,
    line and what was found.
    """
    text = read_text(path)
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    header: list[str] = []
    line = 0
    try:
        for row in reader:
            first_line, line = line + 1, reader.line_num
            cells = [nfc(cell).strip() for cell in row]
            if not any(cells) or (not header and cells[0].lower().startswith("sep=")):
                continue  # spreadsheets write "sep=;" above the header
            if not header:
                header = _read_header(f"{path}, line {line}", cells, required, text.split("\n")[line - 1])
                continue
            if line > first_line and text.count('"') % 2:
                raise DatasetError(f"{path}, line {first_line}: a quotation mark is not closed")
            for place in range(len(header), len(cells)):
                if cells[place] and (place > len(header) or not unnamed_last):
                    raise DatasetError(
                        f"{path}, line {line}: has {len(cells)} cells, but the header names {len(header)} "
                        "columns; put values with commas into quotation marks"
                    )
            names = [*header, f"{UNNAMED} {len(header)}"] if len(cells) > len(header) else header
            yield line, dict(zip_longest(names, cells[: len(names)], fillvalue=""))
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: is not a readable CSV ({error})") from error
    if not header:
        raise DatasetError(f"{path}: is empty; its first line must name the columns {', '.join(required)}")


def _read_header(where: str, cells: list[str], required: Sequence[str], line: str) -> list[str]:
    header = [name or f"{UNNAMED} {place}" for place, name in enumerate(cells)]
    if twice := sorted({name for name in header if name in required and header.count(name) > 1}):
        raise DatasetError(f"{where}: has the column {', '.join(twice)} more than once")
    if missing := [name for name in required if name not in header]:
        found = one_line(", ".join(filter(None, cells)), 400) or "none"
        hint = separator_hint(line)
        raise DatasetError(f"{where}: no column {', '.join(missing)}; its columns are {found}{hint}")
    return header


def separator_hint(line: str) -> str:
    """For an error message: what separates the cells of a line, and what to do, where that is no comma."""
    for separator, name in SEPARATORS.items():
        if line.count(separator) > line.count(","):
            return (
                f"; cells must be separated by commas, not by {name}: choose the comma as field separator "
                "when you save it as CSV, or use pandas: "
                f"read_csv(NAME, sep={separator!r}, dtype=str).to_csv(NAME, index=False)"
            )
    return ""


def is_index(column: str) -> bool:
    """Whether a column is one that tools add: the index of a pandas table, or empty cells at the end."""
    return INDEX.fullmatch(column) is not None


def first_full(tables: Mapping[Path, Callable[[Path], Iterable[T]]]) -> list[T]:
    """What the first of several tables (path -> its reader) lists that is there and lists something."""
    for path, read in tables.items():
        if path.exists():
            if rows := list(read(path)):
                return rows
            log.warning("%s: lists no clip: it is passed over", path)
    return []


def listed_once(clips: Iterable[tuple[str, Clip]]) -> Iterator[Clip]:
    """The clips of a table, each given with its file and line. Raises DatasetError if one is listed twice."""
    seen: set[str] = set()
    for where, clip in clips:
        if clip.clip_id in seen:
            raise DatasetError(f"{where}: {clip.clip_id} is listed twice; remove one of them")
        seen.add(clip.clip_id)
        yield clip


def is_empty(value: object) -> bool:
    """Whether a value of JSON says nothing: null, "", or NaN, which pandas makes of null."""
    return value is None or value == "" or value != value


def parse_label(value: object, where: str, name: str = "label") -> int:
    """0 for real (false) and 1 for fake (true), as a word in any case or a number, else DatasetError."""
    label = LABELS.get(as_id(str(value)).lower())
    if label is None:
        raise DatasetError(f"{where}: {name} is {brief(value)}, expected 0, 1, real or fake")
    return label


def as_segments(values: Any, where: str) -> Segments:
    """[[start, end], ...] in seconds, sorted. Raises DatasetError unless 0 <= start <= end for each.

    A segment of length 0 is where something was cut out.
    """
    if not values and isinstance(values, (list, tuple)):
        return ()
    try:
        segments = sorted([(float(start), float(end)) for start, end in values])
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{where}: expected segments [[start, end], ...] in seconds, found {brief(values)}"
        ) from error
    for start, end in segments:
        if not 0 <= start <= end < float("inf"):
            raise DatasetError(f"{where}: segment {start:g}-{end:g} must have 0 <= start <= end, in seconds")
    return tuple(segments)


def without_suffix(path: PurePosixPath) -> PurePosixPath:
    """The clip folder of a raw video's path; other paths, which may have dots too, stay."""
    return path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path


def inside(text: Any, origin: Path | str) -> PurePosixPath:
    """A path from metadata, in NFC.

    Raises DatasetError if it is empty, leads out of the data root, or is not a path that a file could have.
    """
    if not isinstance(text, str):
        raise DatasetError(f"{origin}: expected a path, found {brief(text)}")
    path = PurePosixPath(nfc(text).replace("\\", "/"))
    has_name = path.stem.strip(".") != ""  # "..mp4" has none: its clip folder would be "."
    if not has_name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DatasetError(f"{origin}: the path is empty or leads outside the data root: {brief(text)}")
    if not is_plain(text) or not fits_file_system(path.as_posix()):
        raise DatasetError(f"{origin}: the path is too long or has control characters: {brief(text)}")
    return path


def parts_inside(text: Any, origin: Path | str) -> list[str]:
    """The parts of `inside`; a path of plain characters takes a tenth of the time, of which lists have a
    million.
    """
    if isinstance(text, str) and PLAIN_PATH.fullmatch(text) and fits_file_system(text):
        return text.split("/")
    return list(inside(text, origin).parts)


def stem_of(name: str) -> str:
    """The name of the clip folder of a raw video's name, as `without_suffix`."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in VIDEO_SUFFIXES else name


def as_id(text: str) -> str:
    """An id as text, however it was read: "10", "10.0" and " 10 " are one person; "" stays ""."""
    text = text.strip()
    whole, point, rest = text.partition(".")
    return whole if point and whole.isdigit() and not rest.strip("0") else text


def parse_id(text: str, where: str) -> str:
    """As as_id. Raises DatasetError for 1.23457E+19: many ids become one where a spreadsheet rounds them."""
    if ROUNDED.fullmatch(text.strip()):
        raise DatasetError(
            f"{where}: {text!r} was an id before a spreadsheet rounded it; use the original table"
        )
    return as_id(text)


class FolderIndex:
    """Folders below a root by their NFC names; each is read once, so that 100,000 look-ups are quick."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[str, dict[str, str]] = {}

    def entries(self, folder: str) -> dict[str, str]:
        """NFC name -> name on disk of what lies in a folder; empty if there is no such folder."""
        if folder not in self._entries:
            names = [*clip_names(Path(folder)), *packed_clips(Path(folder))]
            self._entries[folder] = {nfc(name): name for name in names if not is_litter(name)}
        return self._entries[folder]

    def find(self, path: PurePosixPath) -> Path | None:
        """The folder or file at `path` (NFC, relative to the root); None if it is not there."""
        place = os.fspath(self.root)
        for part in path.parts:
            name = self.entries(place).get(part)
            if name is None:
                return None
            place = f"{place}{os.sep}{name}"
        return Path(place)

    def clip_folder(self, path: PurePosixPath) -> Path:
        """Where the clip folder `path` lies, or would lie if it were there."""
        return self.find(path) or self.root / path


def find_by_name(root: Path, wanted: Container[str]) -> dict[str, Path]:
    """Name (NFC) -> the clip folder of that name, at any depth.

    Raises DatasetError for two folders of one name: metadata without paths does not say which is meant.
    """
    found: dict[str, Path] = {}
    for place, subfolders, _ in walk(root):
        for name in sorted([*subfolders, *packed_clips(place)]):
            key = nfc(name)
            if key not in wanted:
                continue
            folder = place / name
            if key in found:
                raise DatasetError(
                    f"{folder} and {found[key]}: two clip folders of one name; the annotations do not say "
                    "which is meant; remove one of them"
                )
            found[key] = folder
        subfolders[:] = sorted(n for n in subfolders if nfc(n) not in wanted and not n.startswith("."))
    return found


def walk_clips(root: Path) -> dict[PurePosixPath, Path]:
    """Path below `root` (NFC) -> clip folder, sorted by path: the clips of a data set without metadata.

    A folder counts if it holds any file of a clip. Videos that preprocess.prepare lists in
    `root`/failures*.csv count too: their folders are not there, so that the listing reports them as missing.
    """
    require_folder(root)
    found: dict[PurePosixPath, Path] = {}
    for folder, subfolders, files in walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if not _CLIP_FILES.isdisjoint(files):
            if folder == root:
                raise DatasetError(f"{root}: holds a clip's files; move each clip into a folder of its own")
            found[PurePosixPath(nfc(folder.relative_to(root).as_posix()))] = folder
    for failures in root.glob("failures*.csv"):
        for line, row in read_rows(failures, ("path", "reason")):
            path = without_suffix(inside(row["path"], f"{failures}, line {line}"))
            found.setdefault(path, root / path)
    return dict(sorted(found.items()))


def new_clip(
    dataset: str,
    name: PurePosixPath | str,
    folder: Path | str,
    labels: tuple[int | None, int | None],
    *,
    category: str,
    person: str,
    identity_is: str,
    target: str = "",
    donors: Iterable[str] = (),
    method: str = "",
    pair: str = "",
    stratum: str = "",
    split: str | None = None,
    group: str = "",
    segments: tuple[Segments | None, Segments | None] = (None, None),
    source_video: str = "",
    emotion: str | None = None,
) -> Clip:
    """A clip; its name, persons, pair, group and source video are preceded by "<dataset>/".

    identity_is: what `person` names, a "person", "family" or "clip" (see utils/types.py).
    labels and segments are those of picture and sound. A clip of whose labels none is known is a fake: a real
    clip's are all 0. method: of a fake, by default its category. target: by default the person; pair: by
    default the target; empty donors do not count.
    """
    fake = 1 in labels or labels == (None, None)
    # a million clips share few of these strings
    identity, category = sys.intern(f"{dataset}/{person}"), sys.intern(category)
    target_id = f"{dataset}/{target}" if target else identity
    return Clip(
        clip_id=f"{dataset}/{name}",
        place=os.fspath(folder),
        label=int(fake),
        video_label=labels[0],
        audio_label=labels[1],
        category=category,
        method=(method or category) if fake else "real",
        identity=identity,
        source_ids=tuple(f"{dataset}/{donor}" for donor in donors if donor),
        target_id=target_id,
        pair_key=sys.intern(f"{dataset}/{pair}") if pair else target_id,
        stratum=stratum,
        dataset=dataset,
        split=split,
        split_group=sys.intern(f"{dataset}/{group}") if group else "",
        emotion=emotion,
        source_video=sys.intern(f"{dataset}/{source_video}") if source_video else "",
        video_fake_segments=segments[0],
        audio_fake_segments=segments[1],
        identity_is=identity_is,
    )
