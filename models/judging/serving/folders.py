"""The folder of uploads while they are judged: nobody else may look into it, and nothing of it remains.

It goes when the server ends. If the server is killed, the process that judges removes it; if that is killed
as well, the next server does: the lock on the folder is then free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "judged_videos_"
PATIENCE_S = 10.0


@contextlib.contextmanager
def upload_folder(parent: Path | None) -> Iterator[Path]:
    """Yield an empty folder in `parent` (None: the system's for temporary files); remove it at the end.

    Removes those of this user's servers that were killed.
    """
    where = Path(tempfile.gettempdir()) if parent is None else parent
    where.mkdir(parents=True, exist_ok=True)
    for left_behind in where.glob(f"{PREFIX}*"):
        if (lock := _lock(left_behind)) is not None:
            remove_tree(left_behind)
            os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where)).resolve()
    lock = _lock(folder)
    try:
        yield folder
    finally:
        remove_tree(folder)
        if lock is not None:
            os.close(lock)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also while a process that is about to end still makes files in it."""
    deadline = time.monotonic() + PATIENCE_S
    while os.path.lexists(folder) and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)


def _lock(folder: Path) -> int | None:
    """Descriptor of a folder of this user's that only this process has locked; None: it cannot be had."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:  # another server's, or a file system without locks
        pass
    os.close(descriptor)
    return None
