"""Reading packed data sets: the files of all clip folders lie in a few tar shards.

preprocess/pack.py writes them. A pack is a folder with the data set's metadata and the folders above its clip
folders, as in the prepared tree, and `pack.sqlite`, which says where each file of each clip lies in which
shard. Shards are WebDataset tar files (key = clip folder): `.mp4`, or decoded `.frames.npy` (T, H, W, 3)
uint8, and `.wav`, `.landmarks.npy`, `.json`. They may lie at any address that fsspec opens.

Readers ask for the path that the file has in the prepared tree; this module finds out whether it is packed.
"""

from __future__ import annotations

import errno
import functools
import io
import math
import mmap
import os
import re
import sqlite3
import threading
import tokenize
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError, DatasetError
from utils.files import Links, walk_tree
from utils.names import brief, is_plain

INDEX_NAME = "pack.sqlite"
FRAMES_NAME = "frames.npy"  # decoded frames, in place of the crop
FEATURES = "features/"  # a clip's subfolder: files and inputs that begin with it are cached features
FORMAT = "1"
RATE = re.compile(r"[1-9]\d{0,11}(/[1-9]\d{0,11})?", re.ASCII)  # a fraction above 0
LARGEST = 2**53  # limit of the numbers in clip.json and in packs: no size, time or place exceeds it
MAX_HEADER = 4096  # bytes of a .npy file's header
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE shards (number INTEGER PRIMARY KEY, name TEXT, size INTEGER);
CREATE TABLE clips (
    parent TEXT, name TEXT, fps TEXT, num_frames INTEGER, PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE TABLE files (
    folder TEXT, name TEXT, shard INTEGER, start INTEGER, size INTEGER, PRIMARY KEY (folder, name)
) WITHOUT ROWID;
"""


# what NumPy's parser raises for hostile headers
_BAD_HEADER = (
    *(ValueError, TypeError, LookupError, OverflowError, SyntaxError, tokenize.TokenError),
    *(RecursionError, MemoryError),
)


def open_array(path: Path) -> npt.NDArray[Any]:
    """A .npy file mapped into memory, never an archive or a pickle. Raises ValueError or OSError."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except _BAD_HEADER as error:
        raise ValueError(brief(str(error))) from error


def array_in(content: memoryview) -> npt.NDArray[Any]:
    """The array in the bytes of a .npy file, as a view. Raises ValueError if they are not one."""
    header = io.BytesIO(content[:MAX_HEADER])
    try:
        version = np.lib.format.read_magic(header)
        formats = np.lib.format
        read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
        shape, fortran, dtype = read(header)
        if dtype.hasobject or fortran or min(shape, default=0) < 0:
            raise ValueError("it is not a plain array")
        count = math.prod(shape)
        if count * dtype.itemsize > len(content) - header.tell():
            raise ValueError(f"{brief(shape)} values are announced, but some are missing")
        return np.frombuffer(content, dtype, count, offset=header.tell()).reshape(shape)
    except _BAD_HEADER as error:
        raise ValueError(brief(str(error))) from error


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a clip in a shard."""

    path: Path  # in the prepared tree
    shard: str  # path or address
    start: int  # of its content, in bytes
    size: int

    def open(self) -> BinaryIO:
        """Its content as a file; of a local shard, only what is asked for is read."""
        return io.BufferedReader(_ViewFile(self._content()))

    def array(self) -> npt.NDArray[Any]:
        """The array of a .npy file, mapped into memory if the shard is local. Raises ClipError."""
        try:
            return array_in(self._content())
        except ValueError as error:
            raise ClipError(self.path, f"is not an array ({error}); pack the clips again") from error

    def _content(self) -> memoryview:
        end = self.start + self.size
        if "://" not in self.shard:
            return memoryview(_mapped(self.shard, os.getpid()))[self.start : end]
        import fsspec

        system, place = fsspec.core.url_to_fs(self.shard)
        return memoryview(system.cat_file(place, start=self.start, end=end))


class _ViewFile(io.RawIOBase):
    """A part of the memory as a file, without a copy."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._place = view, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, offset + {0: 0, 1: self._place, 2: len(self._view)}[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        piece = self._view[self._place : self._place + len(buffer)]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


@functools.lru_cache(maxsize=256)
def _mapped(shard: str, process: int) -> mmap.mmap:
    """A local shard in memory, once per process."""
    try:
        with Path(shard).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{shard}: a shard of the pack cannot be read ({error})") from error


def _plain_name(name: Any) -> str:
    """A name from the index. Raises DatasetError if it leads to another folder."""
    if not isinstance(name, str) or not is_plain(name) or name in ("", ".", "..") or set(name) & set("/\\"):
        raise DatasetError(f"{INDEX_NAME}: {brief(name)} is not the name of a file or a clip; pack again")
    return name


def _member_name(name: Any) -> str:
    """The name of a clip's file from the index, see _plain_name."""
    is_feature = isinstance(name, str) and name.startswith(FEATURES)
    _plain_name(name.removeprefix(FEATURES) if is_feature else name)
    return str(name)


class Pack:
    """The index of one pack."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()  # two threads could be given the same cached statement of SQL
        try:
            # immutable: nobody writes to it, so no locks are needed, also on network file systems
            address = f"{(root / INDEX_NAME).absolute().as_uri()}?mode=ro&immutable=1"
            self._database = sqlite3.connect(address, uri=True, check_same_thread=False)
            self._require_own_tables()
            self.about = dict(self._rows("SELECT key, value FROM about"))
            if self.about.get("format") != FORMAT:
                raise self._not_ours(f"its format is {brief(self.about.get('format'))}, not {FORMAT}")
            place = self.about["shards"] or os.fspath(root)
            self._shards = {
                number: f"{place.rstrip('/')}/{_plain_name(name)}"
                for number, name in self._rows("SELECT number, name FROM shards")
            }
        except (sqlite3.Error, KeyError, AttributeError, TypeError, ValueError) as error:
            raise self._not_ours(error) from error

    def _not_ours(self, why: object) -> DatasetError:
        return DatasetError(f"{self.root / INDEX_NAME}: is not the index of a pack ({why}); pack again")

    def _require_own_tables(self) -> None:
        """Raise DatasetError unless the tables are those of preprocess/pack.py: a view of the same name could
        be a query that never ends.
        """
        found = self._rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        expected = {" ".join(sql.split()) for sql in SCHEMA.split(";") if sql.strip()}
        if {" ".join(str(sql).split()) for (sql,) in found} != expected:
            raise self._not_ours("it has other tables")

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """The rows that a query returns. Raises DatasetError if the file is damaged."""
        try:
            with self._lock:
                return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._not_ours(error) from error

    @functools.lru_cache(maxsize=1024)  # noqa: B019 (packs live as long as their process)
    def members(self, folder: str) -> dict[str, Member]:
        """Name -> file of a clip folder (relative to the root); empty if there is no such clip."""
        rows = self._rows("SELECT name, shard, start, size FROM files WHERE folder = ?", folder)
        for name, shard, *place in rows:
            if shard not in self._shards or not all(isinstance(n, int) and n >= 0 for n in place):
                raise self._not_ours(f"{brief(name)} of {folder} lies at {brief(place)} of {brief(shard)}")
        return {
            _member_name(name): Member(self.root / folder / name, self._shards[shard], start, size)
            for name, shard, start, size in rows
        }

    def file_names(self, folder: str) -> list[str]:
        """Names of the files of a clip folder; packed frames count as the crop."""
        return ["cropped_video.mp4" if name == FRAMES_NAME else name for name in self.members(folder)]

    def clip_header(self, folder: str) -> tuple[str, int]:
        """(frame rate as a fraction, number of frames) of a clip."""
        parent, _, name = folder.rpartition("/")
        rows = self._rows("SELECT fps, num_frames FROM clips WHERE parent = ? AND name = ?", parent, name)
        fps, num_frames = rows[0] if len(rows) == 1 else ("", None)
        if not RATE.fullmatch(str(fps)) or not isinstance(num_frames, int) or not 0 <= num_frames <= LARGEST:
            raise self._not_ours(f"its entry for {folder} is {brief(rows)}")
        return fps, num_frames

    def clips_in(self, folder: Path) -> list[str]:
        """Names of the clip folders that lie directly in a folder at or below the root."""
        parent = folder.relative_to(self.root).as_posix() if folder != self.root else ""
        rows = self._rows("SELECT name FROM clips WHERE parent = ?", parent)
        return [_plain_name(name) for (name,) in rows]


@functools.lru_cache(maxsize=64)
def open_pack(root: Path, process: int) -> Pack:
    """The pack in a folder, opened once per process (`process` = os.getpid(): databases survive no fork)."""
    return Pack(root)


@functools.lru_cache(maxsize=4096)
def _pack_root(folder: Path) -> Path | None:
    """The folder at or above `folder` that holds a pack, None without one."""
    if (folder / INDEX_NAME).is_file():
        return folder
    return None if folder.parent == folder else _pack_root(folder.parent)


def find_clip(folder: Path) -> tuple[Pack, str] | None:
    """The pack that holds a clip folder, and its name there; None if it lies in no pack."""
    if folder.is_dir():  # the common case, which is not cached
        return None
    root = _pack_root(folder.parent)
    return None if root is None else (open_pack(root, os.getpid()), folder.relative_to(root).as_posix())


def find_member(path: Path) -> Member | None:
    """A clip's file in its pack; None if it is a file of its own, or not there at all."""
    found = find_clip(path.parent)
    if found is None:
        return None
    pack, folder = found
    member = pack.members(folder).get(path.name)
    clip, _, last = folder.rpartition("/")
    if member is None and f"{last}/" == FEATURES:
        return pack.members(clip).get(FEATURES + path.name)
    return member


def open_member(path: Path) -> BinaryIO | None:
    """A clip's packed file, open for reading; None if it is a file of its own, or not there at all."""
    member = find_member(path)
    return None if member is None else member.open()


def in_pack(folder: str) -> bool:
    """Whether a folder, which need not exist, lies in a pack or is one."""
    return _pack_root(Path(folder)) is not None


def packed_clips(folder: Path) -> list[str]:
    """Names of the packed clip folders directly in a folder."""
    root = _pack_root(folder)
    return [] if root is None else open_pack(root, os.getpid()).clips_in(folder)


def clip_names(folder: Path) -> list[str]:
    """Names of the files in a clip folder, packed or not; [] without one. Packed frames count as the crop."""
    try:
        return os.listdir(folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        found = find_clip(folder)
    return [] if found is None else found[0].file_names(found[1])


def walk(
    root: Path, *, links: Links = "follow", skip: Container[str] = ()
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """walk_tree, with packed clip folders as if they were there; a real folder hides a packed one.

    Paths in `skip` are not entered.
    """
    outside = _pack_root(root)
    # the packs met on the way from the root to the folder: _pack_root would look for one in every folder
    packs = [] if outside is None else [open_pack(outside, os.getpid())]
    for place, subfolders, files in walk_tree(root, links=links):
        folder = Path(place)
        head = "" if folder == Path() else os.path.join(folder, "")  # noqa: PTH118
        while packs and not folder.is_relative_to(packs[-1].root):
            packs.pop()
        if INDEX_NAME in files and folder != outside and (folder / INDEX_NAME).is_file():
            packs.append(open_pack(folder, os.getpid()))
        if not packs:
            subfolders[:] = [name for name in subfolders if f"{head}{name}" not in skip]
            yield folder, subfolders, files
            continue
        pack = packs[-1]
        packed = sorted(set(pack.clips_in(folder)).difference(subfolders))
        packed = [name for name in packed if f"{head}{name}" not in skip]
        subfolders[:] = [name for name in subfolders if f"{head}{name}" not in skip]
        yield folder, subfolders, files
        for clip in packed:
            yield folder / clip, [], pack.file_names((folder / clip).relative_to(pack.root).as_posix())
