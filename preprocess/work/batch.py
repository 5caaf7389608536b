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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from preprocess.work.jobs import CLIP_FILES, PARTIAL_NAME, Job, require_within
from preprocess.work.limits import LimitConfig
from preprocess.work.raw_layouts import SOURCES, VIDEO_SUFFIXES, any_of, nfc, read_raw_dataset
from preprocess.work.stores import LocalStore, Store, StoredJob, open_store
from preprocess.work.workers import PACKAGES, lock_partial, run_workers
from utils.config import opt
from utils.errors import DatasetError, UsageError, require_packages

log = logging.getLogger(__name__)

# run(jobs, work, config, partial, num_workers) yields (job, status, reason) as jobs finish
Runner = Callable[[Sequence[Job], Callable[[Job, Any], str], Any, Path, int], Iterator[tuple[Job, str, str]]]


@dataclass(frozen=True, kw_only=True)
class WorkConfig(LimitConfig):
    """preprocess/work/batch.py: how the work is spread, and what one video may cost."""

    num_workers: int = opt(0, "processes, each with one video at a time; 0: one per CPU core")
    shard: str = opt("1/1", "k/n: take only every n-th video, starting with the k-th, on this machine")

    def __post_init__(self) -> None:
        LimitConfig.__post_init__(self)
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
    """preprocess/work/batch.py: what is read and where it goes."""

    input: Path | None = opt(None, "one video, or a folder that is searched for videos")
    dataset: str | None = opt(None, "instead of --input: a raw data set", choices=sorted(SOURCES))
    source: Path | None = opt(None, "where that raw data set lies, in its own layout")
    only: tuple[str, ...] = opt(
        (),
        "take only the videos whose path below the root matches one of these globs, e.g. '**/c23/**/*.mp4'",
    )
    allow_links: bool = opt(
        False, "take files although links inside --input or --source lead out of it: parts on other disks"
    )
    output: Path = opt(dataclasses.MISSING, "folder of the prepared clips")


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """preprocess/work/batch.py: which clip folders are worked on."""

    data_root: Path = opt(dataclasses.MISSING, "folder that holds the clip folders, at any depth")


# fields of a parent named last stand first in --help
@dataclass(frozen=True, kw_only=True)
class BatchConfig(WorkConfig, InputConfig):
    """preprocess/work/batch.py: a command that reads raw videos."""


@dataclass(frozen=True, kw_only=True)
class FolderBatchConfig(WorkConfig, FolderConfig):
    """preprocess/work/batch.py: a command that reads clip folders."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The jobs of one command."""

    jobs: list[Job]
    output: Store
    raw: Store | None = None
    metadata: tuple[Path, ...] = ()  # files of `raw` that are copied to `output`


def find_jobs(config: BatchConfig) -> Batch:
    """The videos that a command's flags name: StoredJobs where a URL is among them.

    Raises UsageError or DatasetError if there are none.
    """
    if (config.input is None) == (config.dataset is None):
        raise UsageError("give either --dataset with --source, or --input")
    if (config.source is None) != (config.dataset is None):
        raise UsageError("--dataset and --source belong together")
    output = open_store(config.output)
    if output.is_file():
        raise UsageError(f"--output {output} is not a folder")
    metadata: list[Path] = []
    sounds: dict[Path, Path] = {}
    links = config.allow_links
    if config.dataset is not None:
        found = read_raw_dataset(config.dataset, open_store(config.source))
        raw, names, sounds, metadata = found.root, found.videos, found.sounds, found.metadata
    else:
        raw = open_store(config.input)
        if raw.is_file():  # named by the user, who may name a link to anywhere
            raw, name = raw.above()
            names, links = [Path(name)], True
        else:
            names = _videos_below(raw, output)
    if config.only:
        wanted = any_of(config.only)
        names = [name for name in names if wanted(nfc(name))]
        if not names:
            raise DatasetError(f"{raw}: no video matches --only {' '.join(config.only)}")
    _require_inside(names, raw)
    _require_suffixes(names)
    _require_distinct(names)
    _require_sources_outside(names, raw, output)
    within = raw.path if isinstance(raw, LocalStore) and not links else None
    for name in metadata if within else []:
        require_within(within / name, within)
    jobs = [_job(name, sounds.get(name), raw, output, within) for name in _take_shard(names, config)]
    return Batch(jobs=jobs, output=output, raw=raw, metadata=tuple(metadata))


def _job(name: Path, sound: Path | None, raw: Store, output: Store, within: Path | None) -> Job:
    folder = name.with_suffix("")
    if isinstance(raw, LocalStore) and isinstance(output, LocalStore):
        return Job(
            name=name.as_posix(),
            source=raw.path / name,
            folder=output.path / folder,
            sound=raw.path / sound if sound else None,
            within=within,
        )
    return StoredJob(
        name=name.as_posix(), source=name, folder=folder, sound=sound, within=within, raw=raw, prepared=output
    )


def _videos_below(root: Store, output: Store) -> list[Path]:
    if not root.is_folder():
        raise DatasetError(f"{root}: no such file or folder")
    own = output.place("")
    in_place = own == root.place("")
    found = sorted(
        path
        for path in root.all_files()
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.name not in CLIP_FILES  # a folder of prepared clips is no raw material
        and PARTIAL_NAME not in path.parts
        and (in_place or not root.place(path).is_relative_to(own))
    )
    if not found:
        raise DatasetError(
            f"{root}: no video in it (looked for {', '.join('*' + s for s in VIDEO_SUFFIXES)})"
        )
    return found


def _require_inside(names: list[Path], raw: Store) -> None:
    """A store may hold any name; each becomes a path below --output."""
    for name in names:
        if name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"{raw}: names a video outside it: {name}")


def _require_suffixes(names: list[Path]) -> None:
    for name in names:
        if name.suffix.lower() not in VIDEO_SUFFIXES:  # it gives the clip folder a name of its own
            raise UsageError(f"{name}: its name must end with one of {', '.join(VIDEO_SUFFIXES)}; rename it")
        if name.stem in {".", ".."}:  # "...mp4" would have the folder above for its clip folder
            raise UsageError(f"{name}: its name gives the clip folder none; rename it")


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


def _require_sources_outside(names: list[Path], raw: Store, output: Store) -> None:
    """Clip folders are replaced as a whole: no source may be one, or lie in one."""
    sources: dict[PurePath, Path] = {}  # also by each folder above
    for name in names:
        path = raw.place(name)
        for place in (path, *path.parents):
            sources.setdefault(place, name)
    for name in names:
        source = sources.get(output.place(name.with_suffix("")))
        if source is not None:
            folder = output.below(name.with_suffix("").as_posix())
            raise UsageError(
                f"{folder}, the clip folder of {raw.below(name.as_posix())}, would replace the video "
                f"{raw.below(source.as_posix())}; choose another --output"
            )


def _take_shard(items: list[Any], config: WorkConfig) -> list[Any]:
    k, n = config.shard_numbers()
    return items[k - 1 :: n]


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
    return Batch(jobs=_take_shard(jobs, config), output=LocalStore(config.data_root))


def failures_csv(failures: list[tuple[str, str]]) -> bytes:
    """CSV text with the columns path and reason, sorted by path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows(sorted(failures))
    return text.getvalue().encode()


def run_batch(
    batch: Batch,
    work: Callable[[Job, Any], str],
    config: WorkConfig,
    *,
    done: str = "done",
    run: Runner = run_workers,
) -> int:
    """Run `work(job, config)` for each job by `run`; return the exit status, 1 if any failed.

    `work` returns "done" or "already there", or raises ClipError. Failures go to OUTPUT/failures.csv (with
    the shard in its name if there are several); the file is removed when there are none.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    require_packages(PACKAGES, "preprocessing")
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    k, n = config.shard_numbers()
    shard = f"{k}_of_{n}"
    counts = {"done": 0, "already there": 0}
    failures: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        partial = stack.enter_context(lock_partial(batch.output.workspace(), shard))
        for name in batch.metadata:
            if batch.raw.place(name) != batch.output.place(name):
                batch.output.write(name, batch.raw.fetch(name, partial / "metadata").read_bytes(), partial)
        # closed first: no worker may outlive an interrupted run's folder
        outcomes = stack.enter_context(
            contextlib.closing(run(batch.jobs, work, config, partial, config.num_workers))
        )
        progress = tqdm(outcomes, total=len(batch.jobs), unit="clip", smoothing=0.05, dynamic_ncols=True)
        for job, status, reason in progress:
            if status == "failed":
                failures.append((job.name, reason))
                log.warning("%s: %s", job.name, reason)
            else:
                counts[status] += 1
            progress.set_postfix(failed=len(failures))
        failures_name = "failures.csv" if n == 1 else f"failures_{shard}.csv"
        batch.output.remove(failures_name)
        if failures:
            batch.output.write(failures_name, failures_csv(failures), partial)
    where = f" (see {batch.output.below(failures_name)})" if failures else ""
    log.info(
        "%d %s, %d already there, %d failed%s",
        counts["done"],
        done,
        counts["already there"],
        len(failures),
        where,
    )
    return 1 if failures else 0
