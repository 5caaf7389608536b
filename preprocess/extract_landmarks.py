"""Step 2: the 478 landmarks of each frame of `cropped_video.mp4`, written as `landmarks.npy` next to it.

    python -m preprocess.extract_landmarks --data_root prepared

For clip folders that already have crops, from preprocess.crop_faces or another tool. Frames without a face
are NaN. `preprocess.prepare` finds the landmarks in the source's own pixels instead, before encoding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from preprocess.clip.crop import require_faces
from preprocess.faces.backends import backend_flag, new_face_mesh, with_backend
from preprocess.work.batch import FolderConfig, StepConfig, WorkConfig, find_folders, make_file, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from utils.clip.files import LANDMARKS_NAME, NUM_LANDMARKS, VIDEO_NAME
from utils.config import opt, parse_groups
from utils.errors import ClipError, run_command
from utils.media.times import read_video_times
from utils.media.video import iterate_frames


@dataclass(frozen=True, kw_only=True)
class ExtractLandmarksConfig(StepConfig):
    """python -m preprocess.extract_landmarks"""

    min_face_fraction: float = opt(0.8, "share of frames in which a face must be found")
    landmark_backend: str = backend_flag()


def extract(job: Job, config: ExtractLandmarksConfig) -> None:
    """Write (T, 478, 2) float32 landmarks of a crop, into the scratch folder.

    Raises ClipError if the crop cannot be decoded to its end, NoFaceError for too few frames with a face.
    """
    video = job.folder / VIDEO_NAME
    num_frames = len(read_video_times(video).starts_s)
    path, shape = job.scratch / LANDMARKS_NAME, (num_frames, NUM_LANDMARKS, 2)
    landmarks = np.lib.format.open_memmap(path, mode="w+", dtype="<f4", shape=shape, version=(1, 0))
    mesh = new_face_mesh(config.landmark_backend)
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
    require_faces(video, num_seen, num_frames, config.min_face_fraction)


def main() -> int:
    folders, own, work, limits = parse_groups(
        __doc__, FolderConfig, ExtractLandmarksConfig, WorkConfig, LimitConfig
    )
    own = with_backend(own)
    do = functools.partial(make_file, name=LANDMARKS_NAME, make=extract, config=own, overwrite=own.overwrite)
    return run_batch(find_folders(folders.data_root), do, work, limits)


if __name__ == "__main__":
    run_command(main)
