"""Commands of the project, run as a user runs them but for the time that their imports take.

A fork server imports the packages, and what most commands need of the project, once. Every command is a fork
of it: a process of its own, with its own arguments, environment and standard streams, that runs the script or
module as __main__.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def run_command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in the project's folder, on one thread, e.g. ("-m", "loaders.audit", "--help").

    Returns its exit status and what it wrote. With an `environment` it is an interpreter from scratch.
    """
    arguments = [str(word) for word in words]
    if environment:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "env": ONE_THREAD | environment}
        return subprocess.run([sys.executable, *arguments], check=False, **options)
    return start_command(*arguments).wait()


class StartedCommand:
    """A command under way, in process groups of its own; its output goes to files meanwhile."""

    def __init__(self, arguments: list[str], processes: int) -> None:
        self.arguments = arguments
        self._folder = tempfile.TemporaryDirectory()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        self.processes, self._streams = [], []
        for rank in range(processes):
            streams = [Path(self._folder.name) / f"{name}_{rank}" for name in ("stdout", "stderr")]
            environment = (
                {**os.environ, "OMP_NUM_THREADS": "1"}
                | together
                | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            )
            self.processes.append(_start(arguments, environment, *streams))
            self._streams.append(streams)

    def running(self) -> bool:
        return any(process.exitcode is None for process in self.processes)

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to its processes, or to all of their groups."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(process.pid, number)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """What it wrote, and its exit status: of several processes that of the first one that failed."""
        for process in self.processes:
            process.join()
        statuses = [process.exitcode for process in self.processes]
        outputs = [
            "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.exists())
            for paths in zip(*self._streams, strict=True)
        ]
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.arguments, next(filter(None, statuses), 0), *outputs)


def start_command(*words: object, processes: int = 1) -> StartedCommand:
    """`run_command` that does not wait; with several `processes`, as torchrun starts them."""
    return StartedCommand([str(word) for word in words], processes)


def run_processes(count: int, *words: object) -> subprocess.CompletedProcess[str]:
    """`run_command` in several processes."""
    return start_command(*words, processes=count).wait()


def run_launcher(
    name: str, *words: str, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`bash NAME WORDS` in `cwd`, with these `variables`; its trainings and tests are forks, too."""
    callers = {"DATA_ROOT", "RUN_DIR", "VENV"}  # who runs the tests may have them
    environment = {key: value for key, value in ONE_THREAD.items() if key not in callers}
    environment |= forking_environment() | {"USE_ACTIVE_ENV": "1"}
    options = {"cwd": cwd, "capture_output": True, "text": True, "env": environment | variables}
    return subprocess.run(["bash", name, *words], check=False, **options)


def forking_environment() -> dict[str, str]:
    """Variables with which launchers and torchrun have train.py and test.py forked as `run_command` does."""
    python = _forking_python()
    return {"PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHON_EXEC": str(python)}


_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
words = [word for word in sys.argv[1:] if word != "-u"]
if words[:1] not in (["train.py"], ["test.py"]) and words[:2] != ["-m", "tests.e2e.distributed_worker"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
server.sendall(json.dumps([words, dict(os.environ), os.getpid()]).encode() + b"\\n")
answers = server.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
sys.exit(int(answers.readline()))
"""


@functools.cache
def _forking_python() -> Path:
    """A `python` that has this process fork train.py and test.py, and is Python for all else."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as file:
            arguments, environment, pid = json.loads(file.readline())
            process = _start(arguments, environment, *(Path(f"/proc/{pid}/fd/{n}") for n in (1, 2)))
            file.write(f"{process.pid}\n")
            file.flush()
            process.join()
            file.write(f"{process.exitcode % 256}\n")

    def listen() -> None:
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    _context()  # not first by two threads at once
    threading.Thread(target=listen, daemon=True).start()
    client = folder / "python"
    client.write_text(_CLIENT.format(python=sys.executable, address=str(folder / "socket")))
    client.chmod(0o755)
    return client


@functools.cache
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fork_server"])
    before = dict(os.environ)
    os.environ.update(ONE_THREAD)  # the server's own: libraries read it when they are loaded
    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)
    return context


def _start(
    arguments: list[str], environment: dict[str, str], stdout: Path, stderr: Path
) -> multiprocessing.context.ForkServerProcess:
    """A fork under way."""
    process = _context().Process(target=_run, args=(arguments, environment, stdout, stderr))
    process.start()
    return process


def _run(arguments: list[str], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    os.setsid()
    for number, path in ((1, stdout), (2, stderr)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # whatever is usual, not the one that started this
    os.chdir(ROOT)
    sys.path[:] = [str(ROOT), *(place for place in sys.path if place not in ("", str(ROOT)))]
    status: object = 0
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 (what the interpreter does with it)
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status or 0)
