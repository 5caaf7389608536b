"""The file system: files that are either whole or not there, folders with one writer, trees with links."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from utils.errors import DatasetError, FrameworkError, UsageError
from utils.names import is_litter

log = logging.getLogger(__name__)
Links = Literal["follow", "inside", "skip"]
PARTIAL_SUFFIX = ".partial"
LOCK_NAME = ".lock"


class WriteError(FrameworkError):
    """A file could not be written; the version before it is still there."""


def write_atomically(path: Path, write: Callable[[Path], Any], *, keep_older: int = 0) -> None:
    """Call write(partial path), make the file durable, and rename it to `path`: never a half-written file.

    The last `keep_older` versions stay as NAME.1.SUFFIX (the newest), NAME.2.SUFFIX, ... Raises WriteError if
    the disk is full.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        write(partial)
        sync(partial)
        for number in reversed(range(keep_older)):
            if (newer := older_version(path, number)).exists():
                newer.replace(older_version(path, number + 1))
        partial.replace(path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        # torch raises an error of its own after the system's
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(reason, OSError) and reason.filename is None and reason.strerror:
            free = shutil.disk_usage(path.parent).free / 2**20
            why = f"{reason.strerror}; {free:.0f} MB are free there"
            raise WriteError(
                f"{path}: cannot be written ({why}); the version before it is still there"
            ) from error
        raise


def older_version(path: Path, number: int) -> Path:
    """Where write_atomically keeps the version that was replaced `number` writes ago; 0: the file itself."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path


def versions_of(path: Path) -> list[Path]:
    """The versions of a file that are there, the newest first, whichever of them are missing."""
    numbers = (file.stem.removeprefix(f"{path.stem}.") for file in path.parent.glob(f"*{path.suffix}"))
    found = sorted({int(number) for number in numbers if re.fullmatch(r"[1-9]\d{0,8}", number)} | {0})
    return [version for number in found if (version := older_version(path, number)).exists()]


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot do this for folders
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def require_writable(folder: Path) -> None:
    """Make a folder and write a file there that nobody sees. Raises WriteError: before hours of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise WriteError(f"{folder}: results cannot be written there ({error.strerror})") from error


def read_text(path: Path) -> str:
    """The content of a text file from elsewhere: UTF-8, with or without a byte order mark, or cp949 (Korean).

    Line ends of every system become "\n". Raises DatasetError if there is none, if it is UTF-16, or no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    _require_not_utf16(path, data)
    _require_no_zeros(path, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:  # UTF-8 first: its bytes often decode as cp949 too, into nonsense
        try:
            text = data.decode("cp949")
        except UnicodeDecodeError:
            raise DatasetError(
                f"{path}, line {_line(data, error.start)}: is neither UTF-8 nor cp949 text; save it as UTF-8"
            ) from error
        log.info("%s: is read as cp949 (Korean), since it is not UTF-8", path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_pieces(path: Path, size: int = 1 << 20) -> Iterator[str]:
    """The content of a long UTF-8 text file from elsewhere, in pieces of `size` bytes.

    Line ends stay as they are. Raises DatasetError as `read_text` does, and for any other encoding.
    """
    decoder, lines = codecs.getincrementaldecoder("utf-8-sig")(), 0
    try:
        with path.open("rb") as file:
            _require_not_utf16(path, file.read(400))
            file.seek(0)
            is_last = False
            while not is_last:
                data = file.read(size)
                is_last = len(data) < size
                _require_no_zeros(path, data, lines)
                try:
                    yield decoder.decode(data, is_last)
                except UnicodeDecodeError as error:
                    line = lines + _line(data, error.start)
                    raise DatasetError(f"{path}, line {line}: is not UTF-8 text; save it as UTF-8") from error
                lines += data.count(b"\n")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error


def _require_not_utf16(path: Path, start: bytes) -> None:
    """Raise DatasetError if the first bytes of a file are those of UTF-16."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _alternates_with_zeros(start[:400]):
        raise DatasetError(
            f"{path}: is UTF-16 text; save it as UTF-8 (in a spreadsheet as 'CSV UTF-8', in a shell by "
            "iconv -f UTF-16 -t UTF-8)"
        )


def _require_no_zeros(path: Path, data: bytes, lines: int = 0) -> None:
    """Raise DatasetError for bytes of value 0, which no text has; `lines` come before `data`."""
    if (place := data.find(b"\0")) >= 0:
        line = lines + _line(data, place)
        raise DatasetError(f"{path}, line {line}: has bytes of value 0: no text; copy it again")


def _alternates_with_zeros(data: bytes) -> bool:
    """Whether many bytes are 0, nearly all at even or nearly all at odd places: UTF-16 without its mark."""
    fewer, more = sorted((data[::2].count(0), data[1::2].count(0)))
    return more > len(data) / 20 and 4 * fewer < more


def _line(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """("<file>, line 3", line) of each line of a text file that is not blank, trimmed."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line := line.strip():
            yield f"{path}, line {number}", line


def file_sha256(source: Path | BinaryIO) -> str:
    """Hex sha256 of a file, or of what is left of an open one, read in pieces."""
    digest = hashlib.sha256()
    with source.open("rb") if isinstance(source, Path) else source as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def names_sha256(names: Iterable[str]) -> str:
    """Hex sha256 of a set of names, e.g. clip ids: of the sorted names, a line each, in UTF-8."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(set(names))).encode()).hexdigest()


@contextlib.contextmanager
def locked_folder(folder: Path, *, flag: str = "--run_dir") -> Iterator[None]:
    """Lock a folder for this process while the context lasts; remove files that killed writers left partial.

    Raises UsageError, naming the `flag` that chose the folder, if another process holds the lock. The lock of
    a dead process is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+", encoding="utf-8") as file:
        try:
            # unlike flock's, not inherited by loader workers, which outlive a killed run for a while
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            message = f"{folder} is in use by {owner}: wait for it, or choose another {flag}"
            raise UsageError(message) from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); start nothing else there", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        for partial in (*folder.glob(f"*{PARTIAL_SUFFIX}"), *folder.glob(f"*/*{PARTIAL_SUFFIX}")):
            if partial.is_file():
                partial.unlink()
        yield
        file.truncate(0)


def walk_tree(root: Path | str, *, links: Links) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (folder, names of its subfolders, names of its files) for `root` and each folder below it.

    The only way in which the project walks a tree: links may loop, or lead to what is not the data set's.

    - Order: as os.walk from the top down, names sorted. Subfolders that the caller deletes from the list are
      not entered.
    - Files are all entries that are not folders, broken links too: they must be reported, not overlooked.
    - What operating systems leave in folders (._NAME, __MACOSX, trash: `is_litter`) is not there.
    - links="follow": links to folders are entered, wherever they lead. "inside": the same, but a link out of
      `root`, to a folder or a file, is an error. "skip": links to folders are neither listed nor entered.

    Raises DatasetError for a link to a folder above it and for a second link to one folder (few such links
    make a tree without an end), and for a folder that cannot be read. A folder that is removed while the
    walk is on is passed over.
    """
    top = os.fspath(root)
    real_top = os.path.realpath(top)
    linked: dict[tuple[int, int], str] = {}  # (device, inode) of a folder -> the link to it
    waiting: list[_Place] = [(top, None)]
    while waiting:
        here = place, above = waiting.pop()
        try:
            subfolders, files, link_names = _list_folder(place, links)
        except OSError as error:
            if above is not None and isinstance(error, FileNotFoundError):
                continue
            raise DatasetError(f"{place}: this folder cannot be read ({error.strerror})") from error
        prefix = f"{place.rstrip(os.sep)}{os.sep}"
        for name in sorted(link_names.intersection(files)) if links == "inside" else ():
            _require_inside(f"{prefix}{name}", top, real_top)
        yield place, subfolders, files
        for name in reversed(subfolders):
            path = f"{prefix}{name}"
            if name in link_names:
                if links == "inside":
                    _require_inside(path, top, real_top)
                _require_new(path, here, linked)
            waiting.append((path, here))


_Place = tuple[str, "_Place | None"]  # a folder, and the one above it in the walk


def _list_folder(place: str, links: Links) -> tuple[list[str], list[str], set[str]]:
    """Names in a folder: its subfolders and its files, sorted, and the links among both."""
    subfolders, files, link_names = [], [], set()
    with os.scandir(place) as entries:
        for entry in entries:
            if is_litter(entry.name):
                continue
            if entry.is_symlink():
                link_names.add(entry.name)
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if not is_folder:
                files.append(entry.name)
            elif links != "skip" or entry.name not in link_names:
                subfolders.append(entry.name)
    return sorted(subfolders), sorted(files), link_names


def _require_inside(path: str, top: str, real_top: str) -> None:
    """Raise DatasetError if a link leads out of the tree."""
    real = os.path.realpath(path)
    if real != real_top and not real.startswith(f"{real_top.rstrip(os.sep)}{os.sep}"):
        raise DatasetError(f"{path}: this link leads out of {top}, to {real}")


def _require_new(path: str, folder: _Place, linked: dict[tuple[int, int], str]) -> None:
    """Note a link in `folder` to a folder. Raise DatasetError if it leads to one above it, or is the second
    link to it.
    """
    key = _identity(path)
    above: _Place | None = folder
    while above is not None:
        if key == _identity(above[0]):
            raise DatasetError(f"{path}: this link leads back to {above[0]}, which holds it; remove the link")
        above = above[1]
    other = linked.setdefault(key, path)
    if other is not path:
        raise DatasetError(f"{path} and {other} are links to the same folder; keep one of them")


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 (100,000 links: no Path for each)
    return status.st_dev, status.st_ino
