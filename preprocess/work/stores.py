"""Where raw data sets and prepared clips lie: in a folder, or below a URL that fsspec reads (s3://, gs://).

Files in a folder are used in place, and finished clips move there by a rename. Files below a URL are
downloaded one clip at a time. An object store has no rename, so clip.json is uploaded last and marks a clip
as finished. fsspec finds the credentials (environment, configuration files, instance roles).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from preprocess.work.jobs import PARTIAL_NAME, Job, require_clip_folder, require_clip_names
from utils.clip.files import INFO_NAME
from utils.errors import FrameworkError, UsageError
from utils.files import WriteError, sync, walk_tree
from utils.names import is_litter

log = logging.getLogger(__name__)

LOCAL_SCHEMES = ("file://", "local://")


class StoreError(FrameworkError):
    """A store does not answer, or refuses a request."""


@dataclass(frozen=True)
class LocalStore:
    """A folder of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def local_path(self) -> Path | None:
        """The folder, if its files are this machine's."""
        return self.path

    def below(self, name: str) -> LocalStore:
        return LocalStore(self.path / name)

    def place(self, name: str | PurePath) -> PurePath:
        """Path that is equal for equal files, whatever names they were given by."""
        return (self.path / name).resolve()

    def is_file(self) -> bool:
        return self.path.is_file()

    def is_folder(self) -> bool:
        return self.path.is_dir()

    def above(self) -> tuple[LocalStore, str]:
        """The folder above, and the name in it."""
        return LocalStore(self.path.parent), self.path.name

    def all_files(self, *, follow: bool = False) -> Iterator[Path]:
        """All files at any depth, relative to it. Links to folders are followed only if asked to."""
        for folder, subfolders, files in walk_tree(self.path, links="follow"):
            for name in [] if follow else list(subfolders):
                path = Path(folder, name)
                if path.is_symlink():
                    log.warning("%s: is a link to a folder, and left out without --allow_links", path)
                    subfolders.remove(name)
            relative = Path(folder).relative_to(self.path)
            yield from (relative / name for name in files if Path(folder, name).is_file())

    def files(self) -> list[Path]:
        """The files of a data set: hidden folders are left out, links to folders followed."""
        found = []
        for folder, subfolders, files in walk_tree(self.path, links="follow"):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            relative = Path(folder).relative_to(self.path)
            found += [relative / name for name in files]
        return found

    def size(self, name: str | PurePath) -> int | None:
        """Size of a file in bytes; None if it does not exist."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def fetch(self, name: str | PurePath, folder: Path) -> Path:
        """Path at which the file can be read on this machine."""
        return self.path / name

    def write(self, name: str | PurePath, data: bytes, scratch: Path) -> None:
        """Write a file atomically, by way of the folder `scratch` on the same file system.

        Raises WriteError if the disk is full.
        """
        self._install(name, scratch, lambda partial: partial.write_bytes(data))

    def _install(self, name: str | PurePath, scratch: Path, make: Callable[[Path], Any]) -> None:
        path = self.path / name
        partial = scratch / f".{path.name}.partial"  # unlike a name next to `path`, no other run has it
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make(partial)
            sync(partial)
            partial.replace(path)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written ({error.strerror})") from error

    def copy(self, name: str | PurePath, source: Path, scratch: Path) -> None:
        """As `write`, of a file of any size."""
        self._install(name, scratch, lambda partial: shutil.copyfile(source, partial))

    def remove(self, name: str | PurePath) -> None:
        (self.path / name).unlink(missing_ok=True)

    def clip_files(self, name: PurePath) -> set[str]:
        """Names of the files of a clip folder. Raises ClipError if it is something else."""
        folder = self.path / name
        if os.path.lexists(folder):
            require_clip_folder(folder)
        return {path.name for path in folder.glob("*")}

    def remove_clip(self, name: PurePath, scratch: Path) -> None:
        Job(name=str(name), source=Path(), folder=self.path / name, scratch=scratch).remove_folder()

    def install_clip(self, folder: Path, name: PurePath) -> None:
        """Make `folder`, on the same file system, the clip folder `name`."""
        Job(name=str(name), source=Path(), folder=self.path / name, scratch=folder).install_folder()

    def workspace(self) -> Path:
        """Folder for unfinished files, on the same file system."""
        return self.path / PARTIAL_NAME


@dataclass(frozen=True)
class UrlStore:
    """A folder below a URL."""

    url: str  # without a slash at its end

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.url)  # without user and password

    def local_path(self) -> Path | None:
        """The folder, if its files are this machine's."""
        path = self.url.partition("://")[2]
        return Path(path) if self.url.startswith(LOCAL_SCHEMES) else None

    def below(self, name: str) -> UrlStore:
        return UrlStore(f"{self.url}/{name}")

    def place(self, name: str | PurePath) -> PurePath:
        """Path that is equal for equal files; file:// gives the same as LocalStore."""
        with self._files(name) as (_, path):
            if self.url.startswith(LOCAL_SCHEMES):
                return Path(path).resolve()
        return PurePosixPath(self.url.partition("://")[0], path.lstrip("/"))

    @contextlib.contextmanager
    def _files(self, name: str | PurePath = "") -> Iterator[tuple[Any, str]]:
        """(file system, path in it); fsspec keeps one file system per process.

        Errors become a StoreError that names the URL. FileNotFoundError passes.
        """
        import fsspec

        # only file:// needs folders to be created first
        options = {"auto_mkdir": True} if self.url.startswith(LOCAL_SCHEMES) else {}
        try:
            try:
                files, root = fsspec.url_to_fs(self.url, **options)
            except (ImportError, ValueError) as error:
                raise UsageError(f"{self}: {error}") from error
            yield files, f"{root.rstrip('/')}/{name}" if name else root
        except (FrameworkError, FileNotFoundError):
            raise
        except Exception as error:
            where = f"{self}/{name}" if name else str(self)
            raise StoreError(f"{where}: {type(error).__name__}: {error}") from error

    def is_file(self) -> bool:
        with self._files() as (files, path):
            return files.isfile(path)

    def is_folder(self) -> bool:
        with self._files() as (files, path):
            return files.isdir(path)

    def above(self) -> tuple[UrlStore, str]:
        url, _, name = self.url.rpartition("/")
        return UrlStore(url), name

    def all_files(self, *, follow: bool = False) -> Iterator[Path]:
        return map(Path, self._names(""))

    def files(self) -> list[Path]:
        return [
            path for path in self.all_files() if not any(part.startswith(".") for part in path.parts[:-1])
        ]

    def _names(self, name: str | PurePath) -> list[str]:
        """Relative names of all files below a folder but litter, from one listing of that folder.

        Not by `ls`, which lists the parent if the folder does not exist: with many clips, most of the work.
        """
        with self._files(name) as (files, path):
            files.invalidate_cache(path)
            found = files.find(path)
            files.invalidate_cache()  # do not keep a listing of millions, nor trust it later
        start = len(path.rstrip("/")) + 1
        names = (full[start:] for full in found if full[start:] and not full.endswith("/"))
        return [name for name in names if not any(map(is_litter, name.split("/")))]

    def size(self, name: str | PurePath) -> int | None:
        with self._files(name) as (files, path):
            try:
                entry = files.info(path)
            except FileNotFoundError:
                return None
        return entry["size"] if entry["type"] == "file" else None

    def fetch(self, name: str | PurePath, folder: Path) -> Path:
        """Download the file into `folder`. Raises StoreError if that fails."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / PurePosixPath(name).name
        with self._files(name) as (files, path):
            try:
                files.get_file(path, str(target))
            except FileNotFoundError as error:
                raise StoreError(f"{self}/{name}: no such file") from error
        return target

    def write(self, name: str | PurePath, data: bytes, scratch: Path) -> None:
        with self._files(name) as (files, path):
            files.pipe_file(path, data)

    def copy(self, name: str | PurePath, source: Path, scratch: Path) -> None:
        with self._files(name) as (files, path):
            files.put_file(str(source), path)

    def remove(self, name: str | PurePath) -> None:
        with self._files(name) as (files, path), contextlib.suppress(FileNotFoundError):
            files.rm_file(path)

    def clip_files(self, name: PurePath) -> set[str]:
        names = set(self._names(name))
        require_clip_names(name, names)
        return names

    def remove_clip(self, name: PurePath, scratch: Path) -> None:
        """Remove a clip's files, clip.json first: without it, the clip is not finished."""
        for file in sorted(self.clip_files(name), key=lambda file: file != INFO_NAME):
            self.remove(name / file)

    def install_clip(self, folder: Path, name: PurePath) -> None:
        """Upload the files of `folder` as the clip `name`, clip.json last. No older clip may be there."""
        for source in sorted(folder.iterdir(), key=lambda path: (path.name == INFO_NAME, path.name)):
            with self._files(name / source.name) as (files, path):
                files.put_file(str(source), path)

    def workspace(self) -> Path:
        """Folder of this machine for unfinished files, the same for every run into this URL."""
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"preprocess_{os.getuid()}_{digest}"


Store = LocalStore | UrlStore


def open_store(place: str | Path) -> Store:
    """The store that a flag names: a URL or a path, made absolute. Reads nothing yet."""
    scheme, found, rest = str(place).partition("://")
    return UrlStore(f"{scheme}://{rest.rstrip('/')}") if found else LocalStore(Path(place).absolute())


@dataclass(frozen=True, kw_only=True)
class StoredJob(Job):
    """A job whose raw video, clip folder, or both lie below a URL. Its paths are relative to the stores."""

    raw: Store
    prepared: Store

    @property
    def local_source(self) -> None:
        return None
