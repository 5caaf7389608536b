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
import functools
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.crop_faces import PictureChange, crop_face
from preprocess.extract_audio import AudioConfig, AudioReport, WaveformChange, extract_audio, require_sound
from preprocess.extract_landmarks import require_faces
from preprocess.faces.track import CropConfig
from preprocess.work.batch import BatchConfig, find_jobs, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import begin_with, stop_clock
from preprocess.work.ray_workers import ExecutorConfig
from preprocess.work.stores import StoredJob
from utils.clip.files import (
    AUDIO_NAME,
    INFO_NAME,
    LANDMARKS_NAME,
    LAYOUT_VERSION,
    VIDEO_NAME,
    ClipInfo,
    file_sha256,
    read_clip_info,
    write_clip_info,
)
from utils.config import opt, parse_command, to_plain
from utils.errors import ClipError, run_command
from utils.media.video import read_video_times

TOOLS = ("av", "mediapipe", "opencv-contrib-python", "soxr", "numpy")


@dataclass(frozen=True, kw_only=True)
class ClipConfig(CropConfig, AudioConfig):
    """preprocess/prepare.py: how one clip is made."""

    min_face_fraction: float = opt(0.8, "share of frames in which a face must be found")

    def __post_init__(self) -> None:
        CropConfig.__post_init__(self)
        AudioConfig.__post_init__(self)
        if not 0 <= self.min_face_fraction <= 1:
            raise ValueError(f"min_face_fraction must be between 0 and 1, got {self.min_face_fraction}")


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


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to a raw video on its way into a clip folder; see preprocess/perturb."""

    settings: dict[str, Any]  # further settings for clip.json, by which the clip is recognised
    pictures: PictureChange | None = None
    waveform: WaveformChange | None = None


# these say which clips are good enough, not what is in the files: a change of them makes no clip stale
_THRESHOLDS = ("min_face_fraction", "max_missing_audio_s", "allow_silent")


def clip_settings(config: ClipConfig, change: Change | None = None) -> dict[str, Any]:
    """The flags that shape a clip's files, as they stand in clip.json."""
    names = {field.name for field in dataclasses.fields(ClipConfig)} - set(_THRESHOLDS)
    settings = {name: value for name, value in sorted(to_plain(config).items()) if name in names}
    return settings | (change.settings if change else {})


def prepare_clip(
    source: Path,
    folder: Path,
    config: ClipConfig,
    *,
    name: str | None = None,
    sound: Path | None = None,
    change: Change | None = None,
) -> ClipInfo:
    """Make a clip folder's four files in `folder`, which must exist and be empty; return what clip.json says.

    `name` is what clip.json calls the source (default: its file name); `sound` is a file of its own that
    holds its sound; `change` is done to full frames and sound. Raises ClipError if the video cannot
    be used; `folder` may then hold temporary files.
    """
    times = read_video_times(source)
    change_waveform = change.waveform if change else None
    audio = extract_audio(  # first: quick to fail
        source, folder / AUDIO_NAME, times, config, sound=sound, change=change_waveform
    )
    crop = crop_face(source, folder, times, config, change.pictures if change else None)
    info = ClipInfo(
        layout_version=LAYOUT_VERSION,
        source=name or source.name,
        source_sha256=file_sha256(source),
        source_bytes=source.stat().st_size,
        source_codecs=times.codecs,
        sound_sha256="" if sound is None else file_sha256(sound),
        source_width=crop.width,
        source_height=crop.height,
        source_fps=str(times.fps),
        variable_frame_rate=not times.constant,
        fps=str(times.fps),
        num_frames=crop.num_frames,
        face_boxes=crop.face_boxes,
        frames_without_face=crop.frames_without_face,
        num_face_tracks=crop.num_face_tracks,
        sample_rate_hz=config.sample_rate_hz,
        audio_start_s=audio.start_s,
        audio_padded_s=audio.padded_s,
        silent=audio.silent,
        settings=clip_settings(config, change),
        tools=_tool_versions(),
        files={file: file_sha256(folder / file) for file in (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME)},
    )
    require_usable(source, info, config)
    write_clip_info(folder, info)
    return info


@functools.cache
def _tool_versions() -> dict[str, str]:
    return {tool: importlib.metadata.version(tool) for tool in TOOLS}


def require_usable(path: Path, info: ClipInfo, config: ClipConfig) -> None:
    """Raise ClipError if a clip does not meet the thresholds of `config`."""
    num_seen = info.num_frames - len(info.frames_without_face)
    require_faces(path, num_seen, info.num_frames, config.min_face_fraction)
    audio = AudioReport(start_s=info.audio_start_s, padded_s=info.audio_padded_s, silent=info.silent)
    require_sound(path, audio, config)


def is_finished(
    source: Path,
    folder: Path,
    config: ClipConfig,
    *,
    sound: Path | None = None,
    change: Change | None = None,
) -> bool:
    """Whether `folder` holds what `prepare_clip` would make today of this very source file."""
    info = _current_info(source, folder, config, change)
    return (
        info is not None
        and all((folder / file).is_file() for file in info.files)
        and all(file_sha256(folder / file) == digest for file, digest in info.files.items())
        and source.is_file()
        and file_sha256(source) == info.source_sha256
        and ("" if sound is None else file_sha256(sound)) == info.sound_sha256
    )


def _current_info(
    source: Path, folder: Path, config: ClipConfig, change: Change | None = None
) -> ClipInfo | None:
    """clip.json of a folder if it says what today's flags ask for."""
    try:
        info = read_clip_info(folder)
        if info is None:
            return None
        require_usable(source, info, config)
    except ClipError:
        return None
    current = (
        info.layout_version == LAYOUT_VERSION
        and info.settings == clip_settings(config, change)
        and set(info.files) == {VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME}
    )
    return info if current else None


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
    info = _current_info(job.source, folder, config)
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
