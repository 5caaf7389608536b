"""Check every clip before training: which files are missing, cut off, or do not fit together.

    python -m preprocess.verify --data_root prepared --num_workers 16
    python -m preprocess.verify --data_root prepared --deep --output bad_clips.csv

A clip folder is any folder with a clip's file in it, also in a pack or where a link leads. Picture, landmarks
and sound must be equally long (the sound within one frame) and long enough for training, and the files must
have the checksums of clip.json; folders from other tools have none. --deep also decodes every frame and reads
every landmark, sample and cached feature. Each problem is one line: path and reason. Several landmark
backends in one set are a problem of the whole. The exit status is 1 if there is one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocess.work.batch import FolderConfig, WorkConfig, find_folders
from preprocess.work.jobs import CLIP_FILES, Job
from preprocess.work.limits import LimitConfig
from preprocess.work.progress import failures_csv, with_progress
from preprocess.work.workers import run_workers
from utils.clip.backends import backend_of, describe_mixture
from utils.clip.features import check_features, list_features
from utils.clip.files import (
    LANDMARKS_NAME,
    VIDEO_NAME,
    find_audio,
    open_landmarks,
    read_clip_info,
    read_info_values,
    require_long_enough,
)
from utils.clip.frames import read_frames, read_video_header
from utils.clip.packed import FRAMES_NAME, clip_names, find_member, open_member
from utils.clip.sound import open_sound
from utils.config import opt, parse_groups
from utils.errors import ClipError, UsageError, run_command
from utils.files import file_sha256, write_atomically
from utils.media.times import read_video_times
from utils.media.video import iterate_pictures

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 4096  # landmarks read at a time


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """python -m preprocess.verify"""

    deep: bool = opt(False, "also decode every frame, and read every landmark and sample")
    audio_tolerance_s: float | None = opt(
        None, "how far the lengths of sound and picture may differ, in s; default: one frame"
    )
    output: Path | None = opt(None, "CSV file for the problems, with the columns path and reason")


Problems = list[tuple[Path, str]]  # path, reason


@contextlib.contextmanager
def _noted_in(problems: Problems) -> Iterator[None]:
    """Append a ClipError instead of raising it: all problems of a clip are reported, not only the first."""
    try:
        yield
    except ClipError as error:
        problems.append((error.path, error.reason))


def check_clip(folder: Path, *, deep: bool, audio_tolerance_s: float | None = None) -> Problems:
    """All problems of one clip folder, packed or not, as (path, reason)."""
    problems: Problems = []
    num_frames: int | None = None
    fps = Fraction(0)
    with _noted_in(problems):
        num_frames, fps = _check_video(folder / VIDEO_NAME, deep=deep)
    with _noted_in(problems):
        if num_frames is not None:
            require_long_enough(folder / VIDEO_NAME, num_frames, fps)
    with _noted_in(problems):
        _check_landmarks(folder, num_frames, deep=deep)
    with _noted_in(problems):
        path = find_audio(folder)
        if num_frames is not None:
            _check_audio_length(path, num_frames, fps, audio_tolerance_s)
        if deep:
            _read_samples(path)
    with _noted_in(problems):
        _check_info(folder, num_frames, fps, problems)
    for name in list_features(folder):
        with _noted_in(problems):
            check_features(folder, name, deep=deep)
    return problems


def _check_video(path: Path, *, deep: bool) -> tuple[int, Fraction]:
    """(frames, rate) of a crop."""
    if find_member(path.with_name(FRAMES_NAME)):  # decoded already
        fps, num_frames = read_video_header(path)
        read_frames(path, np.array([num_frames - 1]))
        return num_frames, fps
    if not (path.is_file() or find_member(path)):
        raise ClipError(path, "missing; run preprocess.crop_faces")
    times = read_video_times(path, open_member(path))
    num_frames = len(times.starts_s)
    if not times.constant:
        raise ClipError(path, "its frame rate varies; prepare the clip again")
    if deep:
        pictures = iterate_pictures(path, open_member(path))
        num_decoded = sum(picture.rgb() is not None for _, picture in pictures)
        if num_decoded != num_frames:
            raise ClipError(path, f"{num_decoded} of {num_frames} frames can be decoded")
    return num_frames, times.fps


def _check_landmarks(folder: Path, num_frames: int | None, *, deep: bool) -> None:
    landmarks = open_landmarks(folder)
    path = folder / LANDMARKS_NAME
    if num_frames is not None and len(landmarks) != num_frames:
        found = f"{len(landmarks)} landmark frames for {num_frames} video frames"
        raise ClipError(path, f"{found}; run preprocess.extract_landmarks")
    if not deep:
        return
    has_face = False
    for start in range(0, len(landmarks), FRAMES_AT_ONCE):
        piece = np.asarray(landmarks[start : start + FRAMES_AT_ONCE])
        if np.isinf(piece).any():
            raise ClipError(path, "holds infinite values; run preprocess.extract_landmarks")
        missing = np.isnan(piece).reshape(len(piece), -1)
        if (missing.any(axis=1) != missing.all(axis=1)).any():
            raise ClipError(path, "holds frames with only some landmarks; run preprocess.extract_landmarks")
        has_face |= not missing.all()
    if not has_face:
        raise ClipError(path, "holds no frame with a face")


def _check_audio_length(path: Path, num_frames: int, fps: Fraction, tolerance_s: float | None) -> None:
    with open_sound(path) as sound:
        found_s, wanted_s = sound.duration_s, num_frames / float(fps)
    # a little over a frame by default: tools round to whole samples in different ways
    allowed_s = 1.001 / float(fps) if tolerance_s is None else tolerance_s
    if abs(found_s - wanted_s) > allowed_s:
        found = f"{found_s:.3f} s of sound for {wanted_s:.3f} s of picture"
        raise ClipError(path, f"{found}; run preprocess.extract_audio")


def _read_samples(path: Path) -> None:
    """Read a wav to its end, so that damage shows."""
    import soundfile

    try:
        with soundfile.SoundFile(open_member(path) or path) as file:
            announced, num_read = file.frames, 0
            while len(samples := file.read(1 << 16, dtype="float32", always_2d=True)):
                num_read += len(samples)
                if not np.isfinite(samples).all():
                    raise ClipError(path, "holds samples that are not finite; run preprocess.extract_audio")
    except soundfile.LibsndfileError as error:
        raise ClipError(path, f"cannot be read to its end ({error}); run preprocess.extract_audio") from error
    if num_read != announced:
        raise ClipError(path, f"cut off: {num_read} of {announced} samples; run preprocess.extract_audio")


def _check_info(folder: Path, num_frames: int | None, fps: Fraction, problems: Problems) -> None:
    """Compare clip.json with the files, if there is one."""
    info = read_clip_info(folder)
    if info is None:
        return
    present = set(clip_names(folder))
    decoded = {VIDEO_NAME} if find_member(folder / FRAMES_NAME) else set()  # packed frames have no checksum
    for name, digest in sorted(info.files.items()):
        if name not in present:
            if name not in CLIP_FILES:  # these were reported above
                problems.append((folder / name, "missing, though clip.json lists it; prepare the clip again"))
        elif name not in decoded:
            path = folder / name
            try:
                if file_sha256(open_member(path) or path) != digest:
                    problems.append((path, "checksum differs from clip.json; prepare the clip again"))
            except OSError as error:  # a folder, for example
                problems.append((path, f"cannot be read: {error.strerror or error}; prepare the clip again"))
    if num_frames is not None and (num_frames, fps) != (info.num_frames, Fraction(info.fps)):
        reason = f"{num_frames} frames at {fps}/s, but clip.json says {info.num_frames} at {info.fps}/s"
        problems.append((folder / VIDEO_NAME, f"{reason}; prepare the clip again"))


def check_job(job: Job, data_root: Path, config: VerifyConfig) -> str:
    """A clip's landmark backend and its problems, as JSON: [name, [[path below the root, reason], ...]]."""
    found = check_clip(job.folder, deep=config.deep, audio_tolerance_s=config.audio_tolerance_s)
    backend = ""
    with contextlib.suppress(ClipError):  # it is among the problems
        backend = backend_of(read_info_values(job.folder))
    return json.dumps((backend, [(str(path.relative_to(data_root)), reason) for path, reason in found]))


def _require_writable(path: Path) -> None:
    """Make the folder of the CSV file. Raises OSError or UsageError before hours of checking, not after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--output {path} is a folder, or in one that is not writable; name a CSV file")


def main() -> int:
    folders, own, work, limits = parse_groups(__doc__, FolderConfig, VerifyConfig, WorkConfig, LimitConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    jobs = work.take_shard(find_folders(folders.data_root, packed=True).jobs)
    if own.output is not None:
        _require_writable(own.output)
    problems: list[tuple[str, str]] = []
    num_bad = 0
    backends: Counter[str] = Counter()
    do = functools.partial(check_job, data_root=folders.data_root, config=own)
    with tempfile.TemporaryDirectory() as temporary:
        outcomes = run_workers(jobs, do, limits, Path(temporary) / "scratch", work.num_workers)
        with with_progress(outcomes, len(jobs)) as shown:
            for job, status, reason in shown:
                backend, found = ("", [(job.name, reason)]) if status == "failed" else json.loads(status)
                backends[backend] += 1
                num_bad += bool(found)
                problems += found
                for path, why in found:
                    log.warning("%s: %s", path, why)
    del backends[""]
    if mixture := describe_mixture(backends):
        problems.append((".", mixture))
        log.warning("%s: %s", folders.data_root, mixture)
    if own.output is not None:
        table = failures_csv(problems)
        write_atomically(own.output, lambda partial: partial.write_bytes(table))
    log.info("%d clips checked, %d bad", len(jobs), num_bad)
    return 1 if problems else 0


if __name__ == "__main__":
    run_command(main)
