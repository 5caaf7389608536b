"""Step 3: the sound track as `cropped_video.wav`: mono, PCM16, exactly as long as the picture.

    python -m preprocess.extract_audio --input video.mp4 --output prepared
    python -m preprocess.extract_audio --dataset fakeavceleb --source RAW --output prepared

Sample 0 belongs to the first frame, by the time stamps of the container. Missing sound at either end becomes
silence; more than `--max_missing_audio_s` of it is a failure, and so is a video without sound.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from preprocess.clip.sound import AudioConfig, extract_audio
from preprocess.work.batch import InputConfig, WorkConfig, find_jobs, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from utils.clip.files import AUDIO_NAME
from utils.config import opt, parse_groups
from utils.errors import run_command
from utils.media.video import read_video_times


@dataclass(frozen=True, kw_only=True)
class ExtractAudioConfig:
    """python -m preprocess.extract_audio"""

    overwrite: bool = opt(False, "extract again where a wav exists")


def audio_job(job: Job, audio: AudioConfig, overwrite: bool) -> str:
    """Extract the sound of one video: "done" or "already there"."""
    if (job.folder / AUDIO_NAME).is_file() and not overwrite:
        return "already there"
    times = read_video_times(job.source)
    extract_audio(job.source, job.scratch / AUDIO_NAME, times, audio, sound=job.sound)
    job.install(AUDIO_NAME)
    return "done"


def main() -> int:
    inputs, own, audio, work, limits = parse_groups(
        __doc__, InputConfig, ExtractAudioConfig, AudioConfig, WorkConfig, LimitConfig
    )
    inputs.require_paths()
    do = functools.partial(audio_job, audio=audio, overwrite=own.overwrite)
    return run_batch(find_jobs(inputs), do, work, limits)


if __name__ == "__main__":
    run_command(main)
