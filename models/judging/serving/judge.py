"""The process that judges uploads, one at a time: it holds the detector, and may be killed at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from models.judging.command import DRAWING_ERRORS
from models.judging.detector import LoadedDetector, load_detector
from models.judging.page import write_video_page
from models.judging.serving.config import ServeConfig
from models.judging.serving.folders import remove_tree
from utils.errors import ClipError, FrameworkError
from utils.run.progress import Bar, configure_logging, told_progress

log = logging.getLogger("test")
VIDEO_NAME = "video"  # of an upload on the disk, whatever its owner calls it
READY = "ready"


class Task(NamedTuple):
    folder: Path  # holds the upload; all that is made of it goes there, too
    name: str  # for people


class Outcome(NamedTuple):
    """What became of a video: a verdict and its page, or a reason why there is none."""

    verdict: str = ""  # real, fake or undecided
    page: str = ""  # HTML
    reason: str = ""


class Judge:
    """A judging process in a process group of its own, with which the decoder that it starts ends, too."""

    def __init__(self, config: ServeConfig, uploads: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        # no daemon: those may have no children, and decoding has a process of its own
        self._process = context.Process(target=_serve, args=(other_end, config, uploads))
        self._process.start()
        other_end.close()  # the process's death then ends the connection

    def wait_until_ready(self) -> None:
        """Return when the detector is loaded. Raises the FrameworkError that loading it did."""
        answer = self.take()
        if isinstance(answer, FrameworkError):
            raise answer
        if answer is None:
            raise FrameworkError(f"the judging process {self.ended()} while it loaded the checkpoint")

    def give(self, task: Task) -> None:
        with contextlib.suppress(OSError):  # it died while idle: `take` says so
            self.connection.send(task)

    def take(self) -> Any:
        """Its next message; None if it died.

        READY or a FrameworkError when it has loaded the detector or could not; then for each Task progress
        as (what, unit, done, total), and an Outcome.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def ended(self) -> str:
        """How the process ended, which it has."""
        self._process.join()
        code = self._process.exitcode or 0
        return f"ended with {signal.Signals(-code).name if code < 0 else f'status {code}'}"

    def stop(self) -> None:
        """Kill the process and its decoder."""
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # it may not have had the time for a group of its own
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, config: ServeConfig, uploads: Path) -> None:
    """Body of the process: load the detector, then answer each Task with an Outcome."""
    os.setsid()
    threading.Thread(target=_end_with_server, args=(uploads,), daemon=True).start()
    configure_logging()
    # tqdm's own lock is a semaphore of the system, which outlives a killed process
    Bar.set_lock(threading.RLock())
    try:
        detector = load_detector(config.checkpoint, device=config.device, precision=config.precision)
        detector.require_ready(config)
    except FrameworkError as error:
        connection.send(error)
        return
    connection.send(READY)
    with told_progress(lambda *progress: connection.send(progress)):
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            connection.send(_judge(detector, task, config))


def _end_with_server(uploads: Path) -> None:
    """If the server is killed, remove the uploads and end."""
    server = multiprocessing.parent_process()
    assert server is not None  # this runs in a process that the server started
    server.join()
    remove_tree(uploads)
    os.killpg(0, signal.SIGKILL)


def _judge(detector: LoadedDetector, task: Task, config: ServeConfig) -> Outcome:
    video, work = task.folder / VIDEO_NAME, task.folder / "work"
    work.mkdir()
    try:
        verdict, tracked = detector.judge_tracks(video, work, config)
    except ClipError as error:
        inside = "" if error.path == video else f"{error.path.name}: "
        return Outcome(reason=f"{inside}{error.reason}".replace(str(video), task.name))
    except (FrameworkError, OSError) as error:  # nothing that sending it again would mend
        log.error("%s", error)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Outcome(reason=f"it could not be judged: {reason}")
    verdict = dataclasses.replace(verdict, video=task.name)
    try:
        write_video_page(task.folder, verdict, tracked, no_thumbnails=config.no_thumbnails)
    except DRAWING_ERRORS as error:
        reason = f"the verdict is {verdict.verdict}, but its page could not be drawn: {type(error).__name__}"
        return Outcome(reason=reason)
    return Outcome(verdict.verdict, (task.folder / "report.html").read_text(encoding="utf-8"))
