"""Worker processes, each with one job at a time. One that dies costs its job and is replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from utils.errors import ClipError, FrameworkError, UsageError

LOCK_PATIENCE_S = 10.0  # how long the workers of a run that was killed may take to notice
JOBS_PER_PROCESS = 500  # then a fresh one takes over, so that what native libraries leak does not add up


@contextlib.contextmanager
def lock_partial(partial: Path, shard: str, *, patience_s: float | None = None) -> Iterator[Path]:
    """An empty folder `partial`/`shard` that no other run writes to; it is removed at the end.

    What an earlier run left there is deleted. Raises UsageError if such a run is still alive.
    """
    folder, lock_path = partial / shard, partial / f"{shard}.lock"
    lock = _take_lock(lock_path, LOCK_PATIENCE_S if patience_s is None else patience_s)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _share_lock(lock)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock_path.unlink(missing_ok=True)
        os.close(lock)
        with contextlib.suppress(OSError):  # other shards may be at work
            partial.rmdir()


def _take_lock(path: Path, patience_s: float) -> int:
    """Descriptor of a lock file held by us alone."""
    import fcntl

    deadline = time.monotonic() + patience_s
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise UsageError(
                    f"another run is writing to {path.parent.parent}; wait for it, or give each run its "
                    "--shard"
                ) from None
        except OSError:  # a file system without locks: go on without
            return descriptor
        os.close(descriptor)
        time.sleep(0.1)


def _share_lock(descriptor: int) -> None:
    """Let the workers hold the lock, too: it becomes free when the last of them has gone."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _serve(connection: Connection, work: Callable[[Any, Any], str], config: Any, scratch: Path) -> None:
    """Body of a worker process: jobs in, outcomes out, until None comes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends us
    threading.Thread(target=_die_with_parent, daemon=True).start()
    lock = os.open(scratch.parent.with_name(f"{scratch.parent.name}.lock"), os.O_RDWR | os.O_CREAT)
    _share_lock(lock)
    # native libraries write to descriptor 2, Python's own errors to sys.stderr: silence only the former
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if job is None:
            return
        connection.send(run_job(job, work, config, scratch))


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def run_job(job: Any, work: Callable[[Any, Any], str], config: Any, scratch: Path) -> tuple[str, str]:
    """(status, reason) of one job. Errors that are not the data's are raised."""
    for left_behind in (scratch, scratch.with_name(f"{scratch.name}_old")):
        shutil.rmtree(left_behind, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        return work(dataclasses.replace(job, scratch=scratch), config), ""
    except UsageError as error:
        return "usage", str(error)
    except ClipError as error:
        # its path is the job's own or a file of the clip: the latter is worth saying
        inside = error.path not in (job.source, job.folder)
        return "failed", f"{error.path.name}: {error.reason}" if inside else error.reason
    except (FrameworkError, OSError) as error:
        return "failed", str(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Worker:
    def __init__(self, work: Callable[[Any, Any], str], config: Any, scratch: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end, work, config, scratch), daemon=True)
        self.process.start()
        other_end.close()  # so that the worker's death is seen as the end of the connection
        self.job: Any = None
        self.num_jobs = 0

    def give(self, job: Any) -> None:
        self.job = job
        self.num_jobs += 1
        with contextlib.suppress(BrokenPipeError):  # it died idle: `take` reports it
            self.connection.send(job)

    def take(self) -> tuple[str, str] | None:
        """The outcome of the job, None if the process died over it."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_workers(
    jobs: Sequence[Any], work: Callable[[Any, Any], str], config: Any, partial: Path, num_workers: int
) -> Iterator[tuple[Any, str, str]]:
    """Yield (job, status, reason) as jobs finish. `work(job, config)` runs in one of `num_workers` processes;
    0: one per CPU core.

    `work` is a module's function that returns the status or raises ClipError (status "failed"). A worker that
    dies fails its job only. Raises UsageError if a worker does.
    """
    queue = iter(jobs)
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), max(1, len(jobs)))
    workers: list[_Worker] = []
    busy: dict[Connection, _Worker] = {}

    def employ(worker: _Worker) -> None:
        job = next(queue, None)
        worker.give(job)
        if job is not None:
            busy[worker.connection] = worker

    try:
        for index in range(num_workers):
            workers.append(_Worker(work, config, partial / f"worker_{index}"))
            employ(workers[-1])
        while busy:
            for connection in wait(list(busy)):
                worker = busy.pop(connection)
                job, outcome = worker.job, worker.take()
                if outcome is None:
                    code = worker.process.exitcode
                    outcome = "failed", f"the process that worked on it ended with {_exit_text(code)}"
                if not worker.process.is_alive() or worker.num_jobs >= JOBS_PER_PROCESS:
                    index = workers.index(worker)
                    worker.stop()
                    workers[index] = worker = _Worker(work, config, partial / f"worker_{index}")
                if outcome[0] == "usage":
                    raise UsageError(outcome[1])
                employ(worker)
                yield job, *outcome
    finally:
        for worker in workers:
            worker.stop()


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        hint = ": out of memory?" if -code == signal.SIGKILL else ""
        return f"signal {signal.Signals(-code).name}{hint}"
    return f"status {code}; its traceback is above"
