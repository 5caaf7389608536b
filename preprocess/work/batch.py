"""Many videos through one function: which ones, in which order, and what failed.

OUTPUT mirrors the raw tree: OUTPUT/<path of the video without its suffix>/ is its clip folder. Unfinished
files lie in OUTPUT/.partial/<shard>/ and move to their place when complete, so a run can be killed at any
moment and called again.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from preprocess.work.jobs import CLIP_FILES, PARTIAL_NAME, Job, require_within
from preprocess.work.left_out import describe_left_out
from preprocess.work.limits import LimitConfig
from preprocess.work.progress import failures_csv, with_progress
from preprocess.work.raw_layouts import SOURCES, RawDataset, any_of, nfc, read_raw_dataset
from preprocess.work.stores import LocalStore, Store, StoredJob, open_store
from preprocess.work.workers import PACKAGES, AnyJob, Outcomes, lock_partial, run_workers
from utils.clip.files import VIDEO_SUFFIXES
from utils.clip.generated import MANIFEST_NAME, MARK_NAME, finder, mark
from utils.clip.packed import walk
from utils.config import opt, require_at_least
from utils.errors import DatasetError, UsageError, require_packages

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Runner = Callable[..., Outcomes[Any]]  # called as run_workers is


@dataclass(frozen=True, kw_only=True)
class WorkConfig:
    """preprocess/work/batch.py: how the work is spread."""

    num_workers: int = opt(0, "processes, each with one video at a time; 0: one per CPU core")
    shard: str = opt("1/1", "k/n: take only every n-th video, starting with the k-th, on this machine")

    def __post_init__(self) -> None:
        require_at_least(self, 0, "num_workers")
        self.shard_numbers()

    def shard_numbers(self) -> tuple[int, int]:
        """(k, n) of `shard`, 1 <= k <= n."""
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"shard must be k/n with 1 <= k <= n, such as 3/16, got {self.shard!r}")
        return int(match[1]), int(match[2])

    def take_shard(self, items: list[Item]) -> list[Item]:
        """The items of this machine's shard."""
        k, n = self.shard_numbers()
        return items[k - 1 :: n]


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """preprocess/work/batch.py: which raw videos are read, and where the clips go."""

    input: str | None = opt(None, "a video, or a folder that is searched for videos; prepare also takes URLs")
    dataset: str | None = opt(None, "instead of --input: a raw data set", choices=sorted(SOURCES))
    source: str | None = opt(None, "folder of that raw data set, in its own layout; prepare also takes URLs")
    only: tuple[str, ...] = opt((), "globs of the videos to take, below the root, e.g. '**/c23/**/*.mp4'")
    allow_links: bool = opt(False, "accept links out of --input or --source: parts on other disks")
    output: str = opt(dataclasses.MISSING, "folder of the prepared clips; prepare also takes a URL")

    @property
    def has_urls(self) -> bool:
        return any("://" in str(place) for place in (self.input, self.source, self.output))

    def require_paths(self) -> None:
        """Raise UsageError if there is a URL, for commands that work on local files only."""
        if self.has_urls:
            raise UsageError("URLs are for preprocess.prepare; this command needs paths")


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """preprocess/work/batch.py: which clip folders are read."""

    data_root: Path = opt(dataclasses.MISSING, "folder that holds the clip folders, at any depth")


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """preprocess/work/batch.py: one step of preparing a clip, which makes one file."""

    overwrite: bool = opt(False, "make the file again where it exists")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The jobs of one command."""

    jobs: list[Any]  # Jobs, all of one class
    output: Store
    raw: Store | None = None
    metadata: tuple[Path, ...] = ()  # files of `raw` to copy to `output`
    dataset: RawDataset | None = None  # all of the data set, also what --only leaves out
    is_generated: bool = False  # of a generated set, which marks `output`


def find_jobs(inputs: InputConfig) -> Batch:
    """The videos that a command's flags name: StoredJobs if one of the places is a URL.

    Raises UsageError for contradicting flags, DatasetError if there is no video.
    """
    given = [name for name in ("input", "dataset", "source") if getattr(inputs, name) is not None]
    if given not in (["input"], ["dataset", "source"]):
        raise UsageError("give either --input, or --dataset with --source")
    source, output = open_store(inputs.input or inputs.source or ""), open_store(inputs.output)
    if output.is_file():
        raise UsageError(f"--output {output} is not a folder")
    links = inputs.allow_links
    if inputs.dataset is not None:
        raw = read_raw_dataset(inputs.dataset, source)
    elif source.is_file():  # named by the user, who may name a link to anywhere
        root, video = source.above()
        raw, links = RawDataset(root=root, videos=[Path(video)]), True
    else:
        raw = _videos_below(source, output, follow=links)
    if left_out := describe_left_out(raw.others):
        log.warning("%s: files that look like videos are not taken: %s", raw.root, left_out)
    names = raw.videos
    if inputs.only:
        wanted = any_of(inputs.only)
        names = [name for name in names if wanted(nfc(name))]
        if not names:
            raise DatasetError(f"{raw.root}: no video matches --only {' '.join(inputs.only)}")
    _require_names(names, raw.root)
    problems = _clashes(names)
    _require_sources_outside([name for name in names if name not in problems], names, raw.root, output)
    within = None if links else raw.root.local_path()
    if within is not None:
        for path in raw.metadata:
            require_within(within / path, within)
    jobs = [_job(name, raw, output, within, problems.get(name, "")) for name in names]
    dataset = raw if inputs.dataset is not None else None
    return Batch(
        jobs=jobs,
        output=output,
        raw=raw.root,
        metadata=tuple(raw.metadata),
        dataset=dataset,
        is_generated=_is_generated(raw.root),
    )


def _is_generated(root: Store) -> bool:
    """Whether a folder, or one above it on this machine, is a generated set, raw or prepared."""
    place = root.local_path()
    if place is not None:
        return finder()(place)
    return any(root.size(name) is not None for name in (MANIFEST_NAME, MARK_NAME))


def _clip_folder(name: Path) -> Path:
    """A video's name without its suffix; of "..mp4", with_suffix("") makes an error from Python 3.13 on."""
    return name.parent / name.stem


def _job(name: Path, raw: RawDataset, output: Store, within: Path | None, problem: str) -> Job:
    root, sound, folder = raw.root, raw.sounds.get(name), _clip_folder(name)
    if isinstance(root, LocalStore) and isinstance(output, LocalStore):
        sound = root.path / sound if sound else None
        place, video = output.path / folder, root.path / name
        return Job(name=str(name), source=video, folder=place, sound=sound, within=within, problem=problem)
    return StoredJob(
        name=str(name),
        source=name,
        folder=folder,
        sound=sound,
        within=within,
        raw=root,
        prepared=output,
        problem=problem,
    )


def _videos_below(root: Store, output: Store, *, follow: bool) -> RawDataset:
    if not root.is_folder():
        raise DatasetError(f"{root}: no such file or folder")
    own = output.place("")
    in_place = own == root.place("")
    videos, others = [], []
    for path in root.all_files(follow=follow):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            others.append(path)
        elif (
            path.name not in CLIP_FILES  # a prepared clip is not a raw video
            and PARTIAL_NAME not in path.parts
            and (in_place or not root.place(path).is_relative_to(own))
        ):
            videos.append(path)
    if not videos:
        left_out = describe_left_out(others)
        there = f"; it holds {left_out}, which are not taken" if left_out else ""
        looked_for = " ".join(f"*{suffix}" for suffix in VIDEO_SUFFIXES)
        raise DatasetError(f"{root}: no video in it; looked for {looked_for}{there}")
    return RawDataset(root=root, videos=sorted(videos), others=others)


def _require_names(names: list[Path], raw: Store) -> None:
    """Each name becomes a path below --output, and a store may hold any name."""
    for name in names:
        if name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"{raw}: names a video outside it: {name}")
        if name.suffix.lower() not in VIDEO_SUFFIXES:  # without it, video and clip folder would have one name
            raise UsageError(f"{name}: its name must end with one of {', '.join(VIDEO_SUFFIXES)}; rename it")


def _clashes(names: list[Path]) -> dict[Path, str]:
    """The videos whose clip folder is not theirs alone, and why; the others can be prepared.

    Names that differ in their Unicode form only are the same: loaders compare them so.
    """
    owners: dict[PurePath, list[Path]] = {}
    problems: dict[Path, str] = {}
    for name in names:
        if name.stem in {".", ".."}:  # the clip folder of "...mp4" would be the folder above
            problems[name] = "the name leaves none for the clip folder; rename it"
        else:
            owners.setdefault(PurePath(nfc(_clip_folder(name))), []).append(name)
    for folder, found in owners.items():
        for name in found if len(found) > 1 else ():
            others = " and ".join(str(other) for other in found if other is not name)
            problems[name] = f"{others} would have the same clip folder; rename one of them"
        for parent in folder.parents:
            for outer in owners.get(parent, ()):  # replacing that clip would delete this one
                problems.setdefault(
                    outer, f"the clip folder of {found[0]} would lie in that of {outer}; rename one of them"
                )
    return problems


def _require_sources_outside(names: list[Path], videos: list[Path], raw: Store, output: Store) -> None:
    """Clip folders are replaced as a whole, so no source may be one or lie in one."""
    sources: dict[PurePath, Path] = {}  # and each folder above -> the video
    for name in videos:
        path = raw.place(name)
        for place in (path, *path.parents):
            sources.setdefault(place, name)
    for name in names:
        source = sources.get(output.place(_clip_folder(name)))
        if source is not None:
            raise UsageError(
                f"{output}/{_clip_folder(name)}, the clip folder of {raw}/{name}, would replace the video "
                f"{raw}/{source}; choose another --output"
            )


def clip_folders(root: Path, *, packed: bool = False) -> list[Path]:
    """All folders at or below `root` that hold a file of a clip, sorted; with `packed`, packed clips too.

    Follows links and skips hidden folders, as training does. Raises DatasetError if there is none.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    folders = []
    for folder, subfolders, files in walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if not set(CLIP_FILES).isdisjoint(files) and (packed or folder.is_dir()):
            folders.append(folder)
    if not folders:
        raise DatasetError(f"{root}: no clip folder in it; make some with preprocess.prepare")
    return sorted(folders)


def find_folders(data_root: Path, *, packed: bool = False) -> Batch:
    """The clip folders below `data_root`. Raises DatasetError if there is none."""
    jobs = [
        Job(name=folder.relative_to(data_root).as_posix(), source=folder, folder=folder)
        for folder in clip_folders(data_root, packed=packed)
    ]
    return Batch(jobs=jobs, output=LocalStore(data_root))


def make_file(job: Job, name: str, make: Callable[[Job, Any], None], config: Any, overwrite: bool) -> str:
    """Call `make(job, config)`, which writes the file `name` of a clip: "done" or "already there"."""
    if (job.folder / name).is_file() and not overwrite:
        return "already there"
    make(job, config)
    job.install(name)
    return "done"


def run_batch(
    batch: Batch,
    do: Callable[[AnyJob], str],
    work: WorkConfig,
    limits: LimitConfig,
    *,
    done: str = "done",
    run: Runner = run_workers,
) -> int:
    """Call `do(job)` for each job of the shard by `run`; return the exit status, 1 if a job failed.

    `do` returns "done" or "already there", or raises ClipError. Failures go to OUTPUT/failures.csv (with
    the shard in its name if there are several); the file is removed if there is none.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    require_packages(PACKAGES, "preprocessing")
    taken = work.take_shard(batch.jobs)
    jobs = [job for job in taken if not job.problem]
    k, n = work.shard_numbers()
    shard = f"{k}_of_{n}"
    problems = [(job.name, job.problem) for job in taken if job.problem]
    for problem in problems:
        log.warning("%s: %s", *problem)
    with lock_partial(batch.output.workspace(), shard) as partial:
        for name in batch.metadata:
            if batch.raw and batch.raw.place(name) != batch.output.place(name):
                batch.output.copy(name, batch.raw.fetch(name, partial / "metadata"), partial)
        if batch.is_generated and batch.output.size(MARK_NAME) is None:
            batch.output.write(MARK_NAME, mark(), partial)
        outcomes = run(jobs, do, limits, partial, work.num_workers)
        table = "failures.csv" if n == 1 else f"failures_{shard}.csv"
        return conclude(outcomes, len(jobs), batch.output, partial, table, done=done, failures=problems)


def conclude(
    outcomes: Outcomes[AnyJob],
    total: int,
    output: Store,
    partial: Path,
    table: str,
    *,
    done: str,
    failures: Sequence[tuple[str, str]] = (),
) -> int:
    """Await the outcomes of `total` jobs under a progress bar, and log their counts; the exit status.

    All failures, also those from before, go to the file `table` of `output`, by way of the folder `partial`;
    without failures, it is removed.
    """
    counts, failures = {"done": 0, "already there": 0}, list(failures)
    with with_progress(outcomes, total) as shown:
        for job, status, reason in shown:
            if status == "failed":
                failures.append((job.name, reason))
                log.warning("%s: %s", job.name, reason)
            else:
                counts[status] += 1
    output.remove(table)
    if failures:
        output.write(table, failures_csv(failures), partial)
    where = f" (see {output}/{table})" if failures else ""
    counted = f"{counts['done']} {done}, {counts['already there']} already there, {len(failures)} failed"
    log.info("%s%s", counted, where)
    return 1 if failures else 0
