"""Pack a prepared data set into a few large files: millions of small ones are slow on any file system.

    python -m preprocess.pack --data_root prepared --output packed
    python -m preprocess.pack --data_root prepared --output packed --frames equalized --num_workers 8
    python -m preprocess.pack --data_root prepared --output packed --shards s3://bucket/fakeavceleb

A pack replaces the prepared tree: train.py --data_root packed reads the same clips, windows and tensors from
it. Shards are WebDataset tar files, which other tools read too. `pack.sqlite` says where each clip lies in
them, so shuffled reading stays fast. --frames selects how the pictures are stored:

    video       the crop as it is, about 50 kB per second: for network storage and archives
    rgb         decoded frames, 3.8 MB per second at 25 fps: no decoding in training, for a local SSD
    equalized   the same, with the histogram-equalised luma that beyond_masking's video front end computes

With --shards, the tar files go to another folder or URL (s3://, gs://, ... as fsspec opens it); the index
stays in --output. After an interruption, call it again: finished shards are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import logging
import math
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from preprocess.work.jobs import CLIP_FILES, PARTIAL_NAME, Job, require_within
from preprocess.work.limits import LimitConfig, begin_with, stop_clock
from preprocess.work.progress import failures_csv
from preprocess.work.workers import run_workers
from utils.clip.features import check_features, list_features
from utils.clip.files import (
    CROP_SIZE,
    INFO_NAME,
    LANDMARKS_NAME,
    VIDEO_NAME,
    find_audio,
    open_landmarks,
    read_clip_info,
)
from utils.clip.frames import Crop, open_crop
from utils.clip.generated import MARK_NAME, finder, mark
from utils.clip.packed import FEATURES, FORMAT, FRAMES_NAME, INDEX_NAME, SCHEMA, walk
from utils.config import opt, parse_groups
from utils.errors import ClipError, DatasetError, UsageError, run_command
from utils.files import file_sha256, locked_folder, sync, write_atomically, write_text
from utils.media.allowed import report_length
from utils.media.luma import equalize_luma

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 128
NO_LIMIT_GB = 1e9  # for a shard, which holds many clips: --max_output_gb alone limits it
# file of a clip folder -> its extension in WebDataset, after the clip's key
EXTENSIONS = {
    VIDEO_NAME: "mp4",
    FRAMES_NAME: "frames.npy",
    LANDMARKS_NAME: "landmarks.npy",
    INFO_NAME: "json",
}


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """python -m preprocess.pack"""

    data_root: Path = opt(dataclasses.MISSING, "the prepared data set (output of preprocess.prepare)")
    output: Path = opt(dataclasses.MISSING, "folder of the pack; --shards puts its tar files elsewhere")
    shards: str = opt("", "folder or URL of the tar files, if they are not to lie in --output")
    frames: str = opt("video", "how pictures are stored: see above", choices=("video", "rgb", "equalized"))
    shard_mb: int = opt(1024, "approximate size of a shard, in MB")
    num_workers: int = opt(0, "processes, each with one shard at a time; 0: one per CPU core")
    allow_links: bool = opt(False, "accept links out of --data_root: parts on other disks")

    def __post_init__(self) -> None:
        if self.shard_mb < 1 or self.num_workers < 0:
            raise ValueError("shard_mb must be at least 1 and num_workers not negative")


@dataclass(frozen=True)
class Tree:
    """A prepared data set. Paths are relative to its root, with "/", and sorted."""

    clips: list[str]  # clip folders
    metadata: list[str]  # files outside of clip folders


def read_tree(config: PackConfig) -> Tree:
    """Find all clips and metadata. Follows links and skips hidden folders, as training does.

    Raises ClipError if a link leads out of the root without `allow_links`, DatasetError if there is no clip
    or links form a loop, UsageError for a pack.
    """
    root = config.data_root
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    clips: set[str] = set()
    metadata: list[str] = []
    for folder, subfolders, files in walk(root):
        if INDEX_NAME in files:
            raise UsageError(f"{folder} is a pack already; --data_root must be a prepared data set")
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for path in (folder / name for name in (*subfolders, *files)):
            if not config.allow_links and path.is_symlink():
                require_within(path, root)
        place = folder.relative_to(root)
        if not set(CLIP_FILES).isdisjoint(files):
            clips.add(place.as_posix())
        elif clips.isdisjoint(parent.as_posix() for parent in place.parents):
            metadata += [(place / name).as_posix() for name in files]
    if not clips:
        raise DatasetError(f"{root}: no clip folder in it; make some with preprocess.prepare")
    if "." in clips:
        raise DatasetError(f"{root}: is a clip folder itself; give the folder above")
    return Tree(sorted(clips, key=PurePosixPath), sorted(metadata))


@dataclass(frozen=True, kw_only=True)
class Shard(Job):
    """One tar file, and the clips in it."""

    number: int
    folders: tuple[str, ...]  # relative to the data root
    lost: dict[str, str] = dataclasses.field(default_factory=dict)  # clip that ended a process -> reason

    @property
    def local_source(self) -> None:
        return None  # each clip has its own clock

    @property
    def record_path(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def current_path(self) -> Path:
        """File that names the clip that is being packed, for when the process dies."""
        return self.folder / f"{self.name}.at"

    def read_record(self) -> dict[str, Any]:
        """What `write_shard` wrote for the index, with rows as in utils/clip/packed.py:
        {"plan": folders, "size": bytes, "clips": [...], "files": [...], "failures": [...]}.
        """
        record: dict[str, Any] = json.loads(self.record_path.read_text(encoding="utf-8"))
        return record


def plan_shards(clips: Sequence[str], config: PackConfig) -> list[Shard]:
    """All clips in the given order, in shards of about `shard_mb`."""
    plan: list[list[str]] = []
    size = math.inf
    for clip in clips:
        if size >= config.shard_mb * 1_000_000:
            plan.append([])
            size = 0
        plan[-1].append(clip)
        folder = config.data_root / clip
        size += sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
        if config.frames != "video" and (folder / LANDMARKS_NAME).is_file():
            # estimate from (T, 478, 2) float32 landmarks: T frames of 224x224
            size += (folder / LANDMARKS_NAME).stat().st_size // (478 * 8) * CROP_SIZE**2 * 3
    place = config.output / PARTIAL_NAME
    return [
        Shard(name=f"shard-{number:06d}.tar", source=place, folder=place, number=number, folders=tuple(clips))
        for number, clips in enumerate(plan)
    ]


def write_shard(shard: Shard, config: PackConfig) -> str:
    """Write one tar file, and its record, by which a later run knows that it is finished: "done"."""
    if shard.record_path.is_file() and shard.read_record()["plan"] == [*shard.folders]:
        return "done"
    lost = [*shard.lost.items()]
    record: dict[str, Any] = {"plan": shard.folders, "clips": [], "files": [], "failures": lost}
    path = shard.folder / shard.name
    with path.open("wb") as file:
        for folder in shard.folders:
            if folder in shard.lost:
                continue
            shard.current_path.write_text(folder, encoding="utf-8")
            begin_with(config.data_root / folder / VIDEO_NAME)
            start = file.tell()
            try:
                clip, files = _add_clip(file, config.data_root, folder, config.frames)
            except (ClipError, OSError) as error:
                record["failures"].append((folder, getattr(error, "reason", str(error))))
                file.seek(start)  # undo what was written of it
                file.truncate()
                continue
            record["clips"].append(clip)
            record["files"] += [(folder, name, shard.number, place, size) for name, place, size in files]
        stop_clock()
        shard.current_path.unlink(missing_ok=True)
        end = file.tell() + 2 * tarfile.BLOCKSIZE  # a tar file ends with two empty blocks, and full records
        file.truncate(math.ceil(end / tarfile.RECORDSIZE) * tarfile.RECORDSIZE)
    sync(path)
    record["size"] = path.stat().st_size
    if "://" in config.shards:
        import fsspec

        system, place = fsspec.core.url_to_fs(f"{config.shards.rstrip('/')}/{shard.name}")
        system.makedirs(system._parent(place), exist_ok=True)
        system.put_file(str(path), place)
        path.unlink()
    else:
        path.replace(Path(config.shards or config.output) / shard.name)
    write_text(shard.record_path, json.dumps(record))
    return "done"


def _write_shards(
    shards: Sequence[Shard], config: PackConfig, limits: LimitConfig
) -> Generator[Shard, None, None]:
    """Yield the shards as they are written, without the clips on which a process died."""
    for shard in shards:
        shard.current_path.unlink(missing_ok=True)  # of an earlier run
    limits = dataclasses.replace(limits, max_output_gb=limits.max_output_gb or NO_LIMIT_GB)
    do = functools.partial(write_shard, config=config)
    scratch = config.output / PARTIAL_NAME / "work"
    while shards:
        again = []
        with contextlib.closing(run_workers(shards, do, limits, scratch, config.num_workers)) as outcomes:
            for shard, status, reason in outcomes:
                if status == "done":
                    yield shard
                elif shard.current_path.is_file():
                    lost = shard.lost | {shard.current_path.read_text(encoding="utf-8"): reason}
                    again.append(dataclasses.replace(shard, lost=lost))
                else:
                    raise DatasetError(f"{shard.name}: {reason}")
        shards = again


def _add_clip(
    shard: BinaryIO, data_root: Path, folder: str, frames: str
) -> tuple[tuple[str, str, str, int], list[tuple[str, int, int]]]:
    """Append a clip's files; return its row of the index, and (name, start, size) of each file."""
    clip_folder = data_root / folder
    info = read_clip_info(clip_folder)
    num_frames = len(open_landmarks(clip_folder))
    audio = find_audio(clip_folder)
    paths = [audio, clip_folder / LANDMARKS_NAME]
    paths += [clip_folder / INFO_NAME] if info else []
    for name in list_features(clip_folder):
        check_features(clip_folder, name)
        paths += [clip_folder / f"{name}.json", clip_folder / f"{name}.npy"]
    files = []
    with open_crop(clip_folder / VIDEO_NAME) as crop:
        if crop.num_frames and crop.num_frames != num_frames:
            raise ClipError(clip_folder, f"{num_frames} landmark frames for {crop.num_frames} video frames")
        report_length(num_frames, CROP_SIZE**2, 0.0)
        if frames == "video":
            paths.insert(0, clip_folder / VIDEO_NAME)
        else:
            size, pieces = _npy_pieces(crop, num_frames, equalized=frames == "equalized")
            files.append(_add(shard, folder, FRAMES_NAME, size, pieces))
        fps = str(crop.fps)
    for path in paths:
        if info and path.name in info.files and file_sha256(path) != info.files[path.name]:
            raise ClipError(path, "checksum differs from clip.json; prepare the clip again")
        with path.open("rb") as file:
            pieces = iter(functools.partial(file.read, 1 << 20), b"")
            name = path.relative_to(clip_folder).as_posix()
            files.append(_add(shard, folder, name, path.stat().st_size, pieces))
    parent, _, name = folder.rpartition("/")
    return (parent, name, fps, num_frames), files


def _add(shard: BinaryIO, folder: str, name: str, size: int, pieces: Iterable[bytes]) -> tuple[str, int, int]:
    """Append one file; the same input gives the same bytes. Returns (name, start of its content, size)."""
    parent, slash, key = folder.rpartition("/")
    # WebDataset's key of a sample is the file name up to the first dot
    extension = name.replace("/", ".") if name.startswith(FEATURES) else EXTENSIONS.get(name, "wav")
    info = tarfile.TarInfo(f"{parent}{slash}{key.replace('.', '%2E')}.{extension}")
    info.size = size
    shard.write(info.tobuf(tarfile.GNU_FORMAT))
    start = shard.tell()
    shard.writelines(pieces)
    if shard.tell() != start + size:
        raise OSError(f"{name} changed while it was packed")
    shard.write(bytes(-size % tarfile.BLOCKSIZE))
    return name, start, size


def _npy_pieces(crop: Crop, num_frames: int, *, equalized: bool) -> tuple[int, Iterator[bytes]]:
    """(size in bytes, content in pieces) of a .npy file with a crop's frames."""
    shape = (num_frames, *crop.read(np.zeros(1, np.int64)).shape[1:])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def pieces() -> Iterator[bytes]:
        yield header.getvalue()
        for start in range(0, num_frames, FRAMES_AT_ONCE):
            images = crop.read(np.arange(start, min(start + FRAMES_AT_ONCE, num_frames)))
            yield (equalize_luma(images) if equalized else images).tobytes()

    return header.tell() + int(np.prod(shape, dtype=np.int64)), pieces()


def write_index(config: PackConfig, shards: Sequence[Shard]) -> None:
    """Write pack.sqlite, the last step: without it, there is no pack."""
    about = {"format": FORMAT, "frames": config.frames, "shards": config.shards}

    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.executescript(SCHEMA)
            database.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            for shard in shards:
                record = shard.read_record()
                row = shard.number, shard.name, record["size"]
                database.execute("INSERT INTO shards VALUES (?, ?, ?)", row)
                database.executemany("INSERT INTO clips VALUES (?, ?, ?, ?)", record["clips"])
                database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", record["files"])

    write_atomically(config.output / INDEX_NAME, write)


def copy_metadata(tree: Tree, config: PackConfig) -> None:
    """Copy all files outside of clip folders, and make the folders that hold clip folders."""
    for parent in {os.path.dirname(name) for name in (*tree.clips, *tree.metadata)}:  # noqa: PTH120
        (config.output / parent).mkdir(parents=True, exist_ok=True)
    for name in tree.metadata:
        shutil.copyfile(config.data_root / name, config.output / name)
    if MARK_NAME not in tree.metadata and finder()(config.data_root):  # a folder above is marked
        (config.output / MARK_NAME).write_bytes(mark())


def _require_free(config: PackConfig) -> None:
    if (config.output / INDEX_NAME).exists():
        raise UsageError(f"{config.output} already holds a pack: remove it, or choose another --output")
    if config.output.resolve().is_relative_to(config.data_root.resolve()):
        raise UsageError(f"--output {config.output} lies in --data_root: choose a folder outside")


def main() -> int:
    config, limits = parse_groups(__doc__, PackConfig, LimitConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with _locked(config):
        return _pack(config, limits)


@contextlib.contextmanager
def _locked(config: PackConfig) -> Iterator[None]:
    """Keep other packs out of the folders that this one writes. Raises UsageError if one is at work there."""
    _require_free(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked_folder(config.output, flag="--output"))
        _require_free(config)  # again: another pack may have ended meanwhile
        if config.shards and "://" not in config.shards:
            shards = Path(config.shards)
            shards.mkdir(parents=True, exist_ok=True)
            if not shards.samefile(config.output):
                stack.enter_context(locked_folder(shards, flag="--shards"))
        yield


def _pack(config: PackConfig, limits: LimitConfig) -> int:
    """Write shards, metadata and index. Returns the exit status."""
    from tqdm import tqdm

    tree = read_tree(config)
    shards = plan_shards(tree.clips, config)
    (config.output / PARTIAL_NAME).mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(_write_shards(shards, config, limits)) as written,
        tqdm(total=len(tree.clips), unit="clip", dynamic_ncols=True) as progress,
    ):
        for shard in written:
            progress.update(len(shard.folders))
    records = [shard.read_record() for shard in shards]
    failures = [(folder, reason) for record in records for folder, reason in record["failures"]]
    copy_metadata(tree, config)
    write_index(config, shards)
    shutil.rmtree(config.output / PARTIAL_NAME)
    num_packed, size_gb = len(tree.clips) - len(failures), sum(record["size"] for record in records) / 1e9
    log.info("%d clips packed into %d shards, %.2f GB (%s)", num_packed, len(shards), size_gb, config.frames)
    if failures:
        place = config.output / "pack_failures.csv"
        place.write_bytes(failures_csv(failures))
        log.warning("%d clips could not be packed, see %s", len(failures), place)
    return 1 if failures else 0


if __name__ == "__main__":
    run_command(main)
