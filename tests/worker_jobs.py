"""What jobs of tests do in worker processes, of this machine and of Ray.

Light: each worker imports the module of its work, and that of a test file takes seconds.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from utils.errors import ClipError
from utils.media.times import read_video_times


def jobs(*names: str) -> list[Job]:
    return [Job(name=name, source=Path(name), folder=Path(name)) for name in names]


@dataclass(frozen=True, kw_only=True)
class Tight(LimitConfig):
    """So little that a test need not wait long: two seconds of CPU time, four of wall time."""

    def cpu_s(self, *video: float) -> float:
        return 1.0

    def wall_s(self, cpu_s: float) -> float:
        return 4.0


def some_work(job: Job) -> str:
    """Ends as the job's name says."""
    if job.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "bug":
        raise ZeroDivisionError
    if job.name == "bad":
        raise ClipError(job.source, "is no good")
    (job.scratch / "half").write_text("left over")
    return "done"


def counted_work(job: Job, attempts: Path) -> str:
    """The same; the size of a file in `attempts` counts the calls."""
    with (attempts / job.name).open("a") as file:
        file.write(".")
    is_first = (attempts / job.name).stat().st_size == 1
    if job.name in ("unlucky", "untold") and is_first:
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.name == "untold":  # the first call did it, and was killed before anybody knew
        return "already there"
    return some_work(job)


def leave_half_a_removal(job: Job) -> str:
    old = job.scratch.with_name(f"{job.scratch.name}_old")
    old.mkdir(parents=True)
    (old / "clip.json").write_bytes(b"x")
    os._exit(1)


def remove_the_clip(job: Job) -> str:
    job.remove_folder()
    return "done"


def process_id(job: Job) -> str:
    return str(os.getpid())


def misbehave(job: Job) -> str:
    """In the way that the job's name says."""
    if job.name == "crash":
        ctypes.string_at(0)  # a real SIGSEGV
    if job.name == "abort":
        os.abort()
    if job.name == "hang":
        time.sleep(600)
    if job.name == "hang in native code":
        ctypes.pythonapi.sleep(600)  # with the interpreter's lock held: no thread of Python runs
    if job.name == "spin":
        signal.setitimer(signal.ITIMER_REAL, 60)  # on a busy machine, the wall time might run out first
        while True:
            pass
    if job.name == "grow":
        hoard = []
        while True:
            hoard.append(bytes(1 << 24))
    if job.name == "grow at once":
        np.ones(1 << 40, np.uint8)
    if job.name == "write":
        with (job.scratch / "bomb").open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
    return "done"


def say_how_long(job: Job) -> str:
    if job.name == "long":
        read_video_times(job.source)
    soft = {kind: resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)}
    return (
        f"{soft[resource.RLIMIT_CPU]} {signal.getitimer(signal.ITIMER_REAL)[0]} {soft[resource.RLIMIT_FSIZE]}"
    )


def act(kind: str, show_progress=None) -> object:
    """In the process of `call_limited`."""
    if kind == "crash":
        ctypes.string_at(0)
    if kind == "hang":
        time.sleep(600)
    if kind == "refuse":
        raise ClipError("clip.mp4", "is no good")
    if kind == "count":
        return list(show_progress(iter("abc"), 3)), os.getpid()
    return os.getpid()


def take_64_mb() -> tuple[str, int]:
    """GLIBC_TUNABLES of the process of `call_limited`, and kB of huge pages in it then."""
    block = ctypes.create_string_buffer(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return os.environ["GLIBC_TUNABLES"], int(rollup.partition("AnonHugePages:")[2].split()[0])


def hang_on_one_node(job: Job, folder: Path) -> str:
    """Notes the node that it runs on; on the one that `folder` names, it never ends."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (folder / f"{job.name}_on_{node}").touch()
    time.sleep(600 if (folder / f"victim_{node}").exists() else 0.5)
    return "done"


class CountingWork:
    """What an actor keeps: how many groups it has had. The size of a job's file counts its attempts."""

    def __init__(self, notes: Path) -> None:
        self.notes, self.num_groups = notes, 0

    def __call__(self, jobs: Sequence[Job], scratch: Path) -> list[tuple[str, str]]:
        self.num_groups += 1
        assert list(scratch.iterdir()) == []
        (scratch / "half").write_text("left over")
        for job in jobs:
            with (self.notes / job.name).open("a") as file:
                file.write(".")
            is_first = (self.notes / job.name).stat().st_size == 1
            if job.name == "killed" or (job.name == "unlucky" and is_first):
                os.kill(os.getpid(), signal.SIGKILL)
            if job.name == "bug":
                raise ZeroDivisionError
        return [("done", f"{os.getpid()} {self.num_groups}") for _ in jobs]


def which_device(jobs: Sequence[Job], scratch: Path) -> list[tuple[str, str]]:
    """The node, the GPUs and the process of the actor."""
    import ray

    time.sleep(0.2)  # so that none of them does it all
    about = (ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"], str(os.getpid()))
    return [("done", " ".join(about)) for _ in jobs]


class Lacking:
    """Work whose code cannot be imported on a node."""

    def __reduce__(self) -> tuple[object, ...]:
        return __import__, ("of_no_node",)
