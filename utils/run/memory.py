"""Memory tuning, for speed alone: huge pages, and freed memory that stays with the process; shared memory.

`TUNE_MEMORY=0` in the environment turns all of it off: torch, NumPy and OpenCV then get memory
the system's own way. Results do not depend on it. Linux with glibc only; elsewhere nothing happens.
`THP_MEM_ALLOC_ENABLE` (torch) and `GLIBC_TUNABLES` (GNU C library) keep what the user has set.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # where processes hand tensors to each other; 64 MB in a container
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def is_tuned() -> bool:
    """Whether the environment allows memory tuning; the default."""
    return os.environ.get("TUNE_MEMORY", "1") != "0"


def use_huge_pages() -> None:
    """Let torch ask Linux for pages of 2 MB for large tensors.

    On a CPU, every training step takes gigabytes of activations from the system and returns them. Torch reads
    the setting when it makes its first tensor, which some imports do: `utils/__init__.py` calls this.
    """
    if is_tuned():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def huge_page_variables() -> dict[str, str]:
    """Environment variables with which a new process takes its memory in pages of 2 MB (glibc >= 2.35)."""
    before = os.environ.get("GLIBC_TUNABLES", "")
    if not is_tuned() or "hugetlb" in before:
        return {}
    return {"GLIBC_TUNABLES": ":".join(filter(None, [before, "glibc.malloc.hugetlb=1"]))}


@contextlib.contextmanager
def huge_pages_for_children() -> Iterator[None]:
    """Processes started within this context use huge pages: a clip touches so much memory that looking up
    small pages takes time. The environment is restored afterwards.
    """
    before = os.environ.get("GLIBC_TUNABLES")
    os.environ.update(huge_page_variables())
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("GLIBC_TUNABLES", None)
        else:
            os.environ["GLIBC_TUNABLES"] = before


def keep_freed_memory() -> None:
    """Let this process keep up to 64 MB that it has freed, instead of returning it at once.

    A window of 60 frames is a few arrays of 9 MB that come and go with every clip: a loader worker spent a
    fifth of its time on page faults for them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if is_tuned() and mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 64 << 20)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # larger arrays are mapped, and returned when they are freed


def free_shared_memory() -> int | None:
    """Free bytes of /dev/shm; None if there is no such place, or it has no limit."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize if status.f_blocks else None
