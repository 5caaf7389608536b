"""train.py and test.py as children of a search: several at a time, each with its share of the machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from utils.files import read_text

CONSOLE = "console.log"  # what a child says, in its folder


@dataclass
class Child:
    """A command under way."""

    process: subprocess.Popen[bytes]
    console: Path
    slot: int

    def ask_to_stop(self) -> None:
        """SIGTERM: a training saves first."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its loader workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def last_words(self) -> str:
        """The last line that it wrote: of a command that failed, why."""
        lines = read_text(self.console).split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


@dataclass
class Children:
    """Up to `limit` commands at a time, each in its own process group: Ctrl-C reaches the search alone."""

    limit: int
    running: list[Child] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.limit

    def start(self, words: Sequence[str], folder: Path) -> Child:
        """Run `python WORDS`; what it writes is added to CONSOLE in `folder`."""
        slot = min(set(range(self.limit)) - {child.slot for child in self.running})
        # as torchrun has it, for environments whose python is not sys.executable
        command = [os.environ.get("PYTHON_EXEC", sys.executable), *words]
        folder.mkdir(parents=True, exist_ok=True)
        console = folder / CONSOLE
        with console.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n")
            file.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment_of(slot, self.limit, os.environ),
                start_new_session=True,
            )
        child = Child(process, console, slot)
        self.running.append(child)
        return child

    def ended(self) -> list[Child]:
        """Take out the children that have ended."""
        ended = [child for child in self.running if child.process.poll() is not None]
        self.running = [child for child in self.running if child not in ended]
        return ended


def environment_of(slot: int, limit: int, ours: Mapping[str, str]) -> dict[str, str]:
    """The environment of the child in `slot` of `limit`: its own GPU if there are several, else its share of
    the cores.
    """
    theirs = dict(ours)
    theirs.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // limit)))
    theirs.setdefault("TQDM_MININTERVAL", "60")  # nobody watches its bars
    visible = ours.get("CUDA_VISIBLE_DEVICES")
    gpus = list(map(str, range(torch.cuda.device_count()))) if visible is None else visible.split(",")
    if len(gpus) > 1 and limit > 1:
        theirs["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return theirs
