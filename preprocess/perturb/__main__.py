"""Perturb one video, to look at it and listen to it.

    python -m preprocess.perturb --input clip.mp4 --output out.mp4 --kind blur --level 3

Writes the full frames with their sound. Picture kinds: saturation, contrast, block, noise, blur, pixelation,
h264, jpeg, resolution. Sound kinds: white_noise, speech_noise, resampling, aac, mp3, opus, reverberation,
pitch_up, pitch_down, gain, clipping; av_offset makes the sound late. Both at once: blur+white_noise. The file
is encoded almost without loss (sound: AAC at 192 kbit/s), but with h264 it is the encode in question.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from preprocess.clip.schedule import iterate_schedule
from preprocess.clip.sound import AudioConfig, extract_audio
from preprocess.perturb.kinds import PICTURE, Perturbation
from preprocess.perturb.variants import X264_KEYFRAMES, X264_PRESET, change_of
from preprocess.work.limits import PERTURBED, LimitConfig
from preprocess.work.workers import call_limited
from utils.clip.sound import read_waveform
from utils.config import opt, parse_command
from utils.errors import UsageError, run_command
from utils.files import write_atomically
from utils.media.video import read_video_times
from utils.media.writer import VideoWriter

LOOK_CRF = 12  # far below what an eye sees


@dataclass(frozen=True, kw_only=True)
class PerturbConfig(LimitConfig):
    """python -m preprocess.perturb"""

    input: Path = opt(dataclasses.MISSING, "a raw video")
    output: Path = opt(dataclasses.MISSING, "the perturbed video, *.mp4")
    kind: str = opt(dataclasses.MISSING, "a perturbation, or one of the picture + one of the sound")
    level: int = opt(3, "1 (weak) to 5 (strong), 4 for resampling; 0 = untouched")

    def __post_init__(self) -> None:
        LimitConfig.__post_init__(self)
        Perturbation(self.kind, self.level)
        if self.output.suffix.lower() != ".mp4":
            raise ValueError(f"output must end with .mp4, got {self.output}")


def write_perturbed(source: Path, output: Path, perturbation: Perturbation) -> None:
    """The whole video, perturbed, with its sound. Decodes it once."""
    times = read_video_times(source)
    change = change_of(perturbation, source.name)
    crf, picture_part = LOOK_CRF, perturbation.part(PICTURE)
    if picture_part and picture_part[0] == "h264":  # encoded once: here
        crf, change = int(picture_part[1]), dataclasses.replace(change, pictures=None)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        config = AudioConfig(allow_silent=True, max_missing_audio_s=float("inf"))
        sound_path = scratch / "sound.wav"
        sound = extract_audio(source, sound_path, times, config, change=change.waveform)
        frames = iterate_schedule(source, times)
        if change.pictures is not None:
            frames = change.pictures(frames, times.fps, scratch)
        writer = None
        for frame in frames:
            if writer is None:
                writer = VideoWriter(
                    output, fps=times.fps, width=frame.width, height=frame.height, crf=crf,
                    keyframe_interval=X264_KEYFRAMES, preset=X264_PRESET,
                )  # fmt: skip
                if not sound.silent:
                    writer.add_audio_stream(config.sample_rate_hz, bit_rate=192_000)
            writer.write_picture(frame)
        if not sound.silent:
            writer.write_audio(read_waveform(sound_path, config.sample_rate_hz))
        writer.close()


def main() -> int:
    config = parse_command(PerturbConfig, __doc__)
    if config.output.resolve() == config.input.resolve():
        raise UsageError("--output must not be the input")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    perturbation = Perturbation(config.kind, config.level)
    write_atomically(
        config.output,
        lambda partial: call_limited(
            write_perturbed, config.input, partial, perturbation,
            source=config.input, limits=config, effort=PERTURBED,
        ),
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    from preprocess.perturb import __main__ as perturb  # by its own name, by which another process finds it

    run_command(perturb.main)
