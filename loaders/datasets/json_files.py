"""Reading the JSON that data sets ship: whole files, long lists in pieces, and folders of small files."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.errors import DatasetError
from utils.files import read_pieces, read_text, walk_tree
from utils.names import brief, one_line, parse_json, require_characters

MAX_ENTRY = 1 << 24  # letters of an entry of a list: more is a damaged file
_decode = json.JSONDecoder().raw_decode
_BETWEEN = re.compile(r"[\s,]*")  # the entries of a list


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file whose outermost value is a `kind` (dict or list), else DatasetError."""
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise DatasetError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, kind):
        raise DatasetError(f"{path}: expected a JSON {kind.__name__}, found a {type(content).__name__}")
    return content


def read_json_entries(path: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """("<file>, entry 17", entry) of a JSON list of objects that must have the keys `required`.

    One entry is decoded at a time, and one piece of the file is in memory: a list of a million entries, of
    half a gigabyte, would else take several. Raises DatasetError that names file, entry and what was found.
    """
    text = _Text(path)
    if text.next() != "[":
        raise DatasetError(f"{path}: expected a JSON list, found {text.shown()!r}")
    text.position += 1
    for number in itertools.count():
        if text.next() == "]":
            return
        where = f"{path}, entry {number}"
        try:
            entry = text.decode()
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise DatasetError(f"{where}: is not JSON ({reason})") from error
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}: expected a JSON object, found {brief(entry)}")
        _require_keys(where, entry, required)
        yield where, entry


class _Text:
    """A long JSON text, of which what was read is forgotten."""

    def __init__(self, path: Path) -> None:
        self._pieces, self._text, self.position = read_pieces(path), "", 0

    def next(self) -> str:
        """The character with which the next entry begins; "" at the end."""
        while True:
            match = _BETWEEN.match(self._text, self.position)
            assert match is not None  # it matches nothing at all, too
            self.position = match.end()
            if self.position < len(self._text) or not self._read_on():
                return self._text[self.position : self.position + 1]

    def decode(self) -> Any:
        """The value that begins here. Raises ValueError or RecursionError if it is not JSON."""
        while True:
            try:
                value, end = _decode(self._text, self.position)
            except ValueError:  # perhaps it goes on in the next piece
                if len(self._text) > MAX_ENTRY or not self._read_on():
                    raise
            else:
                require_characters(value, self._text[self.position : end])
                self.position = end
                return value

    def shown(self) -> str:
        """The start of what begins here, for an error message."""
        return self._text[self.position : self.position + 20]

    def _read_on(self) -> bool:
        """Add as much as is there already, so that a long value is not tried many times; False at the end."""
        self._text, self.position = self._text[self.position :], 0
        before = len(self._text)
        while len(self._text) <= 2 * before and (piece := next(self._pieces, "")):
            self._text += piece
        return len(self._text) > before


def read_json_folder(folder: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, its object) of every JSON file below a folder: a data set with a file for each video.

    The key `file` is by default the place of the JSON file, as .mp4. Raises as read_json_entries.
    """
    for place, _, names in walk_tree(folder, links="follow"):
        for name in names:
            if name.lower().endswith(".json") and not name.startswith("."):
                path = Path(place, name)
                file = path.relative_to(folder).with_suffix(".mp4").as_posix()
                entry = {"file": file} | read_json(path, dict)
                _require_keys(str(path), entry, required)
                yield str(path), entry


def _require_keys(where: str, entry: dict[str, Any], required: Sequence[str]) -> None:
    if missing := [name for name in required if name not in entry]:
        keys = one_line(", ".join(entry), 400)
        raise DatasetError(f"{where}: no key {', '.join(missing)}; its keys are {keys}")
