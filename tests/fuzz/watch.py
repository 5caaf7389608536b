"""An eye on one process: what it writes, starts and connects to, by Python's own audit events.

Installed in the children that run cases, and, through sitecustomize.py, in every Python process that
preprocess.prepare starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# event -> places of its arguments: paths that are changed, and the open folders that they are relative to
PATH_EVENTS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
PROGRAMS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"}
HARMLESS = ("/dev/null", "/dev/shm/", "/proc/self/", "/dev/tty")


def _is_own(program: object) -> bool:
    """Python itself, and what asks for libraries and fonts when MediaPipe and matplotlib are imported."""
    name = os.fsdecode(program) if isinstance(program, (str, bytes)) else ""
    return name == sys.executable or os.path.basename(name) in {"ldconfig", "gcc", "ld", "objdump", "fc-list"}  # noqa: PTH119


def watch(allowed: Sequence[str], report: Callable[[str], None], *, own_processes: bool = False) -> None:
    """Report whatever this process does outside the folders `allowed`, over the network, or by starting
    programs (Python and what it needs is fine with `own_processes`).
    """
    folders = tuple(os.path.realpath(folder) + os.sep for folder in allowed)
    busy = [False]

    def is_allowed(path: object, folder: object = None) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a descriptor: it was opened before
        above = f"/proc/self/fd/{folder}/" if isinstance(folder, int) and folder >= 0 else ""
        place = os.path.realpath(above + os.fsdecode(path))
        return f"{place}{os.sep}".startswith(folders) or place.startswith(HARMLESS)

    def hook(event: str, arguments: tuple) -> None:
        if busy[0]:
            return
        wanted = event == "open" or event in PATH_EVENTS or event in NETWORK or event in PROGRAMS
        if not wanted and event != "subprocess.Popen":
            return
        busy[0] = True
        try:
            if event == "open":
                path, _, flags = arguments
                if isinstance(flags, int) and flags & WRITES and not is_allowed(path):
                    report(f"opened {path!r} to write")
            elif event in PATH_EVENTS:
                for path, folder in PATH_EVENTS[event]:
                    if not is_allowed(arguments[path], None if folder is None else arguments[folder]):
                        report(f"{event} {arguments[path]!r}")
            elif event in NETWORK:
                local = event == "socket.connect" and isinstance(arguments[1], (str, bytes))  # a Unix socket
                if not local:
                    report(f"{event} {arguments[1:]!r}")
            elif not (own_processes and _is_own(arguments[0])):
                report(f"{event} {arguments[:2]!r}")
        except ValueError:  # a path with NUL: nothing will come of it
            pass
        finally:
            busy[0] = False

    sys.addaudithook(hook)


def watch_from_environment() -> None:
    """What sitecustomize.py calls: FUZZ_ALLOWED names the folders, FUZZ_LOG where to report."""
    log = os.environ["FUZZ_LOG"]

    def report(what: str) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{' '.join(sys.argv[:3])}: {what}\n".encode(errors="replace"))
        os.close(descriptor)

    watch(os.environ["FUZZ_ALLOWED"].split(os.pathsep), report, own_processes=True)
