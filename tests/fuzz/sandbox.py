"""A case in a process of its own, with limits on time, memory and files, and an eye on what it does."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.cases import BROKEN, PROCESSED, REFUSED, BrokenPromiseError
from tests.fuzz.watch import watch
from utils.errors import FrameworkError

MAX_FILE_MB = 64


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a case may take."""

    seconds: float = 20.0
    memory_mb: int = 2048  # more than the process had before


@dataclass
class _Child:
    key: Any
    pid: int
    pipe: int
    started: float
    text: bytes = b""


def _megabytes(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _limit(limits: Limits) -> None:
    memory = int((_megabytes("VmSize") + limits.memory_mb) * 2**20)
    seconds = int(limits.seconds) + 2
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, MAX_FILE_MB * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def _run(
    prepare: Callable[[], str], work: Callable[[], str], writable: Path, limits: Limits | None
) -> dict[str, Any]:
    """Body of the child: prepare, then do the work within its limits, and say how it ended."""
    try:
        what = prepare()
    except BaseException as error:  # noqa: BLE001 (the parent raises it)
        return {"error": "".join(traceback.format_exception(error))}
    violations: list[str] = []
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    before = _megabytes("VmRSS")
    if limits is not None:
        _limit(limits)
        os.environ["TMPDIR"] = os.fspath(writable)
        os.chdir(writable)
        watch([os.fspath(writable)], violations.append)
    status, reason = PROCESSED, ""
    try:
        reason = work()
        if reason:
            status = REFUSED
    except FrameworkError as error:
        status, reason = REFUSED, f"{type(error).__name__}: {error}"
    except SystemExit as error:  # argparse
        status, reason = (REFUSED, "usage") if error.code == 2 else (BROKEN, f"exit {error.code}")
    except BrokenPromiseError as error:
        status, reason = BROKEN, str(error)
    except BaseException as error:  # noqa: BLE001 (any error at all breaks a promise)
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
        status = BROKEN
        sys.stderr.write("".join(traceback.format_exception(error)[-40:])[-8000:])
    if violations:
        status, reason = BROKEN, f"it {violations[0]}"
    return {
        "what": what,
        "status": status,
        "reason": reason[:2000],
        "peak_mb": max(0.0, _megabytes("VmHWM") - before),
    }


def start(
    key: Any, prepare: Callable[[], str], work: Callable[[], str], writable: Path, limits: Limits | None
) -> _Child:
    """Fork a child that calls `prepare`, which says in words what it has made, and then, within limits,
    `work`, which returns the reason of a refusal, if it is one.
    """
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return _Child(key, pid, read_end, time.monotonic())
    try:
        os.setsid()
        os.close(read_end)
        output = os.open(writable / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
        result = json.dumps(_run(prepare, work, writable, limits)).encode()
        with contextlib.suppress(OSError):
            while result:
                result = result[os.write(write_end, result) :]
    finally:
        os._exit(0)


def wait_for_any(children: list[_Child], limits: Limits) -> Iterator[tuple[_Child, dict[str, Any]]]:
    """The children that end next, with what they say; those beyond their time are killed."""
    ready, _, _ = select.select([child.pipe for child in children], [], [], 0.05)
    for child in list(children):
        seconds = time.monotonic() - child.started
        if child.pipe in ready:
            piece = os.read(child.pipe, 1 << 16)
            child.text += piece
            if piece:
                continue
        elif seconds < limits.seconds:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        os.close(child.pipe)
        children.remove(child)
        result = _result(child, status, seconds, limits)
        if "error" in result:
            raise RuntimeError(f"the case {child.key} could not be made:\n{result['error']}")
        yield child, {"what": "", "seconds": seconds, **result}


def _result(child: _Child, status: int, seconds: float, limits: Limits) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        return json.loads(child.text)
    if seconds >= limits.seconds:
        return {"status": BROKEN, "reason": f"hangs: not done after {limits.seconds:g} s", "peak_mb": 0.0}
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    end = f"signal {signal.Signals(number).name}" if number else f"status {os.waitstatus_to_exitcode(status)}"
    return {"status": BROKEN, "reason": f"crashes: its process ended with {end}", "peak_mb": 0.0}


def run_alone(work: Callable[[], object], writable: Path) -> None:
    """Do `work` in a child without limits, e.g. to build what cases start from. Raises RuntimeError."""
    children = [start("base", lambda: str(work()), lambda: "", writable, None)]
    while children:
        for _, result in wait_for_any(children, Limits(seconds=300)):
            if result["status"] != PROCESSED:
                raise RuntimeError(f"{result['reason']}; see {writable / 'output.txt'}")
