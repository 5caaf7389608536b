"""Step 3: the sound track as `cropped_video.wav`: mono, PCM16, exactly as long as the picture.

    python -m preprocess.extract_audio --input video.mp4 --output prepared
    python -m preprocess.extract_audio --dataset fakeavceleb --source RAW --output prepared

Sample 0 belongs to the first frame, by the time stamps of the container. Missing sound at either end becomes
silence; more than `--max_missing_audio_s` of it is a failure, and so is a video without sound.
"""

from __future__ import annotations

import functools

from preprocess.clip.sound import AudioConfig, extract_audio
from preprocess.work.batch import InputConfig, StepConfig, WorkConfig, find_jobs, make_file, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from utils.clip.files import AUDIO_NAME
from utils.config import parse_groups
from utils.errors import run_command
from utils.media.times import read_video_times


def extract(job: Job, config: AudioConfig) -> None:
    """Extract the sound of one video, into the scratch folder."""
    times = read_video_times(job.source)
    extract_audio(job.source, job.scratch / AUDIO_NAME, times, config, sound=job.sound)


def main() -> int:
    inputs, step, config, work, limits = parse_groups(
        __doc__, InputConfig, StepConfig, AudioConfig, WorkConfig, LimitConfig
    )
    inputs.require_paths()
    do = functools.partial(make_file, name=AUDIO_NAME, make=extract, config=config, overwrite=step.overwrite)
    return run_batch(find_jobs(inputs), do, work, limits)


if __name__ == "__main__":
    run_command(main)
