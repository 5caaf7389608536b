"""Short talking-face videos, made by the demo code, for small trees in the layouts of real data sets."""

from __future__ import annotations

import functools
from collections import Counter
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
DURATION_S = 0.6


@functools.cache
def _puppet(seed: int, identity: int) -> Puppet:
    return Puppet(make_identity(np.random.default_rng((seed, 0, identity))))


@functools.lru_cache(maxsize=256)  # 2 MB each
def _take(
    seed: int, identity: int, fake_video: bool, fake_audio: bool, duration_s: float, number: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((seed, number, identity, fake_video, fake_audio))
    said = speak(draw_voice(rng, female=identity % 2 == 1), rng, duration_s=duration_s, onset_s=0.08)
    opening, rounding = said.mouth(FPS, round(duration_s * FPS))
    motion = draw_motion(opening, rounding, rng, size=SIZE, fps=FPS, scale=1.0)
    frames, landmarks = render(_puppet(seed, identity), motion, draw_background(rng, SIZE))
    if fake_video:
        frames = resynthesise_mouth(frames, landmarks, MAX_OPENING * rng.permutation(opening), rng)
    voice = revoice(said.waveform, SAMPLE_RATE_HZ, rng) if fake_audio else said.waveform
    return frames, record(voice, draw_recording(rng), rng)


class Media:
    """Writes videos. No two are alike: each take of a person has its own motion and words.

    Trees of one process share what they draw: the n-th such take of a person is the same in all of them.
    """

    def __init__(self, seed: int = 0, *, duration_s: float = DURATION_S) -> None:
        self.seed, self.duration_s = seed, duration_s
        self._num_takes: Counter[tuple[object, ...]] = Counter()

    def make(
        self,
        identity: int,
        *,
        fake_video: bool = False,
        fake_audio: bool = False,
        duration_s: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames (T, H, W, 3) uint8 and waveform (N,) float32 at SAMPLE_RATE_HZ of a person who talks."""
        kind = (self.seed, identity, fake_video, fake_audio, duration_s or self.duration_s)
        self._num_takes[kind] += 1
        return _take(*kind, self._num_takes[kind])

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
