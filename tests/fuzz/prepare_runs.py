"""Cases of raw videos: many in one call of preprocess.prepare, which is watched from outside."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import media
from tests.fuzz.cases import BROKEN, PROCESSED, REFUSED, Case, Outcome
from tests.fuzz.sandbox import run_alone
from utils.clip.files import INFO_NAME, VIDEO_SUFFIXES

ROOT = Path(__file__).resolve().parents[2]
GROUP = 25  # videos of one call
START_S = 60.0  # of interpreter, workers and their imports, on a slow machine
FLAGS = ("--num_workers", "2")


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What a call may take."""

    seconds: float = 60.0  # for each video of a call
    memory_mb: int = 4096  # of any one process


@dataclass
class _Call:
    """A call that has ended."""

    status: int
    seconds: float
    peak_mb: float
    stderr: str
    problems: list[str] = field(default_factory=list)


class Listener:
    """A port of this machine at which nobody is to knock."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]

    def num_visits(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
                count += 1
        return count


def snapshot(folders: Sequence[Path]) -> dict[str, tuple[int, int, int]]:
    """Size, mode and time of change of everything below some folders."""
    found = {}
    for folder in folders:
        for place, subfolders, files in os.walk(folder):
            for name in (*subfolders, *files):
                path = os.path.join(place, name)  # noqa: PTH118 (thousands, some with names of bytes)
                status = os.lstat(path)
                changed = 0 if name in subfolders else status.st_mtime_ns
                found[path] = status.st_size * (name in files), status.st_mode, changed
    return found


def _processes() -> dict[int, tuple[int, float]]:
    """Process -> (its parent, resident megabytes)."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            found[int(entry)] = int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return found


def _family(parent: int) -> dict[int, float]:
    """Resident megabytes of a process and all below it."""
    processes = _processes()
    family = {parent}
    while True:
        more = {pid for pid, (above, _) in processes.items() if above in family} - family
        if not more:
            return {pid: processes[pid][1] for pid in family if pid in processes}
        family |= more


def _left_behind(mark: str) -> list[int]:
    """Processes that still have the environment of a call."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(int(entry))
    return found


class MediaRuns:
    """Runs cases of raw videos in a scratch folder, whose `canary` holds what none of them may touch."""

    def __init__(self, scratch: Path, base: Path, limits: MediaLimits) -> None:
        self.scratch, self.base, self.limits = scratch, base, limits
        self.listener = Listener()
        canary = scratch / media.CANARY
        canary.mkdir()
        shutil.copyfile(base / "valid.mp4", canary / media.SECRET)
        (canary / "secret.txt").write_text("nobody reads this")
        site = scratch / "site"
        site.mkdir()
        (scratch / "matplotlib").mkdir()
        (site / "sitecustomize.py").write_text(
            "from tests.fuzz.watch import watch_from_environment\nwatch_from_environment()\n"
        )
        os.environ["FUZZ_SECRET"] = str(canary / media.SECRET)
        os.environ["FUZZ_PORT"] = str(self.listener.port)
        self._count = 0

    def run(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        """Outcomes of cases: first many in a call, then those of a call that went wrong one by one."""
        for start in range(0, len(cases), GROUP):
            group = cases[start : start + GROUP]
            outcomes = self._run_group(group)
            if outcomes is None:
                outcomes = [outcome for case in group for outcome in self._run_group([case]) or []]
            yield from outcomes

    def _run_group(self, cases: Sequence[Case]) -> list[Outcome] | None:
        """None: something went wrong, and it cannot be said with which of several cases."""
        self._count += 1
        folder = self.scratch / "media" / f"{self._count:04d}"
        raw, output = folder / "raw", folder / "output"
        for place in (raw, output, folder / "tmp"):
            place.mkdir(parents=True)
        made = folder / "made.json"  # in a child: encoders have threads
        run_alone(lambda: made.write_text(json.dumps([self._make(case, raw) for case in cases])), folder)
        what = dict(zip(cases, json.loads(made.read_text()), strict=True))
        videos = {case: names for case, (_, names) in what.items()}
        before = snapshot([raw, self.scratch / media.CANARY])
        call = self._call(folder, raw, output, len(cases))
        if snapshot([raw, self.scratch / media.CANARY]) != before:
            call.problems.append("changes what lies outside the output folder")
        if call.problems and len(cases) > 1:
            return None
        reasons = self._failures(output)
        if reasons is None and len(cases) > 1:
            return None
        outcomes = []
        for case in cases:
            status, reason = self._status(videos[case], output, reasons or {}, call)
            if call.problems:
                status, reason = BROKEN, call.problems[0]
            details = {"stderr": call.stderr[-8000:]} if status == BROKEN else {}
            outcomes.append(
                Outcome(case, what[case][0], status, reason, call.seconds / len(cases), call.peak_mb, details)
            )
        shutil.rmtree(folder)
        return outcomes

    def _make(self, case: Case, raw: Path) -> tuple[str, list[str]]:
        """(the case in words, its videos' paths below `raw`)."""
        place = raw / f"{case.number:06d}"
        what = case.make(media.RECIPES, self.base, place)
        for path in list(place.iterdir()):
            if ":" in path.name and case.recipe(media.RECIPES).name == "named":
                path.rename(raw / path.name)  # the whole path begins like an address
                return what, [path.name]
        names = [path for path in sorted(place.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
        return what, [path.relative_to(raw).as_posix() for path in names]

    def _call(self, folder: Path, raw: Path, output: Path, count: int) -> _Call:
        log = folder / "watched.txt"
        allowed = [output, folder / "tmp", self.scratch / "matplotlib"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(self.scratch / "site"), str(ROOT))),
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(folder / "tmp"),
            "MPLCONFIGDIR": str(self.scratch / "matplotlib"),
            "FUZZ_LOG": str(log),
            "FUZZ_ALLOWED": os.pathsep.join(map(str, allowed)),
        }
        command = [
            sys.executable,
            "-m",
            "preprocess.prepare",
            "--input",
            ".",
            "--output",
            str(output),
            *FLAGS,
        ]
        limit = START_S + self.limits.seconds * count
        started, peak, problems = time.monotonic(), 0.0, []
        with (folder / "stderr.txt").open("wb") as stderr:
            process = subprocess.Popen(
                command, cwd=raw, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=stderr, start_new_session=True,
            )  # fmt: skip
            while process.poll() is None:
                peak = max(peak, *_family(process.pid).values(), 0.0)
                if time.monotonic() - started > limit:
                    problems.append(f"hangs: not done after {limit:g} s")
                if peak > self.limits.memory_mb:
                    problems.append(f"takes more than {self.limits.memory_mb} MB")
                if problems:
                    for pid in _family(process.pid):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    process.wait()
                time.sleep(0.1)
        time.sleep(0.2)
        text = (folder / "stderr.txt").read_text(errors="replace")
        if not problems:
            if left := _left_behind(f"FUZZ_LOG={log}"):
                problems.append(f"leaves {len(left)} processes running")
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if process.returncode not in (0, 1, 2):
                problems.append(f"crashes: preprocess.prepare ends with {process.returncode}")
            if "Traceback (most recent call last)" in text:
                errors = re.findall(r"^\w+(?:Error|Exception|Interrupt)\b.*$", text, re.MULTILINE)
                problems.append(f"a traceback: {errors[-1][:300] if errors else 'see what it wrote'}")
        if log.exists():
            problems.append(f"it was seen: {log.read_text(errors='replace').splitlines()[0][:400]}")
        if visits := self.listener.num_visits():
            problems.append(f"asks the network ({visits} times)")
        return _Call(process.returncode, time.monotonic() - started, peak, text, problems)

    @staticmethod
    def _failures(output: Path) -> dict[str, str] | None:
        """Path -> reason of failures.csv; None if there is neither this file nor a clip."""
        path = output / "failures.csv"
        if not path.exists():
            return {} if any(output.rglob(INFO_NAME)) else None
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return {row["path"]: row["reason"] for row in csv.DictReader(file)}

    @staticmethod
    def _status(videos: Sequence[str], output: Path, reasons: dict[str, str], call: _Call) -> tuple[str, str]:
        for video in videos:
            if (output / video).with_suffix("").joinpath(INFO_NAME).exists():
                return PROCESSED, ""
            if video in reasons:
                return REFUSED, reasons[video]
        if call.status in (1, 2) and not reasons:
            lines = [line for line in call.stderr.splitlines() if line.startswith("error")]
            if lines:
                return REFUSED, f"the whole call: {lines[-1]}"
        if not videos or all(not os.path.lexists(output.parent / "raw" / video) for video in videos):
            return REFUSED, "no name of a video"
        if not any((output.parent / "raw" / video).is_file() for video in videos):
            return REFUSED, "no file"
        return BROKEN, "neither prepared nor listed in failures.csv"


def with_expectation(outcome: Outcome, expected: str) -> Outcome:
    """The outcome, broken if only another one is right."""
    if expected == PROCESSED and outcome.status == REFUSED:
        return dataclasses.replace(
            outcome, status=BROKEN, reason=f"a sound file is refused: {outcome.reason}"
        )
    if expected == REFUSED and outcome.status == PROCESSED:
        return dataclasses.replace(outcome, status=BROKEN, reason="is not refused")
    return outcome
