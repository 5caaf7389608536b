"""Step 2: the 478 landmarks of each frame of `cropped_video.mp4`, written as `landmarks.npy` next to it.

    python -m preprocess.extract_landmarks --data_root prepared

For clip folders that already have crops, from preprocess.crop_faces or another tool. Frames without a face
are NaN. `preprocess.prepare` finds the landmarks in the source's own pixels instead, before encoding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.clip.crop import require_faces
from preprocess.faces.mesh import FaceMesh
from preprocess.work.batch import Batch, FolderConfig, WorkConfig, find_folder_jobs, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from preprocess.work.stores import LocalStore
from utils.clip.files import LANDMARKS_NAME, NUM_LANDMARKS, VIDEO_NAME
from utils.config import opt, parse_groups
from utils.errors import ClipError, run_command
from utils.media.video import iterate_frames, read_video_times


@dataclass(frozen=True, kw_only=True)
class ExtractLandmarksConfig:
    """python -m preprocess.extract_landmarks"""

    min_face_fraction: float = opt(0.8, "share of frames in which a face must be found")
    overwrite: bool = opt(False, "extract again where landmarks exist")


def extract_landmarks(video: Path, path: Path) -> tuple[int, int]:
    """Write (T, 478, 2) float32 landmarks of a crop to `path`; return (frames with a face, T).

    Raises ClipError if the crop cannot be decoded to its end.
    """
    num_frames = len(read_video_times(video).starts_s)
    landmarks = np.lib.format.open_memmap(
        path, mode="w+", dtype="<f4", shape=(num_frames, NUM_LANDMARKS, 2), version=(1, 0)
    )
    mesh = FaceMesh()
    num_seen = index = 0
    for index, (_, image) in enumerate(iterate_frames(video), start=1):
        if index > num_frames:
            break
        found = mesh(image)
        landmarks[index - 1] = np.nan if found is None else found
        num_seen += found is not None
    landmarks.flush()
    if index != num_frames:
        raise ClipError(video, f"{index} of {num_frames} frames can be decoded; crop the face again")
    return num_seen, num_frames


def landmarks_job(job: Job, config: ExtractLandmarksConfig) -> str:
    """Extract the landmarks of one clip folder: "done" or "already there"."""
    if (job.folder / LANDMARKS_NAME).is_file() and not config.overwrite:
        return "already there"
    video = job.folder / VIDEO_NAME
    num_seen, num_frames = extract_landmarks(video, job.scratch / LANDMARKS_NAME)
    require_faces(video, num_seen, num_frames, config.min_face_fraction)
    job.install(LANDMARKS_NAME)
    return "done"


def main() -> int:
    folders, own, work, limits = parse_groups(
        __doc__, FolderConfig, ExtractLandmarksConfig, WorkConfig, LimitConfig
    )
    batch = Batch(jobs=find_folder_jobs(folders.data_root), output=LocalStore(folders.data_root))
    return run_batch(batch, functools.partial(landmarks_job, config=own), work, limits)


if __name__ == "__main__":
    run_command(main)
