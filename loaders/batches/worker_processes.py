"""A loader's worker processes: how they are set up, watched and ended.

torch raises the death of a worker from a signal handler, wherever the main process is at that moment, and has
no public way to ask which worker it was. The private names of torch that mend this are used in this file
alone. With PLAIN_TORCH=1 in the environment only torch's public interface is used: a dead worker is then
noticed all the same, but the error names the clips of all workers, and may come in the middle of a step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from types import FrameType, TracebackType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from utils.errors import FrameworkError
from utils.run.device import uses_plain_torch
from utils.run.distributed import StopWaiting
from utils.run.memory import free_shared_memory, keep_freed_memory
from utils.run.resume import stoppable


class LoaderError(FrameworkError):
    """A worker process of a loader died or hangs."""


def next_item(
    loader: DataLoader[Any], iterator: Iterator[Any], clips_at: Callable[[list[int]], str], batch_bytes: float
) -> Any:
    """The next item of a loader's iterator, None at its end.

    If a worker died or hangs: LoaderError that names the clips `clips_at` the workers that it may be, or
    /dev/shm, if a batch of `batch_bytes` has no room there. A stop request ends the wait, see `stoppable`.
    """
    if not loader.num_workers:
        return next(iterator, None)
    try:
        if uses_plain_torch():
            with stoppable():
                return next(iterator, None)
        _watch(iterator)
        with stoppable(), worker_deaths.are_raised():
            return next(iterator, None)
    except StopWaiting:
        if not uses_plain_torch():
            _kill_workers(iterator)
        raise
    except (RuntimeError, OSError, EOFError) as error:
        dead: list[int] = []
        how, timed_out = "unexpectedly", str(error).startswith("DataLoader timed out")
        if not uses_plain_torch():
            dead, how = _dead_workers(iterator, 0 if isinstance(error, RuntimeError) else 5)
            if not dead and not timed_out and "shared memory" not in str(error):
                raise
            _kill_workers(iterator)
        elif isinstance(error, RuntimeError) and not str(error).startswith("DataLoader"):
            raise
        what = f"a loader worker ended {how} while it read"
        if timed_out and not dead:
            what = f"no loader worker gave a batch for {loader.timeout:.0f} s while they read"
        free = free_shared_memory()
        if (timed_out or "SIGBUS" in how or not dead) and free is not None and free < 2 * batch_bytes:
            raise LoaderError(
                f"{what} clips: /dev/shm, where workers hand over batches of {batch_bytes / 1e6:.0f} MB, "
                f"has {free / 1e6:.0f} MB free; give a container more (docker run --shm-size 8g, or --ipc "
                "host), or use --num_workers 0"
            ) from error
        clips = clips_at(dead or list(range(loader.num_workers)))
        raise LoaderError(f"{what} {clips}; look at it with preprocess.verify, or exclude it") from error


def end_workers(loader: DataLoader[Any]) -> None:
    """End a loader's workers now: an error's traceback would keep them, and a later fork inherit them."""
    loader._iterator = None


def set_up_worker(worker_id: int) -> None:
    """The `worker_init_fn` of a loader."""
    keep_freed_memory()
    # Ctrl-C, torchrun and SLURM signal whole groups: the main process decides when its workers end
    for number in (signal.SIGINT,) if uses_plain_torch() else (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _report_unless_disconnected
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _report_unless_disconnected(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """The main process hangs up when a stop request ends its wait for a batch: that is no error."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, traceback)


class _WorkerDeaths:
    """A handler of SIGCHLD that raises the death of a worker only while the main process waits for one."""

    def __init__(self) -> None:
        self.waiting = self.installed = False

    def install(self) -> None:
        """Replace torch's handler, which torch sets at most once. Call before a loader starts its workers."""
        if self.installed or uses_plain_torch() or threading.current_thread() is not threading.main_thread():
            return
        from torch.utils.data._utils import signal_handling

        before = None if signal_handling._SIGCHLD_handler_set else signal.getsignal(signal.SIGCHLD)
        signal_handling._set_SIGCHLD_handler()
        of_torch = signal.getsignal(signal.SIGCHLD)  # calls the one before it

        def handle(number: int, frame: FrameType | None) -> None:
            handler = of_torch if self.waiting or uses_plain_torch() else before
            if callable(handler):
                handler(number, frame)

        signal.signal(signal.SIGCHLD, handle)
        self.installed = True

    @contextlib.contextmanager
    def are_raised(self) -> Iterator[None]:
        """Raises torch's RuntimeError if a worker has died, or dies in this context."""
        from torch._C import _error_if_any_worker_fails

        self.waiting = True
        try:
            _error_if_any_worker_fails()
            yield
        finally:
            self.waiting = False


worker_deaths = _WorkerDeaths()
_watched: weakref.WeakSet[Any] = weakref.WeakSet()  # iterators whose workers are killed when Python ends


def _dead_workers(iterator: Any, wait_s: float) -> tuple[list[int], str]:
    """(numbers of the dead workers, how the first one ended).

    A worker that dies takes announced batches along: reading them may fail before its end is seen.
    """
    workers = iterator._workers
    ending = wait([worker.sentinel for worker in workers], timeout=wait_s)
    for worker in workers:
        if worker.sentinel in ending:
            worker.join(5)  # its files are closed a moment before its exit status is there
    dead = [number for number, worker in enumerate(workers) if worker.exitcode is not None]
    code = workers[dead[0]].exitcode if dead else 0
    return dead, f"with signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"


def _kill_workers(iterator: Any) -> None:
    """They ignore SIGTERM, on which torch, and Python as it ends, would wait forever."""
    from torch._C import _remove_worker_pids

    _watched.discard(iterator)
    _remove_worker_pids(id(iterator))  # else torch would report their deaths
    iterator._worker_pids_set = False  # and torch need not do so again
    for worker in iterator._workers:
        worker.kill()


def _kill_workers_left() -> None:
    """At the end of Python: an error's traceback may have kept a loader alive."""
    for iterator in list(_watched):
        _kill_workers(iterator)


_registered_in = 0  # the process that has the finalizer: a fork of it begins without


def _watch(iterator: Any) -> None:
    """Kill this iterator's workers when Python ends."""
    global _registered_in
    if _registered_in != os.getpid():
        _watched.clear()  # they are its parent's
        Finalize(None, _kill_workers_left, exitpriority=10)
        _registered_in = os.getpid()
    _watched.add(iterator)
