"""Perturb one video, to look at it and listen to it.

    python -m preprocess.perturb --input clip.mp4 --output out.mp4 --kind blur --level 3

Writes the full frames with their sound. Picture kinds: saturation, contrast, block, noise, blur, pixelation,
h264, jpeg, resolution. Sound kinds: white_noise, speech_noise, resampling, aac, mp3, opus, reverberation,
pitch_up, pitch_down, gain, clipping; av_offset delays the sound. Both at once: blur+white_noise. The file is
encoded almost without loss (sound: AAC at 192 kbit/s), except for h264, where the encode is the perturbation.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from preprocess.clip.schedule import iterate_schedule
from preprocess.clip.sound import AudioConfig, extract_audio
from preprocess.perturb.kinds import PICTURE, Perturbation
from preprocess.perturb.variants import change_of, write_h264
from preprocess.work.limits import PERTURBED, LimitConfig
from preprocess.work.workers import call_limited
from utils.config import opt, parse_groups
from utils.errors import UsageError, run_command
from utils.files import write_atomically
from utils.media.times import read_video_times

LOOK_CRF = 12  # no visible loss


@dataclass(frozen=True, kw_only=True)
class PerturbConfig:
    """python -m preprocess.perturb"""

    input: Path = opt(dataclasses.MISSING, "a raw video")
    output: Path = opt(dataclasses.MISSING, "the perturbed video, *.mp4")
    kind: str = opt(dataclasses.MISSING, "a perturbation, or one of the picture + one of the sound")
    level: int = opt(3, "1 (weak) to 5 (strong), 4 for resampling; 0 = untouched")

    def __post_init__(self) -> None:
        Perturbation(self.kind, self.level)
        if self.output.suffix.lower() != ".mp4":
            raise ValueError(f"output must end with .mp4, got {self.output}")


def write_perturbed(source: Path, output: Path, perturbation: Perturbation) -> None:
    """Write the whole video, perturbed, with its sound; it is decoded once."""
    times = read_video_times(source)
    change = change_of(perturbation, source.name)
    crf, picture_part = LOOK_CRF, perturbation.part(PICTURE)
    if picture_part and picture_part[0] == "h264":  # encoded once: here
        crf, change = int(picture_part[1]), dataclasses.replace(change, pictures=None)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sound = scratch / "sound.wav"
        config = AudioConfig(allow_silent=True, max_missing_audio_s=float("inf"))
        silent = extract_audio(source, sound, times, config, change=change.waveform).silent
        frames = iterate_schedule(source, times)
        if change.pictures is not None:
            frames = change.pictures(frames, times.fps, scratch)
        write_h264(output, frames, times.fps, crf, None if silent else sound)


def main() -> None:
    config, limits = parse_groups(__doc__, PerturbConfig, LimitConfig)
    if config.output.resolve() == config.input.resolve():
        raise UsageError("--output must not be the input")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    source, perturbation = config.input, Perturbation(config.kind, config.level)

    guard = {"source": source, "limits": limits, "effort": PERTURBED}
    write_atomically(
        config.output, lambda path: call_limited(write_perturbed, source, path, perturbation, **guard)
    )


if __name__ == "__main__":
    from preprocess.perturb import __main__ as perturb  # by the name under which another process finds it

    run_command(perturb.main)
