"""Step 1: follow the face through a video and write it as `cropped_video.mp4`, 224x224, steady and square.

    python -m preprocess.crop_faces --input video.mp4 --output prepared
    python -m preprocess.crop_faces --dataset fakeavceleb --source RAW --output prepared

Writes OUTPUT/<path of the video>/cropped_video.mp4. Use `preprocess.prepare`, which does all steps in one
pass; this command is for looking at a single step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from preprocess.clip.crop import crop_face
from preprocess.faces.track import CropConfig
from preprocess.work.batch import InputConfig, WorkConfig, find_jobs, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from utils.clip.files import VIDEO_NAME
from utils.config import opt, parse_groups
from utils.errors import run_command
from utils.media.video import read_video_times


@dataclass(frozen=True, kw_only=True)
class CropFacesConfig:
    """python -m preprocess.crop_faces"""

    overwrite: bool = opt(False, "crop again where a crop exists")


def crop_job(job: Job, crop: CropConfig, overwrite: bool) -> str:
    """Crop one video: "done" or "already there"."""
    if (job.folder / VIDEO_NAME).is_file() and not overwrite:
        return "already there"
    crop_face(job.source, job.scratch, read_video_times(job.source), crop)
    job.install(VIDEO_NAME)
    return "done"


def main() -> int:
    inputs, own, crop, work, limits = parse_groups(
        __doc__, InputConfig, CropFacesConfig, CropConfig, WorkConfig, LimitConfig
    )
    inputs.require_paths()
    do = functools.partial(crop_job, crop=crop, overwrite=own.overwrite)
    return run_batch(find_jobs(inputs), do, work, limits)


if __name__ == "__main__":
    run_command(main)
