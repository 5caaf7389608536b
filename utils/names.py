"""Names and values from elsewhere, which may hold anything: file names, metadata, JSON.

A name goes to people through `readable` or `brief`, and into a data set only if it `is_plain`.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

# what terminals obey and XML parsers refuse: control characters, lone surrogates (they stand for bytes of
# file names that are not UTF-8), and code points that are not characters
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
_BREAKS = "\t\n\r\u2028\u2029"
# reverse the direction of all that follows: "gpj.exe" then reads "exe.jpg"
_TURNS = "\u202a-\u202e\u2066-\u2069"
_NOT_PLAIN = re.compile(f"[{_CONTROL}{_BREAKS}]")
_NOT_READABLE = re.compile(f"[{_CONTROL}{_TURNS}]")
_NOT_IN_A_LINE = re.compile(f"[{_CONTROL}{_TURNS}{_BREAKS}]+")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # in the source of JSON
# what operating systems leave in folders: nobody's videos, even if named like one
_LITTER = frozenset(
    ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information")
    + ("lost+found", "@eaDir", "#recycle")
)
_LITTER_PREFIXES = ("._", ".Trash")
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 2048  # limits of file systems, less room for the root


def is_plain(text: str) -> bool:
    """Whether a name can be written to any file and shown on any screen unchanged."""
    return text.isprintable() or _NOT_PLAIN.search(text) is None


def is_litter(name: str) -> bool:
    """Whether an operating system left a file or folder of this name: ._clip.mp4, __MACOSX, .Trash-1000."""
    return name in _LITTER or name.startswith(_LITTER_PREFIXES)


def fits_file_system(path: str) -> bool:
    """Whether a path, with "/" between its parts, is no longer than file systems allow."""
    if len(path) * 4 <= MAX_NAME_BYTES:
        return True
    parts = [part.encode(errors="replace") for part in path.split("/")]
    return max(map(len, parts)) <= MAX_NAME_BYTES and sum(map(len, parts)) + len(parts) <= MAX_PATH_BYTES


def readable(text: str) -> str:
    """`text` for a page: each character that no page may hold becomes a replacement character."""
    return text if text.isprintable() else _NOT_READABLE.sub("\ufffd", text)


def one_line(text: str, max_length: int = 2000) -> str:
    """`text` for a terminal or a plot: one line, shortened in its middle."""
    text = text if text.isprintable() else _NOT_IN_A_LINE.sub("\ufffd", text)
    if len(text) <= max_length:
        return text
    head = (max_length - 1) * 2 // 3
    return f"{text[:head]}\u2026{text[len(text) - (max_length - 1 - head) :]}"


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 120, 120


def brief(value: Any) -> str:
    """repr() of a value that may be large or nest deep, for an error message."""
    return _BRIEF.repr(value)


def parse_json(text: str | bytes) -> Any:
    """json.loads that raises ValueError for every failure, also for too deep nesting and invalid text."""
    try:
        content = json.loads(text)
        require_characters(content, text.decode(errors="replace") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    return content


def require_characters(content: Any, text: str) -> None:
    """Raise ValueError if JSON `text` escapes half a character: `content` could not be written."""
    if _SURROGATE.search(text):  # pairs are characters, halves cannot be written
        json.dumps(content, ensure_ascii=False).encode()
