"""Pack a prepared data set into a few large files: millions of small ones are slow on any file system.

    python -m preprocess.pack --data_root prepared --output packed
    python -m preprocess.pack --data_root prepared --output packed --frames equalized --num_workers 8
    python -m preprocess.pack --data_root prepared --output packed --shards s3://bucket/fakeavceleb

A pack is used like the prepared tree: train.py --data_root packed. Clips keep their order, windows and
tensors. Shards are WebDataset tar files, which other tools read too; `pack.sqlite` says where every clip lies
in them, so that shuffling reads what it needs and nothing else. --frames says what they hold of the picture:

    video       the crop as it is, some 50 kB a second: for network storage and long archives
    rgb         decoded frames, 3.8 MB a second at 25 fps: no decoding in training, for a local SSD
    equalized   the same, luma equalised as the video front end of beyond_masking does it: nothing left to do

With --shards the tar files go to an address (anything that fsspec opens: s3://, gs://, ...), the index stays
in --output. A run that was interrupted goes on with the next shard when it is called again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preprocess.work.batch import PARTIAL_NAME, clip_folders, failures_csv
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig, begin_with, stop_clock
from preprocess.work.workers import run_workers
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
from utils.clip.packed import FORMAT, FRAMES_NAME, INDEX_NAME, SCHEMA
from utils.config import opt, parse_command
from utils.errors import ClipError, DatasetError, UsageError, run_command
from utils.files import file_sha256, write_atomically
from utils.media.allowed import report_length
from utils.media.luma import equalize_luma

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 128
# file of a clip folder -> how WebDataset calls it beside the clip's key
EXTENSIONS = {
    VIDEO_NAME: "mp4",
    FRAMES_NAME: "frames.npy",
    LANDMARKS_NAME: "landmarks.npy",
    INFO_NAME: "json",
}


@dataclass(frozen=True, kw_only=True)
class PackConfig(LimitConfig):
    """python -m preprocess.pack"""

    data_root: Path = opt(dataclasses.MISSING, "the prepared data set (output of preprocess.prepare)")
    output: Path = opt(
        dataclasses.MISSING, "folder of the pack: index, metadata, and the shards unless --shards is given"
    )
    shards: str = opt("", "address or folder of the tar files, if they are not to lie in --output")
    frames: str = opt(
        "video", "what is packed of the picture: see above", choices=("video", "rgb", "equalized")
    )
    shard_mb: int = opt(1024, "about how large a shard is, in MB")
    num_workers: int = opt(0, "processes, each with one shard at a time; 0: one per CPU core")

    def output_bytes(self, num_frames: int, pixels: int) -> int:
        """A shard holds many clips: `max_output_gb` alone limits it."""
        return round(self.max_output_gb * 1e9) or 1 << 62

    def __post_init__(self) -> None:
        LimitConfig.__post_init__(self)
        if self.shard_mb < 1 or self.num_workers < 0:
            raise ValueError("shard_mb must be at least 1 and num_workers not negative")


@dataclass(frozen=True)
class Shard:
    """Which clips go into one tar file."""

    number: int
    folders: tuple[str, ...]  # relative to the data root

    @property
    def name(self) -> str:
        return f"shard-{self.number:06d}.tar"


def plan_shards(data_root: Path, config: PackConfig) -> list[Shard]:
    """All clips in order of their paths, cut where a shard has grown to `shard_mb`."""
    shards: list[Shard] = []
    folders: list[str] = []
    size = 0
    for folder in clip_folders(data_root):
        folders.append(folder.relative_to(data_root).as_posix())
        files = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
        if config.frames != "video" and (folder / LANDMARKS_NAME).is_file():
            # (T, 478, 2) float32 and T frames of 224x224: other sizes only make larger or smaller shards
            files += (folder / LANDMARKS_NAME).stat().st_size // (478 * 8) * 224 * 224 * 3
        size += files
        if size >= config.shard_mb * 1_000_000:
            shards.append(Shard(len(shards), tuple(folders)))
            folders, size = [], 0
    if folders:
        shards.append(Shard(len(shards), tuple(folders)))
    return shards


@dataclass(frozen=True, kw_only=True)
class ShardJob(Job):
    """One shard, without the clips on which a process died: folder -> reason."""

    shard: Shard
    lost: dict[str, str]

    @property
    def local_source(self) -> None:
        return None  # each clip has a clock of its own


def shard_job(job: ShardJob, config: PackConfig) -> str:
    """Write the shard and its record: "done"."""
    write_shard(job.shard, config, job.lost)
    return "done"


def write_shard(shard: Shard, config: PackConfig, lost: dict[str, str] | None = None) -> dict[str, Any]:
    """Write one tar file and beside it, for a run that goes on, what the index needs to know of it; and while
    it works, at which clip it is.

    Returns {"size": bytes, "clips": [...], "files": [...], "failures": [...]}, see utils/clip/packed.py.
    """
    partial = config.output / PARTIAL_NAME
    record_path = partial / f"{shard.name}.json"
    if record_path.is_file():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["plan"] == [*shard.folders]:
            return record
    record: dict[str, Any] = {"plan": [*shard.folders], "clips": [], "files": [], "failures": []}
    path, place_path = partial / shard.name, _place_path(shard, config)
    with path.open("wb") as file:
        tar = tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)
        for folder in shard.folders:
            if lost and folder in lost:
                record["failures"].append((folder, lost[folder]))
                continue
            place_path.write_text(folder, encoding="utf-8")
            begin_with(config.data_root / folder / VIDEO_NAME)
            start, count = tar.offset, len(tar.members)
            try:
                clip, files = _add_clip(tar, config.data_root, folder, config.frames)
            except (ClipError, OSError) as error:
                record["failures"].append((folder, getattr(error, "reason", str(error))))
                file.seek(start)  # as if it had not been begun
                file.truncate()
                tar.offset = start
                del tar.members[count:]
                continue
            record["clips"].append(clip)
            record["files"] += [(folder, name, shard.number, place, size) for name, place, size in files]
        stop_clock()
        place_path.unlink(missing_ok=True)
        tar.close()
        file.flush()
        os.fsync(file.fileno())
    record["size"] = path.stat().st_size
    if "://" in config.shards:
        import fsspec

        system, place = fsspec.core.url_to_fs(f"{config.shards.rstrip('/')}/{shard.name}")
        system.makedirs(system._parent(place), exist_ok=True)
        system.put_file(str(path), place)
        path.unlink()
    else:
        path.replace(Path(config.shards or config.output) / shard.name)
    write_atomically(record_path, lambda place: place.write_text(json.dumps(record), encoding="utf-8"))
    return record


def _place_path(shard: Shard, config: PackConfig) -> Path:
    """Holds the folder of the clip that is being packed."""
    return config.output / PARTIAL_NAME / f"{shard.name}.at"


def _write_shards(shards: Sequence[Shard], config: PackConfig) -> Iterator[tuple[Shard, dict[str, Any]]]:
    """(shard, its record) as they are written. Where a process dies, its shard is begun anew without the clip
    that it was at.
    """
    partial = config.output / PARTIAL_NAME
    for shard in shards:
        _place_path(shard, config).unlink(missing_ok=True)  # of an earlier run
    jobs = [
        ShardJob(name=shard.name, source=partial, folder=partial, shard=shard, lost={}) for shard in shards
    ]
    while jobs:
        again = []
        outcomes = run_workers(jobs, shard_job, config, partial / "work", config.num_workers)
        with contextlib.closing(outcomes):
            for job, status, reason in outcomes:
                place = _place_path(job.shard, config)
                if status == "done":  # its record is there: nothing is written again
                    yield job.shard, write_shard(job.shard, config)
                elif place.is_file():
                    again.append(
                        dataclasses.replace(job, lost=job.lost | {place.read_text(encoding="utf-8"): reason})
                    )
                else:
                    raise DatasetError(f"{job.name}: {reason}")
        jobs = again


def _add_clip(
    tar: tarfile.TarFile, data_root: Path, folder: str, frames: str
) -> tuple[tuple[str, str, str, int], list[tuple[str, int, int]]]:
    """Append a clip's files. Returns its row of the index, and (name, start, size) of each file."""
    clip_folder = data_root / folder
    info = read_clip_info(clip_folder)
    num_frames = len(open_landmarks(clip_folder))
    audio = find_audio(clip_folder)
    paths = [audio, clip_folder / LANDMARKS_NAME]
    paths += [clip_folder / INFO_NAME] if info else []
    files = []
    with open_crop(clip_folder / VIDEO_NAME) as crop:
        if crop.num_frames and crop.num_frames != num_frames:
            raise ClipError(clip_folder, f"{num_frames} landmark frames for {crop.num_frames} video frames")
        report_length(num_frames, CROP_SIZE**2, 0.0)
        if frames == "video":
            paths.insert(0, clip_folder / VIDEO_NAME)
        else:
            side, pieces = _npy_pieces(crop, num_frames, equalized=frames == "equalized")
            files.append(_add(tar, folder, FRAMES_NAME, side, _Pieces(pieces)))
        fps = str(crop.fps)
    for path in paths:
        if info and path.name in info.files and file_sha256(path) != info.files[path.name]:
            raise ClipError(path, "its checksum is not that of clip.json; prepare the clip again")
        with path.open("rb") as file:
            files.append(_add(tar, folder, path.name, path.stat().st_size, file))
    parent, _, name = folder.rpartition("/")
    return (parent, name, fps, num_frames), files


def _add(tar: tarfile.TarFile, folder: str, name: str, size: int, content: BinaryIO) -> tuple[str, int, int]:
    """Append one file; the same input gives the same bytes. Returns (name, start of its content, size)."""
    parent, slash, key = folder.rpartition("/")
    # WebDataset takes everything up to the first dot of a file's name for its sample's key
    info = tarfile.TarInfo(f"{parent}{slash}{key.replace('.', '%2E')}.{EXTENSIONS.get(name, 'wav')}")
    info.size = size
    tar.addfile(info, content)
    return name, tar.offset - math.ceil(size / tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, size


def _npy_pieces(crop: Crop, num_frames: int, *, equalized: bool) -> tuple[int, Iterator[bytes]]:
    """(size in bytes, content in pieces) of the .npy file of a crop's frames."""
    shape = (num_frames, *crop.read(np.zeros(1, np.int64)).shape[1:])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def pieces() -> Iterator[bytes]:
        yield header.getvalue()
        for start in range(0, num_frames, FRAMES_AT_ONCE):
            images = crop.read(np.arange(start, min(start + FRAMES_AT_ONCE, num_frames)))
            yield (equalize_luma(images) if equalized else images).tobytes()

    return header.tell() + int(np.prod(shape, dtype=np.int64)), pieces()


class _Pieces:
    """Bytes that are made while they are read, as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        taken, self._rest = self._rest[:size], self._rest[size:]
        return (
            bytes(taken) if len(taken) == size or not taken else bytes(taken) + self.read(size - len(taken))
        )


def write_index(config: PackConfig, shards: Sequence[Shard], records: dict[int, dict[str, Any]]) -> None:
    """pack.sqlite, last of all: without it there is no pack."""
    about = {"format": FORMAT, "frames": config.frames, "shards": config.shards}

    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        database = sqlite3.connect(path)
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        for shard in shards:
            record = records[shard.number]
            database.execute(
                "INSERT INTO shards VALUES (?, ?, ?)", (shard.number, shard.name, record["size"])
            )
            database.executemany("INSERT INTO clips VALUES (?, ?, ?, ?)", record["clips"])
            database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", record["files"])
        database.commit()
        database.close()

    write_atomically(config.output / INDEX_NAME, write)


def copy_metadata(data_root: Path, output: Path, shards: Sequence[Shard]) -> int:
    """Everything in the tree that is no clip, and the folders that clip folders lie in. Returns the number of
    files.
    """
    clips = {folder for shard in shards for folder in shard.folders}
    for parent in {os.path.dirname(folder) for folder in clips}:  # noqa: PTH120
        (output / parent).mkdir(parents=True, exist_ok=True)
    count = 0
    for place, subfolders, files in os.walk(data_root, followlinks=True):
        folder = Path(place).relative_to(data_root)
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and (folder / name).as_posix() not in clips
        ]
        for name in files:
            (output / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(place, name), output / folder / name)
            count += 1
    return count


def _require_free(config: PackConfig) -> None:
    if (config.output / INDEX_NAME).exists():
        raise UsageError(f"{config.output} holds a pack already: remove it, or choose another --output")
    if config.output.resolve().is_relative_to(config.data_root.resolve()):
        raise UsageError(f"--output {config.output} lies in --data_root: choose a folder outside")
    if config.shards and "://" not in config.shards:
        Path(config.shards).mkdir(parents=True, exist_ok=True)


def main() -> int:
    config = parse_command(PackConfig, __doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from tqdm import tqdm

    _require_free(config)
    shards = plan_shards(config.data_root, config)
    (config.output / PARTIAL_NAME).mkdir(parents=True, exist_ok=True)
    num_clips = sum(len(shard.folders) for shard in shards)
    records: dict[int, dict[str, Any]] = {}
    with (
        contextlib.closing(_write_shards(shards, config)) as written,
        tqdm(total=num_clips, unit="clip", dynamic_ncols=True) as progress,
    ):
        for shard, record in written:
            records[shard.number] = record
            progress.update(len(shard.folders))
    failures = [tuple(failure) for record in records.values() for failure in record["failures"]]
    copy_metadata(config.data_root, config.output, shards)
    write_index(config, shards, records)
    shutil.rmtree(config.output / PARTIAL_NAME)
    size = sum(record["size"] for record in records.values())
    log.info(
        "%d clips packed into %d shards, %.2f GB (%s)",
        num_clips - len(failures), len(shards), size / 1e9, config.frames,
    )  # fmt: skip
    if failures:
        place = config.output / "pack_failures.csv"
        place.write_bytes(failures_csv(failures))
        log.warning("%d clips are not packed, see %s", len(failures), place)
    return 1 if failures else 0


if __name__ == "__main__":
    run_command(main)
