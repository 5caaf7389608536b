"""Short talking-face videos, made by the demo code, for small trees in the layouts of real data sets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile

from preprocess.demo.animation import MAX_OPENING, Puppet, draw_background, draw_motion, render
from preprocess.demo.forgeries import resynthesise_mouth
from preprocess.demo.identities import make_identity
from preprocess.demo.speech import SAMPLE_RATE_HZ, draw_recording, draw_voice, record, revoice, speak
from utils.media.writer import VideoWriter

SIZE = 160
FPS = 25
DURATION_S = 0.8


class Media:
    """Writes videos. No two are alike: each draws its motion and words from a running number."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.num_written = 0
        self._puppets: dict[int, Puppet] = {}

    def make(
        self,
        identity: int,
        *,
        fake_video: bool = False,
        fake_audio: bool = False,
        duration_s: float = DURATION_S,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames (T, H, W, 3) uint8 and waveform (N,) float32 at SAMPLE_RATE_HZ of a person who talks."""
        self.num_written += 1
        rng = np.random.default_rng((self.seed, self.num_written))
        if identity not in self._puppets:
            self._puppets[identity] = Puppet(make_identity(np.random.default_rng((self.seed, 0, identity))))
        said = speak(draw_voice(rng, female=identity % 2 == 1), rng, duration_s=duration_s, onset_s=0.08)
        opening, rounding = said.mouth(FPS, round(duration_s * FPS))
        motion = draw_motion(opening, rounding, rng, size=SIZE, fps=FPS, scale=1.0)
        frames, landmarks = render(self._puppets[identity], motion, draw_background(rng, SIZE))
        if fake_video:
            frames = resynthesise_mouth(frames, landmarks, MAX_OPENING * rng.permutation(opening), rng)
        voice = revoice(said.waveform, SAMPLE_RATE_HZ, rng) if fake_audio else said.waveform
        return frames, record(voice, draw_recording(rng), rng)

    def video(
        self,
        path: Path,
        identity: int,
        *,
        fake_video: bool = False,
        fake_audio: bool = False,
        sound: Path | None = None,
        silent: bool = False,
    ) -> Path:
        """Write a video with its sound in it, in a wav file `sound` of its own, or `silent`."""
        frames, waveform = self.make(identity, fake_video=fake_video, fake_audio=fake_audio)
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, fps=Fraction(FPS), width=SIZE, height=SIZE) as writer:
            if sound is None and not silent:
                writer.add_audio_stream(SAMPLE_RATE_HZ)
            for frame in frames:
                writer.write(frame)
            if sound is None and not silent:
                writer.write_audio(waveform)
        if sound is not None:
            sound.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(sound, waveform, SAMPLE_RATE_HZ, subtype="PCM_16")
        return path


class EmptyFiles(Media):
    """The same calls, but every file is empty: for trees of published size, in which only names are read."""

    def video(self, path: Path, identity: int, **options: object) -> Path:
        """Touch `path`, and the sound file if one is asked for."""
        for file in (path, options.get("sound")):
            if isinstance(file, Path):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        return path
