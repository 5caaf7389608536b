"""Uploaded videos: they are being sent, wait, are judged one at a time, and are forgotten."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.judging.serving.config import ServeConfig
from models.judging.serving.folders import remove_tree
from models.judging.serving.judge import READY, VIDEO_NAME, Judge, Outcome, Task
from utils.errors import FrameworkError

log = logging.getLogger("test")
SENDING, WAITING, RUNNING, DONE, FAILED, REMOVED = (
    "sending",
    "waiting",
    "running",
    "done",
    "failed",
    "removed",
)
UNFINISHED = (SENDING, WAITING, RUNNING)
TICK_S = 0.2  # how often the queue looks for what has gone
FREE_BYTES = 1 << 30  # of the disk, which stay free


class FullError(Exception):
    """No video is taken at the moment; the text says why."""


class OwnFullError(FullError):
    """One person has as many videos in the queue as one may have."""


@dataclass(eq=False)
class Job:
    """A video of an owner. Its `folder` exists until it is done, failed or removed."""

    owner: str
    address: str  # from which it is sent
    name: str
    num_bytes: int  # at most
    folder: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    state: str = SENDING
    text: str = ""  # for people: how far it is, or why it failed
    progress: tuple[int, int] = (0, 0)  # (done, total) of the present step
    verdict: str = ""
    page: str = ""
    seen: float = field(default_factory=time.monotonic)  # when its owner last asked for it
    since: float = field(default_factory=time.monotonic)  # when its state began

    @property
    def video(self) -> Path:
        return self.folder / VIDEO_NAME

    def become(self, state: str, text: str = "") -> None:
        self.state, self.text, self.progress, self.since = state, text, (0, 0), time.monotonic()

    def as_plain(self) -> dict[str, Any]:
        """What its owner's browser is told."""
        done, total = self.progress
        names = ("id", "name", "state", "text", "verdict")
        return {name: getattr(self, name) for name in names} | {"done": done, "total": total}


class VideoQueue:
    """The videos of all owners, and the thread that has them judged.

    Whoever moves a job out of an unfinished state removes its folder: `remove` if it is waiting, the thread
    if it is judged, and who sends it while it is being sent.
    """

    def __init__(self, config: ServeConfig, uploads: Path) -> None:
        self._config, self._uploads = config, uploads
        self._jobs: dict[str, Job] = {}  # by id, in the order in which they came
        self._changed = threading.Condition()
        self._is_open = True
        self._judge = Judge(config, uploads)
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Wait for the detector, then begin to judge. Raises the FrameworkError that loading it did."""
        self._judge.wait_until_ready()
        self._thread.start()

    def close(self) -> None:
        """Stop judging, also in the middle of a video."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._judge.stop()

    def open(self, owner: str, address: str, name: str, num_bytes: int) -> Job:
        """A new job, whose owner now sends `num_bytes` from an address.

        Raises FullError if there is no place for it: in the queue, or (OwnFullError) for more of this owner's
        or of this address.
        """
        with self._changed:
            unfinished = [job for job in self._jobs.values() if job.state in UNFINISHED]
            num_own = sum(job.owner == owner for job in unfinished)
            num_near = sum(job.address == address for job in unfinished)
            for number, most, whose in (
                (num_own, self._config.max_queue_session, "of your videos"),
                (num_near, self._config.max_queue_address, "videos from your address"),
            ):
                if number >= most:
                    raise OwnFullError(f"{number} {whose} are waiting already: try again later")
            if len(unfinished) >= self._config.max_queue:
                raise FullError(f"{len(unfinished)} videos are waiting already: try again later")
            claimed = sum(job.num_bytes for job in self._jobs.values() if job.state == SENDING)
            if shutil.disk_usage(self._uploads).free < claimed + num_bytes + FREE_BYTES:
                raise FullError("the disk is full: try again later")
            job = Job(owner, address, name, num_bytes, Path(tempfile.mkdtemp(dir=self._uploads)))
            self._jobs[job.id] = job
        return job

    def submit(self, job: Job) -> bool:
        """Have a video judged that was sent; False if it was removed meanwhile."""
        with self._changed:
            if job.state != SENDING:
                return False
            job.become(WAITING)
            job.seen = job.since
            self._changed.notify_all()
        return True

    def of(self, owner: str) -> list[dict[str, Any]]:
        """The owner's jobs in plain values, in the order in which they came; he was seen now."""
        with self._changed:
            own = [job for job in self._jobs.values() if job.owner == owner]
            for job in own:
                job.seen = time.monotonic()
            waiting = [job for job in self._jobs.values() if job.state == WAITING]
            for place, job in enumerate(waiting, 1):
                job.text = f"number {place} in the queue"
            return [job.as_plain() for job in own]

    def find(self, owner: str, job_id: str) -> Job | None:
        """The owner's job of that id; None if there is none, or if it is another's."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.owner == owner else None

    def remove(self, job: Job) -> None:
        """Forget a job; if it is being sent or judged, that stops."""
        with self._changed:
            before = job.state
            job.become(REMOVED)
            job.page = ""
            self._jobs.pop(job.id, None)
            self._changed.notify_all()
        if before == WAITING:
            remove_tree(job.folder)

    def _run(self) -> None:
        while self._is_open:
            self._forget()
            with self._changed:
                job = next((job for job in self._jobs.values() if job.state == WAITING), None)
                if job is None:
                    self._changed.wait(TICK_S)
                    continue
                job.become(RUNNING, "starting")
            outcome = self._judged(job)
            remove_tree(job.folder)
            with self._changed:
                if job.state == RUNNING:
                    job.become(FAILED if outcome.reason else DONE, outcome.reason)
                    job.verdict, job.page = outcome.verdict, outcome.page

    def _forget(self) -> None:
        """Remove jobs that were finished long ago, or whose owner has not asked for them for long."""
        now, config = time.monotonic(), self._config
        with self._changed:
            old = [
                job
                for job in self._jobs.values()
                if (job.state in (DONE, FAILED) and now > job.since + config.keep_s)
                or (job.state != SENDING and now > job.seen + config.gone_s)
            ]
        for job in old:
            self.remove(job)

    def _judged(self, job: Job) -> Outcome:
        """Have a job judged; the process is killed if the job is removed or too slow, or the queue closes."""
        if not self._judge.is_alive():
            self._renew_judge()
        self._judge.give(Task(job.folder, job.name))
        while job.state == RUNNING and self._is_open:
            if time.monotonic() > job.since + self._config.job_timeout_s:
                self._renew_judge()
                return Outcome(reason=f"took longer than {self._config.job_timeout_s:g} s")
            self._forget()
            if not self._judge.connection.poll(TICK_S):
                continue
            message = self._judge.take()
            if isinstance(message, Outcome):
                return message
            if isinstance(message, FrameworkError):
                return Outcome(reason=str(message))
            if message is None:
                how = self._judge.ended()
                log.error("the judging process %s", how)
                self._renew_judge()
                return Outcome(reason=f"the judging process {how}: send the video again")
            if message != READY:
                what, unit, done, total = message
                job.text = f"{what.removeprefix(f'{VIDEO_NAME}: ')}, {unit} {done} of {total}"
                job.progress = (done, total)
        self._renew_judge()
        return Outcome(reason="stopped")

    def _renew_judge(self) -> None:
        """A judge that works on nothing; it loads the checkpoint while the queue goes on."""
        self._judge.stop()
        if self._is_open:
            self._judge = Judge(self._config, self._uploads)
