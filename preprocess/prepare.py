"""Raw videos to clip folders in one decode pass per video: face crop, 478 landmarks, mono wav, clip.json.

    python -m preprocess.prepare --dataset fakeavceleb --source RAW --output prepared --num_workers 16
    python -m preprocess.prepare --input video.mp4 --output prepared
    python -m preprocess.prepare --input folder_of_videos --output prepared

OUTPUT/<path of the video without its suffix>/ holds cropped_video.mp4, cropped_video.wav, landmarks.npy and
clip.json. After an interruption, call it again: finished clips are recognised by clip.json and its checksums,
all others are made again. OUTPUT/failures.csv lists the videos that cannot be used, with reasons; the exit
status is then 1.

On a cluster, either give each machine its --shard (1/16, 2/16, ...) and the same --output, or let one command
distribute the clips with Ray. Paths must then be on a shared file system, or be URLs:

    ray start --head                          # on one node; on all others: ray start --address HEAD:6379
    python -m preprocess.prepare --dataset fakeavceleb --source RAW --output prepared --executor ray

--input, --source and --output may be URLs of object stores (s3://bucket/raw needs s3fs, gs:// gcsfs), with
credentials from the environment. A clip there is finished if its clip.json, which is uploaded last, fits the
flags and the size of the raw video; --recheck downloads everything and compares checksums. Two runs into one
URL need different shards: URLs are not locked.

With --dataset, the data set's tables are read first, as the loaders read them: a table that they would refuse
ends the command at once, and the log says how many videos are listed and there, listed and not there, there
and not listed. Two videos that would have the same clip folder (IMG_1.mp4, IMG_1.MOV) fail; the others go on.

Check the result with: python -m preprocess.verify --data_root prepared
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from preprocess.clip.make import ClipConfig, current_info, is_finished, prepare_clip
from preprocess.faces.backends import with_backend
from preprocess.work.batch import InputConfig, WorkConfig, find_jobs, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig, begin_with, stop_clock
from preprocess.work.ray_workers import ExecutorConfig
from preprocess.work.stores import StoredJob
from preprocess.work.tables import read_tables
from utils.clip.files import AUDIO_NAME, INFO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.config import opt, parse_groups
from utils.errors import ClipError, UsageError, run_command


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """python -m preprocess.prepare"""

    recheck: bool = opt(False, "with URLs: recognise finished clips by checksums, which downloads them")


def prepare_job(job: Job, clip: ClipConfig, recheck: bool = False) -> str:
    """Prepare one video: "done" or "already there"."""
    if isinstance(job, StoredJob):
        return _prepare_stored(job, clip, recheck)
    if is_finished(job.source, job.folder, clip, sound=job.sound):
        return "already there"
    # unfinished, stale or damaged: must not pass for this source's clip if the next line fails
    job.remove_folder()
    prepare_clip(job.source, job.scratch, clip, name=job.name, sound=job.sound)
    job.install_folder()
    return "done"


def _prepare_stored(job: StoredJob, clip: ClipConfig, recheck: bool) -> str:
    """`prepare_job` for stores: this machine holds this one clip only."""
    there = job.prepared.clip_files(job.folder)
    if _is_stored(job, there, clip, recheck):
        return "already there"
    if there:
        job.prepared.remove_clip(job.folder, job.scratch)
    source, sound = _fetch_raw(job)
    folder = job.scratch / "clip"
    folder.mkdir()
    try:
        prepare_clip(source, folder, clip, name=job.name, sound=sound)
    except ClipError as error:
        if error.path != source:
            raise
        raise ClipError(job.source, error.reason) from error  # not its temporary path
    stop_clock()
    job.prepared.install_clip(folder, job.folder)
    return "done"


def _is_stored(job: StoredJob, there: set[str], clip: ClipConfig, recheck: bool) -> bool:
    """Whether the clip is finished; `there` are the names of its files on the store."""
    if not there >= {INFO_NAME, VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME}:
        return False
    names = there if recheck else {INFO_NAME}
    (folder,) = {job.prepared.fetch(job.folder / name, job.scratch / "there").parent for name in names}
    if recheck:
        source, sound = _fetch_raw(job)
        return is_finished(source, folder, clip, sound=sound)
    info = current_info(job.source, folder, clip)
    return (
        info is not None
        and job.raw.size(job.source) == info.source_bytes
        and (job.sound is not None) == bool(info.sound_sha256)
    )


def _fetch_raw(job: StoredJob) -> tuple[Path, Path | None]:
    """Download the raw video and its separate sound file, if there is one."""
    sound = job.sound and job.raw.fetch(job.sound, job.scratch / "sound")
    source = job.raw.fetch(job.source, job.scratch / "raw")
    begin_with(source)
    return source, sound


def _describe_prepared(dataset: str, root: Path, variant: str) -> str:
    """What the loader finds in the prepared data set at `root`, in a line."""
    from loaders import DATASETS  # not at the top: workers that prepare clips need no loader
    from loaders.listing import TableConfig, describe

    return describe(DATASETS[dataset](root, TableConfig(variant=variant)))


def main() -> int:
    inputs, own, executor, clip, work, limits = parse_groups(
        __doc__, InputConfig, PrepareConfig, ExecutorConfig, ClipConfig, WorkConfig, LimitConfig
    )
    if own.recheck and not inputs.has_urls:
        raise UsageError("recheck is for URLs; with paths, checksums are always compared")
    clip = with_backend(clip)
    do = functools.partial(prepare_job, clip=clip, recheck=own.recheck)
    batch = find_jobs(inputs)
    if batch.dataset is not None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        read_tables(batch.dataset, functools.partial(_describe_prepared, inputs.dataset))
    return run_batch(batch, do, work, limits, done="prepared", run=executor.runner())


if __name__ == "__main__":
    from preprocess import prepare  # under this name, processes on other nodes find it

    run_command(prepare.main)
