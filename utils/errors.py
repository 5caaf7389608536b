"""Errors that a user can act on, and the one way in which a command ends.

A command prints one line (what, where, what to do) on stderr and exits with 1 for data and 2 for usage. The
traceback appears with `--debug`, and always for other errors: those are bugs.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from utils.names import one_line

# of a disk that is full, read-only or broken: no bugs, even where the system does not say which file it was
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class FrameworkError(Exception):
    """Base of all errors that the data or the user causes, not the program."""

    exit_status = 1


class ClipError(FrameworkError):
    """One clip or video cannot be used: `path` says which, `reason` says why and what to do."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ClipError], tuple[Path, str]]:
        # the default would rebuild it from the joined message, and fail when a worker process sends it back
        return type(self), (self.path, self.reason)


class NoFaceError(ClipError):
    """No face was found in a video, or in too few of its frames."""


class DatasetError(FrameworkError):
    """A data set as a whole (its root, metadata or splits) cannot be used."""


class IncompleteError(DatasetError):
    """A part of a data set is not there, which may be added later; what is there is not wrong."""


class CheckpointError(FrameworkError):
    """A checkpoint cannot be read, or does not fit the model that is to take it."""


class UsageError(FrameworkError):
    """Flags that contradict each other, or ask for something that this machine does not have."""

    exit_status = 2


def require_packages(names: Iterable[str], purpose: str) -> None:
    """Raise UsageError with the pip command if `purpose` lacks one of these packages.

    A mapping says under which name pip knows each module.
    """
    known = names if isinstance(names, Mapping) else {}
    missing = [known.get(name, name) for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{purpose} needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run `main`, turn a FrameworkError into one line on stderr and its exit status, and exit.

    With `--debug` among the arguments the error keeps its traceback. Ctrl-C exits with 130.
    """
    try:
        sys.exit(main() or 0)
    except FrameworkError as error:
        if "--debug" in sys.argv:
            raise
        # torchrun numbers its processes; all of them may have the same error, or one alone
        process = os.environ.get("RANK", "0")
        # a message may hold a file's name: keep it one line without control characters
        prefix = "error" if process == "0" else f"error in process {process}"
        sys.stderr.write(f"{prefix}: {one_line(str(error))}\n")
        sys.exit(error.exit_status)
    except OSError as error:
        if "--debug" in sys.argv or (error.filename is None and error.errno not in DISK_ERRORS):
            raise
        where = "" if error.filename is None else f"{one_line(str(error.filename))}: "
        sys.stderr.write(f"error: {where}{error.strerror}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
