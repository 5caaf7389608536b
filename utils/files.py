"""Files that are either whole or not there, and folders that one process writes to at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import FrameworkError, UsageError

log = logging.getLogger(__name__)
PARTIAL_SUFFIX = ".partial"
LOCK_NAME = ".lock"


class WriteError(FrameworkError):
    """A file could not be written; what stood under its name before is still there."""


def write_atomically(path: Path, write: Callable[[Path], Any], *, keep_older: int = 0) -> None:
    """Call write(partial path), make it durable, and give it its final name: never a half-written file under
    it.

    So many versions before it stay as NAME.1.SUFFIX (the last one), NAME.2.SUFFIX, ... Raises WriteError if
    there is no room.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        write(partial)
        sync(partial)
        versions = [path, *(older_version(path, number) for number in range(1, keep_older + 1))]
        for newer, older in reversed(list(zip(versions, versions[1:], strict=False))):
            if newer.exists():
                newer.replace(older)
        partial.replace(path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        # torch says something of its own after what the system said
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(reason, OSError) and reason.filename is None and reason.strerror:
            free = shutil.disk_usage(path.parent).free / 2**20
            raise WriteError(
                f"{path}: cannot be written ({reason.strerror}; {free:.0f} MB are free there); what it was "
                "before is still there"
            ) from error
        raise


def older_version(path: Path, number: int) -> Path:
    """Where write_atomically keeps the version that was replaced `number` writes ago."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems have no such thing for folders
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder ours while the context lasts, and remove what writers that were killed left half done.

    Raises UsageError if another process has it. A process that dies, however it does, frees it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+", encoding="utf-8") as file:
        try:
            # unlike flock's, this lock is not inherited by loader workers, which outlive a killed run a while
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UsageError(
                f"{folder} is in use by {owner}: wait for it, or choose another --run_dir"
            ) from None
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
