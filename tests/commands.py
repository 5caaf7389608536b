"""Commands of the project, run as a user runs them but for the time that their imports take.

Every command is a fork of tests/fork_server.py: a process of its own, with its own arguments, environment and
standard streams, that runs the script or module as __main__. One server serves all processes of pytest, and
forks them, too (tests/conftest.py).
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import functools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
ADDRESS = "TESTS_FORK_SERVER"  # variable with the address of the server


def run_command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in the project's folder, on one thread, e.g. ("-m", "loaders.audit", "--help").

    Returns its exit status and what it wrote. With an `environment` it is an interpreter from scratch.
    """
    arguments = [str(word) for word in words]
    if environment:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "env": ONE_THREAD | environment}
        return subprocess.run([sys.executable, *arguments], check=False, **options)
    return start_command(*arguments).wait()


class Fork:
    """A process that the server has forked to run `python WORDS` in the project's folder."""

    def __init__(
        self, words: list[str], environment: dict[str, str], streams: list[int], *, session: bool = True
    ) -> None:
        self.exitcode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server_address())
        request = json.dumps({"words": words, "environment": environment, "session": session}).encode()
        socket.send_fds(self._connection, [len(request).to_bytes(8, "little")], streams)
        self._connection.sendall(request)
        self._answers = self._connection.makefile()
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """Its exit status, -N for signal N; None while it runs."""
        if self.exitcode is None and select.select([self._connection], [], [], 0)[0]:
            self.join()
        return self.exitcode

    def join(self) -> None:
        if self.exitcode is None:
            self.exitcode = int(self._answers.readline() or 1)
            self._answers.close()
            self._connection.close()


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
            paths = [Path(self._folder.name) / f"{name}_{rank}" for name in ("stdout", "stderr")]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with contextlib.ExitStack() as stack:
                opened = [Path(os.devnull).open(), *(path.open("ab") for path in paths)]
                streams = [stack.enter_context(file).fileno() for file in opened]
                self.processes.append(Fork(arguments, environment | together, streams))
            self._streams.append(paths)

    def running(self) -> bool:
        return any(process.poll() is None for process in self.processes)

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
            "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
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


def ok(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The same result. Raises AssertionError, with the end of what it said, if the command failed."""
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def scores(folder: Path) -> dict[str, str]:
    """{clip id: logit} of predictions.csv."""
    return {row["clip_id"]: row["logit"] for row in csv.DictReader((folder / "predictions.csv").open())}


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
    python = forking_python()
    path = f"{python.parent}:{os.environ['PATH']}"
    return {"PATH": path, "PYTHON_EXEC": str(python), ADDRESS: server_address()}


# a `python` that has the server fork train.py, test.py and what follows --fork, and is Python for all else
_CLIENT = """#!{python} -IS
import sys
sys.path.insert(0, {root!r})
words = [word for word in sys.argv[1:] if word != "-u"]
is_forked = words[:1] == ["--fork"]
words = words[is_forked:]
import os, signal
ours = words[:1] in (["train.py"], ["test.py"]) or words[:2] == ["-m", "tests.e2e.distributed_worker"]
if not (is_forked or ours):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
from tests.commands import Fork
fork = Fork(words, dict(os.environ), [0, 1, 2], session=not is_forked)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(fork.pid, number))
fork.join()
sys.exit(fork.exitcode % 256)
"""


@functools.cache
def forking_python() -> Path:
    """Path of that program."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    client = folder / "python"
    client.write_text(_CLIENT.format(python=sys.executable, root=str(ROOT)))
    client.chmod(0o755)
    return client


@functools.cache
def server_address() -> str:
    """Address of the server, which is started unless another process of pytest has one already."""
    if ADDRESS in os.environ:
        return os.environ[ADDRESS]
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    words = [sys.executable, "-m", "tests.fork_server", str(folder / "socket")]
    # it ends when this process does, since nobody else holds the other end of its standard input
    with (folder / "errors").open("w") as errors:
        options = {"stdin": subprocess.PIPE, "stdout": errors, "stderr": errors}
        server = subprocess.Popen(words, cwd=ROOT, env=ONE_THREAD, **options)
    while not (folder / "socket").exists():
        if server.poll() is not None:
            raise RuntimeError(f"tests/fork_server.py has ended: {(folder / 'errors').read_text()}")
        time.sleep(0.01)
    return str(folder / "socket")
