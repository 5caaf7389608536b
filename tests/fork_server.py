"""Forks the tests' processes from one that has imported the packages: `python -m tests.fork_server ADDRESS`.

Imports take three seconds, and hundreds of commands and four processes of pytest need them. A request on the
Unix socket ADDRESS brings words, environment and the three standard streams; the answers are the number of
the new process and, when it has ended, its exit status. The server ends with its standard input.

What was imported is exempt from garbage collection: a collection in a fork would look at all of these
objects, a million, and so copy the pages that they lie on. A third of a short command's time.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ["av", "cv2", "matplotlib.figure", "pandas", "scipy.stats", "sklearn.metrics", "torchaudio"]
IMPORTED += ["torch._dynamo", "torch.utils.tensorboard", "torchvision"]  # optimisers, logs, networks
ROOMS = ("utils", "models", "losses", "loaders", "preprocess")


def import_all() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for room in ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            # what runs as a command must not have been imported before
            is_command = room == "preprocess" and not module.ispkg and module.name.count(".") == 1
            if not is_command and not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def run(words: list[str], environment: dict[str, str], streams: list[int]) -> None:
    """Be `python WORDS` with these streams; does not return."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [str(ROOT), *(place for place in sys.path if place not in ("", str(ROOT)))]
    status: object = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c"]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(words[1], vars(sys.modules["__main__"]))
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 (what the interpreter does with it)
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
        status = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0) & 255)  # taking down all modules would copy most of the server's memory


class Server:
    """Serves requests until standard input ends, then ends the commands that are left."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{address}.new")
        self.listener.listen(64)
        Path(f"{address}.new").rename(address)  # whoever sees it can connect
        self.waiting: dict[int, socket.socket] = {}  # process -> who wants to know its exit status
        self.wakeup, self.ended = socket.socketpair()
        self.wakeup.setblocking(False)

    def serve(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for pytest
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakeup.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            for source in (0, self.listener, self.ended):
                selector.register(source, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self.ended in ready:
                    self.ended.recv(4096)
                    self.report()
                if self.listener in ready:
                    self.fork(self.listener.accept()[0], selector)
                if 0 in ready and not os.read(0, 1):
                    break
        for process in self.waiting:
            os.kill(process, signal.SIGKILL)

    def fork(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        size, streams, _, _ = socket.recv_fds(connection, 8, 3)
        with connection.makefile("rb") as file:
            request = json.loads(file.read(int.from_bytes(size, "little")))
        process = os.fork()
        if process == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            selector.close()
            for held in (self.listener, self.wakeup, self.ended, connection, *self.waiting.values()):
                held.close()
            if request["session"]:
                os.setsid()
            run(request["words"], request["environment"], streams)
        for descriptor in streams:
            os.close(descriptor)
        connection.sendall(f"{process}\n".encode())
        self.waiting[process] = connection

    def report(self) -> None:
        """Tell whoever waits for the processes that have ended."""
        while self.waiting:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            with self.waiting.pop(process) as connection:
                try:
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                except OSError:  # nobody waits any more
                    pass


if __name__ == "__main__":
    server = Server(sys.argv[1])
    import_all()
    server.serve()
