"""Many videos through one function: which ones, in which order, what came of each.

OUTPUT mirrors the raw tree: OUTPUT/<path of the video without its suffix>/ is its clip folder. What is being
written lies in OUTPUT/.partial/<shard>/ and moves to its place when it is whole, so that a run can be killed
at any moment and called again.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.image_graph import require_packages
from preprocess.sources import SOURCES, VIDEO_SUFFIXES, any_of, nfc, read_raw_dataset
from preprocess.workers import lock_partial, run_workers
from utils.clip_files import AUDIO_NAMES, INFO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.config import opt
from utils.errors import ClipError, DatasetError, UsageError

log = logging.getLogger(__name__)

PARTIAL_NAME = ".partial"
CLIP_FILES = (VIDEO_NAME, *AUDIO_NAMES, LANDMARKS_NAME, INFO_NAME)


@dataclass(frozen=True, kw_only=True)
class WorkConfig:
    """preprocess/batch.py: how the work is spread."""

    num_workers: int = opt(0, "processes, each with one video at a time; 0: one per CPU core")
    shard: str = opt("1/1", "k/n: take only every n-th video, starting with the k-th, on this machine")

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        self.shard_numbers()

    def shard_numbers(self) -> tuple[int, int]:
        """(k, n) of `shard`, 1 <= k <= n."""
        parts = self.shard.split("/")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"shard must look like 3/16, got {self.shard!r}")
        k, n = map(int, parts)
        if not 1 <= k <= n:
            raise ValueError(f"shard k/n must have 1 <= k <= n, got {self.shard!r}")
        return k, n


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """preprocess/batch.py: what is read and where it goes."""

    input: Path | None = opt(None, "one video, or a folder that is searched for videos")
    dataset: str | None = opt(None, "instead of --input: a raw data set", choices=sorted(SOURCES))
    source: Path | None = opt(None, "where that raw data set lies, in its own layout")
    only: tuple[str, ...] = opt(
        (),
        "take only the videos whose path below the root matches one of these globs, e.g. '**/c23/**/*.mp4'",
    )
    output: Path = opt(dataclasses.MISSING, "folder of the prepared clips")


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """preprocess/batch.py: which clip folders are worked on."""

    data_root: Path = opt(dataclasses.MISSING, "folder that holds the clip folders, at any depth")


# fields of a parent named last stand first in --help
@dataclass(frozen=True, kw_only=True)
class BatchConfig(WorkConfig, InputConfig):
    """preprocess/batch.py: a command that reads raw videos."""


@dataclass(frozen=True, kw_only=True)
class FolderBatchConfig(WorkConfig, FolderConfig):
    """preprocess/batch.py: a command that reads clip folders."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video or clip folder."""

    name: str  # path relative to the root, "/" between its parts: stable across machines
    source: Path
    folder: Path  # the clip folder
    sound: Path | None = None  # a file of its own with the video's sound
    scratch: Path = Path()  # an empty folder beside, of the worker's own; gone after the job

    def install(self, name: str) -> None:
        """Move one finished file from the scratch folder to the clip folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _sync(self.scratch / name)
        (self.scratch / name).replace(self.folder / name)
        _sync(self.folder)

    def install_folder(self) -> None:
        """Make the scratch folder the clip folder, in the place of an older one."""
        for path in [*self.scratch.iterdir(), self.scratch]:
            _sync(path)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.remove_folder()
        self.scratch.rename(self.folder)
        _sync(self.folder.parent)

    def remove_folder(self) -> None:
        """Remove an older clip folder. It disappears at once: nobody sees half of it.

        Raises ClipError if something else lies there.
        """
        if os.path.lexists(self.folder):
            self._require_clip_folder()
            old = self.scratch.with_name(f"{self.scratch.name}_old")
            self.folder.rename(old)
            shutil.rmtree(old)

    def _require_clip_folder(self) -> None:
        """Raise ClipError if the folder holds what no command here has written: it may be the only copy."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise ClipError(self.folder, f"{self.folder} is in the way and no clip folder; move it elsewhere")
        for path in sorted(self.folder.iterdir()):
            if path.name not in CLIP_FILES or not path.is_file():
                raise ClipError(
                    self.folder,
                    f"{self.folder} holds {path.name}, which is no file of a clip; move it elsewhere, or "
                    "choose another --output",
                )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The jobs of one command."""

    jobs: list[Job]
    output: Path
    copies: tuple[tuple[Path, Path], ...] = ()  # metadata files: (from, to)


def find_jobs(config: BatchConfig) -> Batch:
    """The videos that a command's flags name. Raises UsageError or DatasetError if there are none."""
    if (config.input is None) == (config.dataset is None):
        raise UsageError("give either --dataset with --source, or --input")
    if (config.source is None) != (config.dataset is None):
        raise UsageError("--dataset and --source belong together")
    if config.output.exists() and not config.output.is_dir():
        raise UsageError(f"--output {config.output} is not a folder")
    copies: tuple[tuple[Path, Path], ...] = ()
    sounds: dict[Path, Path] = {}
    if config.dataset is not None:
        raw = read_raw_dataset(config.dataset, config.source)
        root, names, sounds = raw.root, raw.videos, raw.sounds
        copies = tuple((root / name, config.output / name) for name in raw.metadata)
    elif config.input.is_file():
        root, names = config.input.parent, [Path(config.input.name)]
    else:
        root, names = config.input, _videos_below(config.input, config.output)
    if config.only:
        wanted = any_of(config.only)
        names = [name for name in names if wanted(nfc(name))]
        if not names:
            raise DatasetError(f"{root}: no video matches --only {' '.join(config.only)}")
    _require_suffixes(names)
    _require_distinct(names)
    jobs = [
        Job(
            name=name.as_posix(),
            source=root / name,
            folder=config.output / name.with_suffix(""),
            sound=root / sounds[name] if name in sounds else None,
        )
        for name in names
    ]
    _require_sources_outside(jobs)
    return Batch(jobs=_take_shard(jobs, config), output=config.output, copies=copies)


def _videos_below(root: Path, output: Path) -> list[Path]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such file or folder")
    own = output.resolve()
    found = sorted(
        path.relative_to(root)
        for path in root.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.name not in CLIP_FILES  # a folder of prepared clips is no raw material
        and PARTIAL_NAME not in path.parts
        and (own == root.resolve() or not path.resolve().is_relative_to(own))
        and path.is_file()
    )
    if not found:
        raise DatasetError(
            f"{root}: no video in it (looked for {', '.join('*' + s for s in VIDEO_SUFFIXES)})"
        )
    return found


def _require_suffixes(names: list[Path]) -> None:
    for name in names:
        if name.suffix.lower() not in VIDEO_SUFFIXES:  # it gives the clip folder a name of its own
            raise UsageError(f"{name}: its name must end with one of {', '.join(VIDEO_SUFFIXES)}; rename it")


def _require_distinct(names: list[Path]) -> None:
    owners: dict[Path, Path] = {}
    for name in names:
        other = owners.setdefault(name.with_suffix(""), name)
        if other is not name:
            raise UsageError(f"{other} and {name} would have the same clip folder; rename one of them")
    for folder, name in owners.items():
        for parent in folder.parents:
            if parent in owners:  # making that clip anew would delete this one
                raise UsageError(
                    f"the clip folder of {name} would lie in that of {owners[parent]}; rename one of them"
                )


def _require_sources_outside(jobs: list[Job]) -> None:
    """Clip folders are replaced as a whole: no source may be one, or lie in one."""
    sources: dict[Path, Path] = {}  # also by each folder above
    for job in jobs:
        path = job.source.resolve()
        for place in (path, *path.parents):
            sources.setdefault(place, job.source)
    for job in jobs:
        source = sources.get(job.folder.resolve())
        if source is not None:
            raise UsageError(
                f"{job.folder}, the clip folder of {job.source}, would replace the video {source}; choose "
                "another --output"
            )


def _take_shard(jobs: list[Job], config: WorkConfig) -> list[Job]:
    k, n = config.shard_numbers()
    return jobs[k - 1 :: n]


def clip_folders(root: Path) -> list[Path]:
    """All folders below `root` (or `root` itself) that hold a file of a clip, sorted.

    Raises DatasetError if there are none.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    folders = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name != PARTIAL_NAME)
        if any(name in files for name in CLIP_FILES):
            folders.append(Path(folder))
    if not folders:
        raise DatasetError(f"{root}: no clip folder in it; make some with preprocess.prepare")
    return sorted(folders)


def find_folder_jobs(config: FolderBatchConfig) -> Batch:
    """The clip folders below --data_root. Raises DatasetError if there are none."""
    jobs = [
        Job(name=folder.relative_to(config.data_root).as_posix(), source=folder, folder=folder)
        for folder in clip_folders(config.data_root)
    ]
    return Batch(jobs=_take_shard(jobs, config), output=config.data_root)


def write_atomically(path: Path, data: bytes, scratch: Path) -> None:
    """Write a file in the folder `scratch` of the same file system, then move it to its place."""
    beside = scratch / f".{path.name}.partial"
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def failures_csv(failures: list[tuple[str, str]]) -> bytes:
    """CSV text with the columns path and reason, sorted by path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows(sorted(failures))
    return text.getvalue().encode()


def run_batch(
    batch: Batch, work: Callable[[Job, Any], str], config: WorkConfig, *, done: str = "done"
) -> int:
    """Run `work(job, config)` for each job in worker processes; return the exit status, 1 if any failed.

    `work` returns "done" or "already there", or raises ClipError. Failures go to OUTPUT/failures.csv (with
    the shard in its name if there are several); the file is removed when there are none.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    require_packages(["av", "mediapipe", "cv2", "soxr", "soundfile"])
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    k, n = config.shard_numbers()
    shard = f"{k}_of_{n}"
    batch.output.mkdir(parents=True, exist_ok=True)
    counts = {"done": 0, "already there": 0}
    failures: list[tuple[str, str]] = []
    num_workers = min(config.num_workers or len(os.sched_getaffinity(0)), max(1, len(batch.jobs)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        partial = stack.enter_context(lock_partial(batch.output / PARTIAL_NAME, shard))
        for source, target in batch.copies:
            if source.resolve() == target.resolve():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, source.read_bytes(), partial)
        # closed first: no worker may outlive an interrupted run's folder
        outcomes = stack.enter_context(
            contextlib.closing(run_workers(batch.jobs, work, config, partial, num_workers))
        )
        progress = tqdm(outcomes, total=len(batch.jobs), unit="clip", smoothing=0.05, dynamic_ncols=True)
        for job, status, reason in progress:
            if status == "failed":
                failures.append((job.name, reason))
                log.warning("%s: %s", job.name, reason)
            else:
                counts[status] += 1
            progress.set_postfix(failed=len(failures))
        failures_path = batch.output / ("failures.csv" if n == 1 else f"failures_{shard}.csv")
        failures_path.unlink(missing_ok=True)
        if failures:
            write_atomically(failures_path, failures_csv(failures), partial)
    where = f" (see {failures_path})" if failures else ""
    log.info(
        "%d %s, %d already there, %d failed%s",
        counts["done"],
        done,
        counts["already there"],
        len(failures),
        where,
    )
    return 1 if failures else 0
