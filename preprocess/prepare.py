"""Raw videos to clip folders in one decode pass per video: face crop, 478 landmarks, mono wav, clip.json.

    python -m preprocess.prepare --dataset fakeavceleb --source RAW --output prepared --num_workers 16
    python -m preprocess.prepare --input video.mp4 --output prepared
    python -m preprocess.prepare --input folder_of_videos --output prepared

OUTPUT/<path of the video without its suffix>/ holds cropped_video.mp4, cropped_video.wav, landmarks.npy and
clip.json. Call it again after an interruption: finished clips are recognised by clip.json and its checksums,
all others are made anew. Videos that cannot be used are listed with their reasons in OUTPUT/failures.csv; the
exit status is then 1.

On a cluster, either give each machine its --shard (1/16, 2/16, ...) and the same --output, or let one command
hand out the clips on Ray, with paths that all nodes share, or URLs:

    ray start --head                          # on one node; on all others: ray start --address HEAD:6379
    python -m preprocess.prepare --dataset fakeavceleb --source RAW --output prepared --executor ray

--input, --source and --output may be URLs of object stores (s3://bucket/raw needs s3fs, gs:// gcsfs), with
credentials from the environment. A clip is then finished when its clip.json is there, which comes last, fits
the flags and names the size of the raw video; --recheck downloads everything and compares checksums. Two runs
into one URL must have different shards: nothing locks it.

Check what came out with: python -m preprocess.verify --data_root prepared
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from preprocess.clip.make import ClipConfig, current_info, is_finished, prepare_clip
from preprocess.work.batch import BatchConfig, find_jobs, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import begin_with, stop_clock
from preprocess.work.ray_workers import ExecutorConfig
from preprocess.work.stores import StoredJob
from utils.clip.files import AUDIO_NAME, INFO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.config import opt, parse_command
from utils.errors import ClipError, run_command


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(ClipConfig, ExecutorConfig, BatchConfig):
    """python -m preprocess.prepare"""

    input: str | None = opt(None, "one video, or a folder that is searched for videos; a path or a URL")
    source: str | None = opt(None, "where that raw data set lies, in its own layout; a path or a URL")
    output: str = opt(dataclasses.MISSING, "folder of the prepared clips; a path or a URL")
    recheck: bool = opt(False, "with URLs: recognise finished clips by checksums, which downloads them")

    def __post_init__(self) -> None:
        ClipConfig.__post_init__(self)
        ExecutorConfig.__post_init__(self)
        BatchConfig.__post_init__(self)
        if self.recheck and not any("://" in str(place) for place in (self.input, self.source, self.output)):
            raise ValueError("recheck is for URLs; with paths, checksums are always compared")


def prepare_job(job: Job, config: PrepareConfig) -> str:
    """One video of the command: "done" or "already there"."""
    if isinstance(job, StoredJob):
        return _prepare_stored(job, config)
    if is_finished(job.source, job.folder, config, sound=job.sound):
        return "already there"
    # unfinished, stale or damaged: not to be mistaken for this source's clip if that fails
    job.remove_folder()
    prepare_clip(job.source, job.scratch, config, name=job.name, sound=job.sound)
    job.install_folder()
    return "done"


def _prepare_stored(job: StoredJob, config: PrepareConfig) -> str:
    """`prepare_job` for stores: only this one clip is ever on this machine."""
    there = job.prepared.clip_files(job.folder)
    if _is_stored(job, there, config):
        return "already there"
    if there:
        job.prepared.remove_clip(job.folder, job.scratch)
    source, sound = _fetch_raw(job)
    folder = job.scratch / "clip"
    folder.mkdir()
    try:
        prepare_clip(source, folder, config, name=job.name, sound=sound)
    except ClipError as error:
        if error.path != source:
            raise
        raise ClipError(job.source, error.reason) from error  # not where it lay for a moment
    stop_clock()
    job.prepared.install_clip(folder, job.folder)
    return "done"


def _is_stored(job: StoredJob, there: set[str], config: PrepareConfig) -> bool:
    """Whether the clip, of which the files `there` are on the store, is finished."""
    if not there >= {INFO_NAME, VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME}:
        return False
    names = there if config.recheck else {INFO_NAME}
    (folder,) = {job.prepared.fetch(job.folder / name, job.scratch / "there").parent for name in names}
    if config.recheck:
        source, sound = _fetch_raw(job)
        return is_finished(source, folder, config, sound=sound)
    info = current_info(job.source, folder, config)
    return (
        info is not None
        and job.raw.size(job.source) == info.source_bytes
        and (job.sound is not None) == bool(info.sound_sha256)
    )


def _fetch_raw(job: StoredJob) -> tuple[Path, Path | None]:
    """The raw video and its own sound file, if it has one, on this machine."""
    sound = job.sound and job.raw.fetch(job.sound, job.scratch / "sound")
    source = job.raw.fetch(job.source, job.scratch / "raw")
    begin_with(source)
    return source, sound


def main() -> int:
    config = parse_command(PrepareConfig, __doc__)
    return run_batch(find_jobs(config), prepare_job, config, done="prepared", run=config.runner())


if __name__ == "__main__":
    from preprocess import prepare  # by its own name, by which processes on other nodes find it

    run_command(prepare.main)
