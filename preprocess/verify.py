"""Check every clip folder before a run is spent on them: what is missing, cut off, or does not fit together.

    python -m preprocess.verify --data_root prepared --num_workers 16
    python -m preprocess.verify --data_root prepared --deep --output bad_clips.csv

A clip folder is any folder with a clip's file in it; those that other tools made have no clip.json and are
checked by the rest. Picture, landmarks and sound must be equally long (the sound within one frame);
clip.json's checksums must be those of the files. --deep also decodes every frame and reads every landmark and
sample. Each problem is one line: path and reason. The exit status is 1 if there is any.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocess.work.batch import FolderBatchConfig, clip_folders, failures_csv
from preprocess.work.jobs import Job, write_atomically
from preprocess.work.workers import run_workers
from utils.clip.files import (
    AUDIO_NAMES,
    LANDMARKS_NAME,
    VIDEO_NAME,
    find_audio,
    open_landmarks,
    read_clip_info,
)
from utils.clip.sound import open_sound
from utils.config import opt, parse_command
from utils.errors import ClipError, UsageError, run_command
from utils.files import file_sha256
from utils.media.video import iterate_pictures, read_video_times

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 4096  # landmarks read at a time


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(FolderBatchConfig):
    """python -m preprocess.verify"""

    deep: bool = opt(False, "also decode every frame, and read every landmark and sample")
    audio_tolerance_s: float | None = opt(
        None, "how far the lengths of sound and picture may differ, in s; one frame if not given"
    )
    output: Path | None = opt(None, "CSV file for the problems: path, reason")


class _Problems:
    """Collects the ClipErrors of one folder, so that all of them are reported, not only the first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, []

    def __enter__(self) -> _Problems:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, ClipError):
            self.found.append((error.path, error.reason))
        return isinstance(error, ClipError)

    def add(self, name: str, reason: str) -> None:
        self.found.append((self.folder / name, reason))


def check_clip(folder: Path, *, deep: bool, audio_tolerance_s: float | None = None) -> list[tuple[Path, str]]:
    """All problems of one clip folder, as (path, reason); an empty list if it is sound."""
    problems = _Problems(folder)
    num_frames: int | None = None
    fps = Fraction(0)
    with problems:
        num_frames, fps = _check_video(folder / VIDEO_NAME, deep=deep)
    with problems:
        _check_landmarks(folder, num_frames, deep=deep)
    with problems:
        path = find_audio(folder)
        if num_frames is not None:
            _check_audio_length(path, num_frames, fps, audio_tolerance_s)
        if deep:
            _read_samples(path)
    with problems:
        _check_info(folder, num_frames, fps, problems)
    return problems.found


def _check_video(path: Path, *, deep: bool) -> tuple[int, Fraction]:
    """(frames, rate) of a crop."""
    if not path.is_file():
        raise ClipError(path, "missing; run preprocess.crop_faces")
    times = read_video_times(path)
    num_frames = len(times.starts_s)
    if not times.constant:
        raise ClipError(path, "its frame rate varies; prepare the clip again")
    if deep:
        num_decoded = sum(picture.rgb() is not None for _, picture in iterate_pictures(path))
        if num_decoded != num_frames:
            raise ClipError(path, f"{num_decoded} of {num_frames} frames can be decoded")
    return num_frames, times.fps


def _check_landmarks(folder: Path, num_frames: int | None, *, deep: bool) -> None:
    landmarks = open_landmarks(folder)
    path = folder / LANDMARKS_NAME
    if num_frames is not None and len(landmarks) != num_frames:
        raise ClipError(
            path,
            f"{len(landmarks)} landmark frames for {num_frames} video frames; run "
            "preprocess.extract_landmarks",
        )
    if not deep:
        return
    num_seen = 0
    for start in range(0, len(landmarks), FRAMES_AT_ONCE):
        piece = np.asarray(landmarks[start : start + FRAMES_AT_ONCE])
        if np.isinf(piece).any():
            raise ClipError(path, "holds infinite values; run preprocess.extract_landmarks")
        missing = np.isnan(piece).reshape(len(piece), -1)
        if (missing.any(axis=1) != missing.all(axis=1)).any():
            raise ClipError(path, "has frames with some landmarks only; run preprocess.extract_landmarks")
        num_seen += int((~missing[:, 0]).sum())
    if num_seen == 0:
        raise ClipError(path, "has no frame with a face")


def _check_audio_length(path: Path, num_frames: int, fps: Fraction, tolerance_s: float | None) -> None:
    with open_sound(path) as sound:
        found_s, wanted_s = sound.duration_s, num_frames / float(fps)
    # a little over a frame by default: tools round to whole samples each their own way
    allowed_s = 1.001 / float(fps) if tolerance_s is None else tolerance_s
    if abs(found_s - wanted_s) > allowed_s:
        raise ClipError(
            path, f"{found_s:.3f} s of sound for {wanted_s:.3f} s of picture; run preprocess.extract_audio"
        )


def _read_samples(path: Path) -> None:
    """Read a wav to its end."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            announced, num_read = file.frames, 0
            while len(samples := file.read(1 << 16, dtype="float32", always_2d=True)):
                num_read += len(samples)
                if not np.isfinite(samples).all():
                    raise ClipError(path, "holds samples that are not numbers; run preprocess.extract_audio")
    except soundfile.LibsndfileError as error:
        raise ClipError(path, f"cannot be read to its end ({error}); run preprocess.extract_audio") from error
    if num_read != announced:
        raise ClipError(path, f"{num_read} of {announced} samples are there; run preprocess.extract_audio")


def _check_info(folder: Path, num_frames: int | None, fps: Fraction, problems: _Problems) -> None:
    """clip.json against the files, if there is one."""
    info = read_clip_info(folder)
    if info is None:
        return
    for name, digest in sorted(info.files.items()):
        if not (folder / name).is_file():
            if name not in (VIDEO_NAME, LANDMARKS_NAME, *AUDIO_NAMES):  # those were missed above
                problems.add(name, "missing, though clip.json lists it; prepare the clip again")
        elif file_sha256(folder / name) != digest:
            problems.add(name, "not the file that clip.json describes (checksum); prepare the clip again")
    if num_frames is not None and (num_frames, fps) != (info.num_frames, info.fps_fraction):
        problems.add(
            VIDEO_NAME,
            f"{num_frames} frames at {fps}/s, but clip.json says {info.num_frames} at {info.fps}/s;"
            " prepare the clip again",
        )


def check_job(job: Job, config: VerifyConfig) -> str:
    """All problems of one clip folder, as JSON: [[path below the data root, reason], ...]."""
    found = check_clip(job.folder, deep=config.deep, audio_tolerance_s=config.audio_tolerance_s)
    return json.dumps([(str(path.relative_to(config.data_root)), reason) for path, reason in found])


def _require_writable(path: Path) -> None:
    """Make the folder of the CSV file. Raises OSError or UsageError now, not after hours of checking."""
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder; give the name of a CSV file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def main() -> int:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    config = parse_command(VerifyConfig, __doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    k, n = config.shard_numbers()
    folders = clip_folders(config.data_root)[k - 1 :: n]
    if config.output is not None:
        _require_writable(config.output)
    problems: list[tuple[str, str]] = []
    num_bad = 0
    jobs = [
        Job(name=str(folder.relative_to(config.data_root)), source=folder, folder=folder)
        for folder in folders
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "scratch"
        scratch.mkdir()
        results = run_workers(jobs, check_job, config, scratch, config.num_workers)
        results = stack.enter_context(contextlib.closing(results))
        for job, status, reason in tqdm(results, total=len(jobs), unit="clip", dynamic_ncols=True):
            found = [(job.name, reason)] if status == "failed" else json.loads(status)
            num_bad += bool(found)
            for problem in found:
                problems.append(tuple(problem))
                log.warning("%s: %s", *problem)
    if config.output is not None:
        write_atomically(config.output, failures_csv(problems), config.output.parent)
    log.info("%d clips checked, %d of them bad", len(folders), num_bad)
    return 1 if num_bad else 0


if __name__ == "__main__":
    run_command(main)
