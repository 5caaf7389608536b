"""Step 3: the sound track as `cropped_video.wav`: mono, PCM16, exactly as long as the picture.

    python -m preprocess.extract_audio --input video.mp4 --output prepared
    python -m preprocess.extract_audio --dataset fakeavceleb --source RAW --output prepared

The sound is placed by its own start time: sample 0 belongs to the first frame. What is missing at either end
is silence; more than `--max_missing_audio_s` of it is a failure, and so is a video without sound.
"""

from __future__ import annotations

from dataclasses import dataclass

from preprocess.clip.sound import AudioConfig, extract_audio
from preprocess.work.batch import BatchConfig, find_jobs, run_batch
from preprocess.work.jobs import Job
from utils.clip.files import AUDIO_NAME
from utils.config import opt, parse_command
from utils.errors import run_command
from utils.media.video import read_video_times


@dataclass(frozen=True, kw_only=True)
class ExtractAudioConfig(AudioConfig, BatchConfig):
    """python -m preprocess.extract_audio"""

    overwrite: bool = opt(False, "extract anew where a wav is there already")

    def __post_init__(self) -> None:
        AudioConfig.__post_init__(self)
        BatchConfig.__post_init__(self)


def audio_job(job: Job, config: ExtractAudioConfig) -> str:
    """One video of the command: "done" or "already there"."""
    if (job.folder / AUDIO_NAME).is_file() and not config.overwrite:
        return "already there"
    times = read_video_times(job.source)
    extract_audio(job.source, job.scratch / AUDIO_NAME, times, config, sound=job.sound)
    job.install(AUDIO_NAME)
    return "done"


def main() -> int:
    config = parse_command(ExtractAudioConfig, __doc__)
    return run_batch(find_jobs(config), audio_job, config)


if __name__ == "__main__":
    run_command(main)
