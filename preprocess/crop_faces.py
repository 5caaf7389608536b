"""Step 1: follow the face through a video and write it as `cropped_video.mp4`, 224x224, steady and square.

    python -m preprocess.crop_faces --input video.mp4 --output prepared
    python -m preprocess.crop_faces --dataset fakeavceleb --source RAW --output prepared

Writes OUTPUT/<path of the video>/cropped_video.mp4. `preprocess.prepare` does this and the other steps in one
pass and should be preferred; this command is for looking at one step.
"""

from __future__ import annotations

from dataclasses import dataclass

from preprocess.clip.crop import crop_face
from preprocess.faces.track import CropConfig
from preprocess.work.batch import BatchConfig, find_jobs, run_batch
from preprocess.work.jobs import Job
from utils.clip.files import VIDEO_NAME
from utils.config import opt, parse_command
from utils.errors import run_command
from utils.media.video import read_video_times


@dataclass(frozen=True, kw_only=True)
class CropFacesConfig(CropConfig, BatchConfig):
    """python -m preprocess.crop_faces"""

    overwrite: bool = opt(False, "crop anew where a crop is there already")

    def __post_init__(self) -> None:
        CropConfig.__post_init__(self)
        BatchConfig.__post_init__(self)


def crop_job(job: Job, config: CropFacesConfig) -> str:
    """One video of the command: "done" or "already there"."""
    if (job.folder / VIDEO_NAME).is_file() and not config.overwrite:
        return "already there"
    crop_face(job.source, job.scratch, read_video_times(job.source), config)
    job.install(VIDEO_NAME)
    return "done"


def main() -> int:
    config = parse_command(CropFacesConfig, __doc__)
    return run_batch(find_jobs(config), crop_job, config)


if __name__ == "__main__":
    run_command(main)
