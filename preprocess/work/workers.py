"""Worker processes that each do one job at a time, within limits. One that dies fails its job only."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from preprocess.work.jobs import Job
from preprocess.work.limits import LIMIT_SIGNALS, LimitConfig, describe_error, limited
from utils.errors import ClipError, FrameworkError, UsageError
from utils.run.memory import huge_pages_for_children
from utils.run.progress import Bar

AnyJob = TypeVar("AnyJob", bound=Job)
Outcomes = Generator[tuple[AnyJob, str, str], None, None]  # (job, status, reason) of jobs as they finish
LOCK_PATIENCE_S = 10.0  # time for the workers of a killed run to end
PACKAGES = ("av", "cv2", "soxr", "soundfile")  # that jobs import
JOBS_PER_PROCESS = 500  # a new process then takes over: native libraries leak


@contextlib.contextmanager
def lock_partial(partial: Path, shard: str, *, patience_s: float = LOCK_PATIENCE_S) -> Iterator[Path]:
    """Yield an empty folder `partial`/`shard` that only this run writes to; remove it at the end.

    Deletes what an earlier run left there. Raises UsageError if that run is still alive.
    """
    folder, lock_path = partial / shard, partial / f"{shard}.lock"
    lock = _take_lock(lock_path, patience_s)
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
    """Descriptor of a lock file that only this process holds."""
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
                text = f"another run is writing to {path.parent.parent}: wait, or use different --shards"
                raise UsageError(text) from None
        except OSError:  # the file system has no locks: go on without
            return descriptor
        os.close(descriptor)
        time.sleep(0.1)


def _share_lock(descriptor: int) -> None:
    """Share the lock with the workers: it becomes free when the last of them ends."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _serve(connection: Connection, do: Callable[[Any, Connection], Any], lock: Path | None) -> None:
    """Body of a worker process: answer each task with `do(task, connection)`, until a task is None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if lock is not None:
        _share_lock(os.open(lock, os.O_RDWR | os.O_CREAT))
    # silence descriptor 2, where native libraries write, but keep Python's own sys.stderr
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            return
        connection.send(do(task, connection))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker
    parent.join()
    os._exit(1)


def run_job(
    job: AnyJob, work: Callable[[AnyJob], str], limits: LimitConfig, scratch: Path
) -> tuple[str, str]:
    """(status, reason) of one job: ("failed", why) for errors of the data, ("usage", why) for wrong flags.

    Other errors are raised, and a limit may end this process.
    """
    for left_behind in (scratch, scratch.with_name(f"{scratch.name}_old")):
        shutil.rmtree(left_behind, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        job.require_within()
        with limited(limits, job.local_source, job.effort):
            return work(dataclasses.replace(job, scratch=scratch)), ""
    except UsageError as error:
        return "usage", str(error)
    except ClipError as error:
        # job.name already names the job's own path, but not a file of its clip
        inside = error.path not in (job.source, job.folder)
        return "failed", f"{error.path.name}: {error.reason}" if inside else error.reason
    except FrameworkError as error:
        return "failed", str(error)
    except (OSError, MemoryError) as error:
        return "failed", describe_error(error, limits)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _do_job(
    job: AnyJob, connection: Connection, *, work: Callable[[AnyJob], str], limits: LimitConfig, scratch: Path
) -> tuple[str, str]:
    return run_job(job, work, limits, scratch)


class _Worker:
    def __init__(self, do: Callable[[Any, Connection], Any], lock: Path | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end, do, lock), daemon=True)
        with huge_pages_for_children():
            self.process.start()
        other_end.close()  # the worker's death then ends the connection
        self.job: Any = None
        self.num_jobs = 0

    def give(self, job: Any) -> None:
        self.job = job
        self.num_jobs += 1
        with contextlib.suppress(BrokenPipeError):  # it died while idle: `take` reports it
            self.connection.send(job)

    def take(self) -> Any:
        """What the process sends next; None if it died."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None

    def can_go_on(self) -> bool:
        """Whether it can take another job."""
        return self.process.is_alive() and self.num_jobs < JOBS_PER_PROCESS

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_workers(
    jobs: Sequence[AnyJob],
    work: Callable[[AnyJob], str],
    limits: LimitConfig,
    partial: Path,
    num_workers: int,
) -> Outcomes[AnyJob]:
    """Yield (job, status, reason) as jobs finish, done by `num_workers` processes; 0: one per CPU core.

    `work(job)` returns the status, or raises ClipError (status "failed"); it must be picklable. A worker that
    dies, for example of a limit, fails its job only. Raises UsageError if `work` does.
    """
    queue = iter(jobs)
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), max(1, len(jobs)))
    workers: list[_Worker] = []
    busy: dict[Any, _Worker] = {}  # its connection -> the worker

    def hire(index: int) -> _Worker:
        do = functools.partial(_do_job, work=work, limits=limits, scratch=partial / f"worker_{index}")
        # only a module that runs as a command ("-m preprocess.pack") has work of its own
        is_script = getattr(sys.modules["__main__"], "__spec__", None) is None
        with _without_main() if is_script else contextlib.nullcontext():
            return _Worker(do, partial.with_name(f"{partial.name}.lock"))

    def employ(worker: _Worker) -> None:
        job = next(queue, None)
        worker.give(job)
        if job is not None:
            busy[worker.connection] = worker

    try:
        for index in range(num_workers):
            workers.append(hire(index))
            employ(workers[-1])
        while busy:
            for ready in wait(list(busy)):
                worker = busy.pop(ready)
                job, outcome = worker.job, worker.take()
                if outcome is None:
                    outcome = "failed", _exit_text(worker.process.exitcode)
                if not worker.can_go_on():
                    index = workers.index(worker)
                    worker.stop()
                    workers[index] = worker = hire(index)
                if outcome[0] == "usage":
                    raise UsageError(outcome[1])
                employ(worker)
                yield job, *outcome
    finally:
        for worker in workers:
            worker.stop()


def _exit_text(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the worker process ended with status {code}; its traceback is above"
    hint = ": out of memory?" if -code in (signal.SIGKILL, signal.SIGABRT) else ""
    died = f"the worker process ended with signal {signal.Signals(-code).name}{hint}"
    return LIMIT_SIGNALS.get(-code, died)


@dataclasses.dataclass(frozen=True)
class _Call:
    function: Callable[..., Any]
    source: Path
    limits: LimitConfig
    shows_progress: bool
    effort: float
    folder: Path  # where relative paths begin


_helper: tuple[int, _Worker] | None = None  # (id of the process that owns it, worker)
_calling = threading.Lock()


def call_limited(
    function: Callable[..., Any],
    *arguments: Any,
    source: Path,
    limits: LimitConfig,
    progress: str = "",
    effort: float = 1.0,
    **options: Any,
) -> Any:
    """Call `function(*arguments, **options)` in another process, within `limits` for the video `source`.

    Returns or raises what the function does; raises ClipError if the process dies. The process is kept for
    the next call. The function must not be the main script's. `progress` is the title of a progress bar, for
    functions with the option `show_progress(pictures, count)`; `effort` is that of `limited`.
    """
    global _helper
    function = functools.partial(function, *arguments, **options)
    call = _Call(function, source, limits.limits_only(), bool(progress), effort, Path.cwd())
    with _calling, contextlib.ExitStack() as cleanup:
        if _helper is None or _helper[0] != os.getpid() or not _helper[1].can_go_on():
            _stop_helper()
            with _without_main():
                _helper = os.getpid(), _Worker(_do_call)
        worker = _helper[1]
        cleanup.callback(_stop_helper)  # unless all goes well
        worker.give(call)
        bar = None
        while (message := worker.take()) is not None:
            kind, value = message
            if kind == "frames":
                if bar is None:
                    bar = Bar(total=value[1], desc=progress, unit="frame", dynamic_ncols=True)
                    cleanup.callback(bar.close)
                bar.update(value[0] - bar.n)
                continue
            cleanup.pop_all()
            if bar is not None:
                bar.close()
            if kind == "raised":
                raise value
            return value
        raise ClipError(source, _exit_text(worker.process.exitcode))


def iterate_limited(
    function: Callable[..., Iterable[Any]], *arguments: Any, source: Path, limits: LimitConfig
) -> Iterator[Any]:
    """Yield what `function(*arguments)` yields in a process of its own, within `limits`, wall time aside.

    The process waits while nobody takes what it has. Raises what the function does; ClipError if the process
    dies. Connections may be among the arguments.
    """
    do = functools.partial(_do_iterate, functools.partial(function, *arguments), source, limits.limits_only())
    with _without_main():
        worker = _Worker(do)
    try:
        worker.give(True)
        while (message := worker.take()) is not None:
            kind, value = message
            if kind == "raised":
                raise value
            if kind == "returned":
                return
            yield value
        raise ClipError(source, _exit_text(worker.process.exitcode))
    finally:
        worker.stop()


def _do_iterate(
    function: Callable[[], Iterable[Any]],
    source: Path,
    limits: LimitConfig,
    _: Any,
    connection: Connection,
) -> tuple[str, Any]:
    def send_all() -> None:
        for value in function():
            connection.send(("yielded", value))

    return _outcome(send_all, limited(limits, source, waits=True), source, limits)


def _outcome(
    function: Callable[[], Any],
    within: contextlib.AbstractContextManager[None],
    source: Path,
    limits: LimitConfig,
) -> tuple[str, Any]:
    """("returned", value) or ("raised", error) of a call within limits; other errors are raised."""
    try:
        with within:
            return "returned", function()
    except FrameworkError as error:
        return "raised", error
    except (OSError, MemoryError) as error:
        return "raised", ClipError(source, describe_error(error, limits))


def _stop_helper() -> None:
    global _helper
    if _helper is not None and _helper[0] == os.getpid():
        _helper[1].stop()
    _helper = None


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a process that starts now from running the main script again, which may have no guard, and which
    imports PyTorch if it is test.py.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _do_call(call: _Call, connection: Connection) -> tuple[str, Any]:
    def show_progress(pictures: Iterable[Any], count: int) -> Iterator[Any]:
        shown_s = float("-inf")
        for index, picture in enumerate(pictures):
            if time.monotonic() > shown_s + 0.1:
                shown_s = time.monotonic()
                connection.send(("frames", (index, count)))
            yield picture
        connection.send(("frames", (count, count)))

    os.chdir(call.folder)
    options = {"show_progress": show_progress} if call.shows_progress else {}
    within = limited(call.limits, call.source, call.effort)
    return _outcome(functools.partial(call.function, **options), within, call.source, call.limits)
