"""What a command says while it works: log lines, and bars, so that no minute is silent; and a few threads.

PyTorch is not imported here: commands that list, prepare or audit clips need none of it."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

__all__ = [
    "Bar",
    "configure_logging",
    "is_first_process",
    "logging_redirect_tqdm",
    "map_files",
    "progress",
    "told_progress",
]
Item = TypeVar("Item")
Result = TypeVar("Result")

DELAY_S = 2.0  # shorter work shows no bar
NUM_THREADS = 8  # network file systems answer several requests at a time
CHUNK = 64  # the most items that a thread takes at a time
FEW = 16  # up to this many, threads are not worth their start


def is_first_process() -> bool:
    """Whether this process is the only one or, of those that torchrun started, the one with rank 0."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def configure_logging(log_file: Path | None = None) -> None:
    """Log to stderr and, if given, append to a file (the first process alone). Called once, by main()."""
    outputs: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None and is_first_process():
        outputs.append(logging.FileHandler(log_file, encoding="utf-8"))
    line = "%(asctime)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, datefmt="%H:%M:%S", handlers=outputs, force=True)


Listener = Callable[[str, str, int, int], None]  # (what, unit, how many are done, of how many)
_listener: Listener | None = None


@contextlib.contextmanager
def told_progress(listener: Listener) -> Iterator[None]:
    """While active, each `Bar` of this process tells `listener` how far it is, and draws nothing."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class Bar(tqdm):
    """tqdm's bar on standard error, or what `told_progress` tells."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if _listener is not None:
            options["file"] = io.StringIO()
        super().__init__(*arguments, **options)

    def update(self, n: int = 1) -> bool | None:
        shown: bool | None = super().update(n)
        if _listener is not None and not self.disable:
            _listener(self.desc, self.unit, self.n, self.total)
        return shown


def progress(items: Iterable[Item], what: str, unit: str, total: int | None = None) -> Iterable[Item]:
    """`items` with a bar on standard error, in the main process only, from the third second on."""
    is_quiet = not is_first_process() or multiprocessing.parent_process() is not None
    return tqdm(items, what, total, leave=False, unit=unit, delay=DELAY_S, mininterval=0.5, disable=is_quiet)


def map_files(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> Iterator[Result]:
    """`function` of each item, which reads files, in their order, from a few threads and with a bar.

    The first error, in the order of the items, is raised. Few items are mapped in this thread.
    """
    if len(items) <= FEW:
        yield from map(function, items)
        return
    size = max(1, min(CHUNK, len(items) // (8 * NUM_THREADS)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        results = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        yield from progress(itertools.chain.from_iterable(results), what, "item", len(items))
    finally:
        pool.shutdown(cancel_futures=True)
