"""Step 1: follow the face through a video and write it as `cropped_video.mp4`, 224x224, steady and square.

    python -m preprocess.crop_faces --input video.mp4 --output prepared
    python -m preprocess.crop_faces --dataset fakeavceleb --source RAW --output prepared

Writes OUTPUT/<path of the video>/cropped_video.mp4. Use `preprocess.prepare`, which does all steps in one
pass; this command is for looking at a single step.
"""

from __future__ import annotations

import functools

from preprocess.clip.crop import crop_face
from preprocess.faces.backends import with_backend
from preprocess.faces.track import CropConfig
from preprocess.work.batch import InputConfig, StepConfig, WorkConfig, find_jobs, make_file, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from utils.clip.files import VIDEO_NAME
from utils.config import parse_groups
from utils.errors import run_command
from utils.media.times import read_video_times


def crop(job: Job, config: CropConfig) -> None:
    """Crop the face of one video, into the scratch folder."""
    crop_face(job.source, job.scratch, read_video_times(job.source), config)


def main() -> int:
    inputs, step, config, work, limits = parse_groups(
        __doc__, InputConfig, StepConfig, CropConfig, WorkConfig, LimitConfig
    )
    inputs.require_paths()
    config = with_backend(config)
    do = functools.partial(make_file, name=VIDEO_NAME, make=crop, config=config, overwrite=step.overwrite)
    return run_batch(find_jobs(inputs), do, work, limits)


if __name__ == "__main__":
    run_command(main)
