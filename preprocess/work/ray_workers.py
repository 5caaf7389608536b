"""Worker processes on the nodes of a Ray cluster, each with one job or group of jobs at a time.

The nodes need Python with requirements.txt and Ray, and the same paths unless input and output are URLs; this
project's code is sent to them. The limits are those of local workers. A process or node that dies costs its
jobs one attempt. Only a few jobs are submitted at a time, so memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
import shutil
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from preprocess.work.stores import LocalStore, StoredJob
from preprocess.work.workers import (
    JOBS_PER_PROCESS,
    PACKAGES,
    AnyJob,
    Outcomes,
    lock_partial,
    run_job,
    run_workers,
)
from utils.config import opt
from utils.errors import UsageError, require_packages
from utils.run.memory import huge_page_variables

log = logging.getLogger(__name__)

CPUS_PER_ACTOR = 4  # on nodes that have as many
MAX_ATTEMPTS = 3  # per job: one death may be a neighbour's fault, three hardly
CAPACITY_EVERY_S = 10.0  # how often to ask how many CPUs the cluster has
CODE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """preprocess/work/ray_workers.py: where the worker processes run."""

    executor: str = opt("local", "where workers run: this machine or a Ray cluster", choices=("local", "ray"))
    ray_address: str = opt("auto", "with --executor ray: HEAD:PORT of the cluster; auto: this machine's")

    def __post_init__(self) -> None:
        if self.executor == "local" and self.ray_address != "auto":
            raise ValueError("ray_address needs --executor ray")

    def runner(self) -> Callable[..., Outcomes[Any]]:
        """`run_workers`, or `run_on_ray` with the cluster's address."""
        if self.executor == "local":
            return run_workers
        return functools.partial(run_on_ray, address=self.ray_address)


def run_on_ray(
    jobs: Sequence[AnyJob],
    work: Callable[[AnyJob], str],
    limits: LimitConfig,
    partial: Path,
    num_workers: int,
    *,
    address: str,
) -> Outcomes[AnyJob]:
    """`run_workers` on a cluster, with `num_workers` jobs submitted at a time; 0: two per CPU.

    With two per CPU no CPU is idle, and an autoscaler sees the demand. A job whose process or node dies is
    tried again, MAX_ATTEMPTS times in all.
    """
    ray = connect(address)
    crew = _Tasks(ray, (work, limits, partial), num_workers)
    yield from hand_out(ray, ((job,) for job in jobs), crew)


class Crew(Protocol):
    """Processes of a cluster that take groups of jobs."""

    def places(self) -> int:
        """How many groups they can have at a time."""

    def begin(self, jobs: tuple[Any, ...]) -> Any:
        """Hand jobs to a process; Ray's reference to their outcomes, (status, reason) each."""

    def end(self, reference: Any, *, well: bool) -> None:
        """These jobs have ended: well, or with an error or a death of their process."""

    def stop(self, reference: Any) -> None:
        """Kill the process that still has these jobs."""

    def rest(self) -> None:
        """Nothing waits for the processes that have no jobs."""


class _Tasks:
    """Processes for one job at a time, which Ray keeps for a while.

    arguments: of _work_on_node, after the jobs. num_workers: places; 0: two per CPU.
    """

    def __init__(self, ray: Any, arguments: tuple[Any, ...], num_workers: int) -> None:
        self._ray, self._arguments, self._num_workers = ray, arguments, num_workers
        self._task = ray.remote(num_cpus=1, max_calls=JOBS_PER_PROCESS, max_retries=0)(_work_on_node)

    def places(self) -> int:
        return self._num_workers or max(1, 2 * int(self._ray.cluster_resources().get("CPU", 0)))

    def begin(self, jobs: tuple[Any, ...]) -> Any:
        return self._task.remote(jobs, *self._arguments)

    def end(self, reference: Any, *, well: bool) -> None:
        pass  # cancelling a task that has ended may abort this process (Ray 2.60)

    def stop(self, reference: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.cancel(reference, force=True)

    def rest(self) -> None:
        pass


class Actors:
    """Processes that keep what they make: one per GPU, or per CPUS_PER_ACTOR cores.

    work(jobs, scratch folder) gives the outcomes of a group; it is sent to each process once.
    """

    def __init__(
        self, ray: Any, work: Callable[[Sequence[Any], Path], Any], partial: Path, *, on_gpus: bool
    ) -> None:
        self._ray, self._kind, self._partial = ray, "GPU" if on_gpus else "CPU", partial
        most = max((int(node.get("CPU", 0)) for node in self._nodes()), default=0)
        self._share = 1 if on_gpus else max(1, min(CPUS_PER_ACTOR, most))
        self._actor = ray.remote(num_cpus=self._share, num_gpus=int(on_gpus))(_Actor)
        self._work = ray.put(work)
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}  # reference -> actor

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def places(self) -> int:
        return max(1, sum(int(node.get(self._kind, 0)) // self._share for node in self._nodes()))

    def begin(self, jobs: tuple[Any, ...]) -> Any:
        actor = self._idle.pop() if self._idle else self._actor.remote([self._work], self._partial)
        reference = actor.do.remote(jobs)
        self._busy[reference] = actor
        return reference

    def end(self, reference: Any, *, well: bool) -> None:
        if well:
            self._idle.append(self._busy.pop(reference))
        else:
            self.stop(reference)

    def stop(self, reference: Any) -> None:
        self._ray.kill(self._busy.pop(reference))

    def rest(self) -> None:
        self._idle.clear()  # Ray ends actors that nobody holds; one that waits for a place may need theirs


class _Actor:
    """A process of Ray for many groups of jobs."""

    def __init__(self, sent: list[Any], partial: Path) -> None:
        """sent: Ray's reference to the work, in a list: by itself it would be followed too early."""
        self._sent, self._partial = sent, partial
        self._work: Callable[[Sequence[Any], Path], Any] | None = None

    def do(self, jobs: tuple[Any, ...]) -> list[tuple[str, str]]:
        """(status, reason) of each job."""
        try:
            self._work = self._work or self._unpack()
            with _scratch(jobs[0], self._partial) as scratch:
                scratch.mkdir(parents=True)
                try:
                    return list(self._work(jobs, scratch))
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
        except UsageError as error:
            return [("usage", f"node {platform.node()}: {error}")]

    def _unpack(self) -> Any:
        import ray

        try:
            return ray.get(self._sent[0])
        except ray.exceptions.RayError as error:  # such as a package that is missing
            reason = str(error).splitlines()[0].removeprefix("System error: ")
            raise UsageError(f"cannot do this work ({reason}); install requirements.txt there") from error


def hand_out(ray: Any, groups: Iterable[tuple[AnyJob, ...]], crew: Crew) -> Outcomes[AnyJob]:
    """Yield (job, status, reason) as the groups of jobs are finished by a crew; disconnect at the end.

    The jobs of a group that ends with an error, or whose process or node dies, are tried again one by one,
    a job alone only after a death, MAX_ATTEMPTS times in all. Raises UsageError if a job ends with one.
    """
    queue = ((group, 1) for group in groups)
    again: deque[tuple[tuple[AnyJob, ...], int]] = deque()
    running: dict[Any, tuple[tuple[AnyJob, ...], int]] = {}  # reference -> jobs, attempt
    asked_s, limit = float("-inf"), 1
    try:
        while True:
            if time.monotonic() > asked_s + CAPACITY_EVERY_S:
                asked_s, limit = time.monotonic(), crew.places()
            while len(running) < limit and (given := again.popleft() if again else next(queue, None)):
                running[crew.begin(given[0])] = given
            crew.rest()
            if not running:
                return
            for reference in ray.wait(list(running), timeout=CAPACITY_EVERY_S)[0]:
                jobs, attempt = running.pop(reference)
                outcomes, why, is_death = _outcomes(ray, reference)
                crew.end(reference, well=outcomes is not None)
                if outcomes is None and (len(jobs) > 1 or (is_death and attempt < MAX_ATTEMPTS)):
                    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
                    log.info("%s%s: %s; trying again", jobs[0].name, more, why)
                    again.extend(((job,), attempt + 1) for job in jobs)
                    continue
                if outcomes is None:
                    outcomes = [("failed", f"{why}, in {MAX_ATTEMPTS} attempts" if is_death else why)]
                if outcomes[0][0] == "usage":
                    raise UsageError(outcomes[0][1])
                for job, (status, reason) in zip(jobs, outcomes, strict=True):
                    # by an attempt that died before it could report
                    late = attempt > 1 and status == "already there"
                    yield job, "done" if late else status, reason
    finally:
        for reference in running:
            crew.stop(reference)
        ray.shutdown()  # ends running jobs, too


def connect(address: str, packages: Sequence[str] = ("preprocess", "utils")) -> Any:
    """The module ray, connected; nodes get these packages of the project.

    Raises UsageError if Ray is not installed, or no cluster answers.
    """
    require_packages(["ray", "aiohttp"], "--executor ray")  # without aiohttp, Ray sends its nodes no code
    import ray

    try:
        host, found, port = address.rpartition(":")
        if found and "/" not in address and port.isdigit():  # Ray itself would retry for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address=address,
            runtime_env={
                "py_modules": [str(CODE / name) for name in packages],
                "excludes": ["**/__pycache__"],
                "env_vars": huge_page_variables(),
            },
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster at {address} ({str(error).splitlines()[0]}); start one with: ray start --head"
        ) from error
    return ray


def _work_on_node(
    jobs: tuple[AnyJob], work: Callable[[AnyJob], str], limits: LimitConfig, partial: Path
) -> list[tuple[str, str]]:
    """(status, reason) of one job, in a process of Ray."""
    try:
        require_packages(PACKAGES, "preprocessing")
        import cv2

        cv2.setNumThreads(1)  # the processes are the parallelism
        with _scratch(jobs[0], partial) as scratch:
            return [run_job(jobs[0], work, limits, scratch)]
    except UsageError as error:
        return [("usage", f"node {platform.node()}: {error}")]


@contextlib.contextmanager
def _scratch(job: Job, partial: Path) -> Iterator[Path]:
    """A scratch folder for one attempt: an earlier attempt may still run on a node that is believed dead."""
    attempt = f"task_{uuid.uuid4().hex}"
    if not isinstance(job, StoredJob) or isinstance(job.prepared, LocalStore):
        if not partial.is_dir():
            raise UsageError(
                f"{partial.parent.parent} does not exist; it must be a URL, or on a file system that all "
                "nodes share"
            )
        yield partial / attempt
        return
    root = job.prepared.workspace()
    for lock in root.glob("task_*.lock"):  # of attempts that were killed
        with contextlib.suppress(UsageError), lock_partial(root, lock.stem, patience_s=0):
            pass
    with lock_partial(root, attempt) as folder:
        yield folder / "job"


def _outcomes(ray: Any, reference: Any) -> tuple[list[tuple[str, str]] | None, str, bool]:
    """((status, reason) of each job, "", False), or (None, why there are none, whether a process died)."""
    errors = ray.exceptions
    try:
        return ray.get(reference), "", False
    except errors.RayTaskError as error:
        log.error("%s", error)
        return None, f"{type(error.cause).__name__} in the worker process; see above", False
    except errors.OutOfMemoryError:
        return None, "its node ran out of memory", True
    except errors.NodeDiedError:
        return None, "its node died", True
    except (errors.WorkerCrashedError, errors.ActorDiedError):
        return None, "the worker process died (a crash in native code, or a limit)", True
    except errors.RayError as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0]}", True
