"""Clips in other people's files: published lists and tables of scores, and which clip each name means.

A list is a CSV with a column of NAME_COLUMNS, or has no header and a line for each clip: a path, or
`label,path` with further values, or `label path` (Celeb-DF). Lines that begin with # are comments.
"""

from __future__ import annotations

import csv
import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.clip.files import VIDEO_SUFFIXES
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.files import read_text
from utils.names import brief, is_plain

# in lower case; the first that is there counts
NAME_COLUMNS = ("clip_id", "full_path", "file_path", "video_path", "path", "file", "filename", "video-file")
MAX_TRIED = 500  # names of a list, to see which folders stand before all of them
_LABELLED = re.compile(r"[01](?:\.0)?[ \t]+(\S.*)")
_BETWEEN = re.compile(r"[ ()_-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a list."""

    where: str  # "<file>, line 3"
    name: str  # of the clip, as it is written there
    values: Mapping[str, str]  # column, in lower case -> text; {} without a header


def read_list(path: Path) -> list[Row]:
    """The rows of a list. Raises DatasetError that names file and line if there is no such list."""
    lines = read_text(path).split("\n")
    numbers = [number for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbers:
        raise DatasetError(f"{path}: lists no clip")
    try:
        table = list(csv.reader((lines[number - 1] for number in numbers), strict=True))
    except csv.Error as error:
        raise DatasetError(f"{path}: is not a readable CSV ({error})") from error
    header = [cell.strip().lower() for cell in table[0]]
    column = next((header.index(name) for name in NAME_COLUMNS if name in header), None)
    if column is not None and len(set(header)) < len(header):
        raise DatasetError(f"{path}, line {numbers[0]}: a column is there twice")
    if len(table) != len(numbers):
        raise DatasetError(f"{path}: has values of several lines; a clip must be one line")
    rows = []
    for number, cells in list(zip(numbers, table, strict=True))[0 if column is None else 1 :]:
        where, values = f"{path}, line {number}", dict[str, str]()
        if column is None:
            name = _path_in(lines[number - 1].strip(), cells)
        elif len(cells) != len(header):
            raise DatasetError(f"{where}: has {len(cells)} values, the header has {len(header)}")
        else:
            values = {key: cell.strip() for key, cell in zip(header, cells, strict=True)}
            name = values[header[column]]
        if not name or not is_plain(name):
            raise DatasetError(f"{where}: expected the path of a clip, found {brief(name)}")
        rows.append(Row(where, name, values))
    if not rows:
        raise DatasetError(f"{path}: lists no clip")
    return rows


def _path_in(line: str, cells: list[str]) -> str:
    """The path in a line without a header."""
    if match := _LABELLED.fullmatch(line):
        return match[1].strip()
    for cell in cells:
        if "/" in cell or PurePosixPath(cell.strip()).suffix.lower() in VIDEO_SUFFIXES:
            return cell.strip()
    return cells[0].strip() if len(cells) == 1 else ""


def plain_path(name: str) -> str:
    """A path as data sets are compared by it: NFC, "/" between parts, without "./" and a video's suffix."""
    path = unicodedata.normalize("NFC", name.strip()).replace("\\", "/").lstrip("/")
    if "//" in path or "./" in path:
        path = PurePosixPath(path).as_posix()
    stem, _, suffix = path.rpartition(".")
    is_video = f".{suffix.lower()}" in VIDEO_SUFFIXES and stem and not stem.endswith("/")
    return stem if is_video else path


class ClipNames:
    """The clips of a data set, by the names that others give them.

    A name is a clip id, or the path of the video or of the clip folder, with or without suffix. Blanks,
    brackets, hyphens and underscores may stand for each other ("Asian_East" for "Asian (East)") where that
    leaves one clip.
    """

    def __init__(self, dataset: str, clips: Iterable[Clip]) -> None:
        self.dataset = dataset
        self._exact: dict[str, Clip] = {}
        self._others: dict[str, Clip] = {}  # by id: those whose path, made plain, is another clip's as well
        for clip in clips:
            path = plain_path(clip.clip_id.removeprefix(f"{dataset}/"))
            if path in self._exact:
                self._others[clip.clip_id] = clip
            else:
                self._exact[path] = clip

    @functools.cached_property
    def _loose(self) -> dict[str, Clip | None]:
        """Clips by `_loosened` names; None: several clips."""
        found: dict[str, Clip | None] = {}
        for name, clip in self._exact.items():
            key = _loosened(name)
            found[key] = None if key in found else clip
        return found

    def _by_id(self, name: str) -> Clip | None:
        clip = self._exact.get(plain_path(name.removeprefix(f"{self.dataset}/")))
        return clip if clip and clip.clip_id == name else self._others.get(name)

    def find(self, path: str) -> Clip | None:
        """The clip at a `plain_path`; None if there is no such clip."""
        return self._exact.get(path) or self._loose.get(_loosened(path))

    def find_all(self, names: Sequence[str], below: str = "") -> list[Clip | None]:
        """The clip that each name means; None where there is no such clip. Ids go before paths.

        As few leading folders as possible, the same of all names, are dropped so that one of them is found:
        lists have the data set's name or the root of another machine before their paths. below: folder of
        the data set that the names leave out, e.g. "train".
        """
        found = [self._by_id(name) for name in names]
        paths = [plain_path(name) for name, clip in zip(names, found, strict=True) if clip is None]
        places = [f"{below}/" if below else "", ""]

        def at(path: str) -> Clip | None:
            return next((clip for place in places if (clip := self.find(place + path))), None)

        prefix = self._prefix(paths, at) if paths else ""
        others = iter(paths)
        return [at(next(others).removeprefix(prefix)) if clip is None else clip for clip in found]

    def find_below(self, names: Sequence[str], folders: Iterable[str]) -> list[Clip | None]:
        """`find_all` with that of the folders below which most are found, by default with no folder."""
        best = self.find_all(names)
        for folder in folders:
            if best.count(None):
                best = min(best, self.find_all(names, folder), key=lambda found: found.count(None))
        return best

    @staticmethod
    def _prefix(paths: Sequence[str], at: Callable[[str], Clip | None]) -> str:
        some = paths[:: max(1, len(paths) // MAX_TRIED)]  # a list of a million names may be of other clips
        for length in range(max(path.count("/") for path in some) + 1):
            for path in some:
                parts = path.split("/")
                if length < len(parts) and at("/".join(parts[length:])):
                    return "".join(f"{part}/" for part in parts[:length])
        return ""


def top_folders(clips: Iterable[Clip]) -> list[str]:
    """The folders of a data set in which clips lie, e.g. train and val, sorted."""
    paths = (clip.clip_id.removeprefix(f"{clip.dataset}/") for clip in clips)
    return sorted({path.split("/", 1)[0] for path in paths if "/" in path})


def _loosened(path: str) -> str:
    return "/".join(_BETWEEN.sub("_", part).strip("_").lower() for part in path.split("/"))
