"""Worker processes on the nodes of a Ray cluster, each with one job at a time.

The nodes need Python with requirements.txt, and the same paths unless input and output are URLs; this
project's code is sent to them. The limits are those of local workers. A process or node that dies costs its
job one attempt. Only a few jobs are submitted at a time, so memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    ray = _connect(address)
    task = ray.remote(num_cpus=1, max_calls=JOBS_PER_PROCESS, max_retries=0)(_work_on_node)
    queue = iter(jobs)
    running: dict[Any, tuple[AnyJob, int]] = {}  # reference -> job, attempt
    asked_s, limit = float("-inf"), 1

    def submit(job: AnyJob, attempt: int) -> None:
        running[task.remote(job, work, limits, partial)] = job, attempt

    try:
        while True:
            if time.monotonic() > asked_s + CAPACITY_EVERY_S:
                asked_s = time.monotonic()
                limit = num_workers or max(1, 2 * int(ray.cluster_resources().get("CPU", 0)))
            while len(running) < limit and (job := next(queue, None)) is not None:
                submit(job, 1)
            if not running:
                return
            for reference in ray.wait(list(running), timeout=CAPACITY_EVERY_S)[0]:
                job, attempt = running.pop(reference)
                outcome, death = _outcome(ray, reference)
                if outcome is None and attempt < MAX_ATTEMPTS:
                    log.info("%s: %s; trying again", job.name, death)
                    submit(job, attempt + 1)
                    continue
                if outcome is None:
                    outcome = "failed", f"{death}, in {MAX_ATTEMPTS} attempts"
                if attempt > 1 and outcome[0] == "already there":
                    outcome = "done", ""  # by an attempt that died before it could report
                if outcome[0] == "usage":
                    raise UsageError(outcome[1])
                yield job, *outcome
    finally:
        for reference in running:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)
        ray.shutdown()  # ends running jobs, too


def _connect(address: str) -> Any:
    """The module ray, connected. Raises UsageError if it is not installed, or no cluster answers."""
    require_packages(["ray", "aiohttp"], "--executor ray")  # without aiohttp, Ray sends its nodes no code
    import ray

    try:
        host, found, port = address.rpartition(":")
        if found and "/" not in address and port.isdigit():  # Ray itself would retry for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address=address,
            runtime_env={
                "py_modules": [str(CODE / name) for name in ("preprocess", "utils")],
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
    job: AnyJob, work: Callable[[AnyJob], str], limits: LimitConfig, partial: Path
) -> tuple[str, str]:
    """(status, reason) of one job, in a process of Ray."""
    try:
        require_packages(PACKAGES, "preprocessing")
        import cv2

        cv2.setNumThreads(1)  # the processes are the parallelism
        with _scratch(job, partial) as scratch:
            return run_job(job, work, limits, scratch)
    except UsageError as error:
        return "usage", f"node {platform.node()}: {error}"


@contextlib.contextmanager
def _scratch(job: Job, partial: Path) -> Iterator[Path]:
    """A scratch folder for one attempt: an earlier attempt may still run on a node that is believed dead."""
    attempt = f"task_{uuid.uuid4().hex}"
    if not isinstance(job, StoredJob) or isinstance(job.prepared, LocalStore):
        if not partial.is_dir():
            raise UsageError(
                f"{partial.parent.parent} does not exist; --output must be a URL, or on a file system that "
                "all nodes share"
            )
        yield partial / attempt
        return
    root = job.prepared.workspace()
    for lock in root.glob("task_*.lock"):  # of attempts that were killed
        with contextlib.suppress(UsageError), lock_partial(root, lock.stem, patience_s=0):
            pass
    with lock_partial(root, attempt) as folder:
        yield folder / "job"


def _outcome(ray: Any, reference: Any) -> tuple[tuple[str, str] | None, str]:
    """((status, reason), "") of a job, or (None, why its process died)."""
    errors = ray.exceptions
    try:
        return ray.get(reference), ""
    except errors.RayTaskError as error:
        log.error("%s", error)
        return ("failed", f"{type(error.cause).__name__} in the worker process; see above"), ""
    except errors.OutOfMemoryError:
        return None, "its node ran out of memory"
    except errors.NodeDiedError:
        return None, "its node died"
    except errors.WorkerCrashedError:
        return None, "the worker process died (a crash in native code, or a limit)"
    except errors.RayError as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
