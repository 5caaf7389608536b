"""What the demo set is made of: flags, scenes, forgeries, planned clips.

A fake is made from a genuine clip ("scene") of its identity and keeps the scene's room, light, camera,
microphone and encoder setting, so that none of these can tell real from fake. `layouts.py` decides which
clips there are and how they are called.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from preprocess.demo.speech import Recording, draw_recording
from utils.config import opt, require_at_least

GENERATOR_VERSION = 2  # increase it when the same seed gives other pictures or sounds
ENCODER_VERSION = 2  # increase it when the same pictures and sounds give other files
FPS = 25
SEGMENT_S = (0.3, 1.0)  # how long a clip is forged, of a data set that forges parts
Change = Literal["face", "lips", "voice"]  # what a forger swaps, re-synthesises, replaces


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """preprocess.demo: a generated raw data set in a real one's download layout."""

    output: Path = opt(dataclasses.MISSING, "folder to write; becomes the root of the raw data set")
    layout: str = opt(
        "fakeavceleb",
        "data set whose folders, names, metadata and forgeries are imitated: fakeavceleb and kodf have 3 "
        "genuine and 5 fake clips per person, ffpp has 1 and 4, av_deepfake1m 3 and 9, which are forged for "
        "0.3 to 1 s only",
        choices=("av_deepfake1m", "fakeavceleb", "ffpp", "kodf"),
    )
    num_identities: int = opt(40, "number of pseudo-identities")
    seed: int = opt(0, "the same seed gives the same pictures and sounds")
    num_workers: int = opt(2, "number of processes; does not change the result")
    duration_s: float = opt(3.0, "length of every clip in seconds")
    frame_size: int = opt(320, "width and height of the frames in pixels")

    def __post_init__(self) -> None:
        require_at_least(self, 2, "num_identities")  # a face swap needs a donor
        require_at_least(self, 1, "num_workers", "duration_s")
        if self.layout == "ffpp" and self.num_identities % 2:
            raise ValueError(f"num_identities must be even for ffpp's pairs, got {self.num_identities}")
        if self.frame_size < 192 or self.frame_size % 16:
            raise ValueError(f"frame_size must be a multiple of 16 and >= 192, got {self.frame_size}")


@dataclass(frozen=True)
class Scene:
    """What a genuine clip and the fakes made from it share."""

    onset_s: float  # when the first syllable begins
    recording: Recording
    crf: int  # of the H.264 encoder
    noise: float  # sensor noise, standard deviation in levels of 255
    blur: float  # lens, in pixels
    gain: tuple[float, float, float]  # white balance and exposure
    face_scale: float  # size of the face relative to FACE_HEIGHT, in frames of 320 pixels


@dataclass(frozen=True)
class ClipKind:
    """What is done to a genuine clip (nothing, if it stays genuine), and what the data set calls it."""

    method: str
    category: str = ""  # of FakeAVCeleb
    mark: str = ""  # of the method in file names
    changes: tuple[Change, ...] = ()

    @property
    def is_fake(self) -> bool:
        return bool(self.changes)

    @property
    def needs_donor(self) -> bool:
        """Whether the metadata names a second person: whose face, or whose lips' movement, it gets."""
        return "face" in self.changes or self.changes == ("lips",)


def draw_segment(config: DemoConfig, identity: int, number: int) -> tuple[int, int]:
    """First frame of a forged segment anywhere in a clip, and that after its last."""
    rng, num_frames = generator(config, identity, 10, number), round(config.duration_s * FPS)
    shortest, longest = (int(length * FPS) for length in SEGMENT_S)
    length = int(rng.integers(shortest + 1, min(longest, num_frames - 1) + 1))
    start = int(rng.integers(num_frames - length + 1))
    return start, start + length


@dataclass(frozen=True)
class PlannedClip:
    """One clip of the set."""

    identity: int
    number: int  # among the identity's clips
    scene: int  # number of the genuine clip that it is, or is made from
    kind: ClipKind
    donor: int | None
    path: str = ""  # below the root
    sound: str = ""  # file with the sound of a silent video, if there is one
    silent: bool = False
    segment: tuple[int, int] | None = None  # forged frames, first and after the last; None: all of a fake

    @property
    def files(self) -> list[str]:
        """Paths below the root of all its files."""
        return [self.path, self.sound] if self.sound else [self.path]


def gender_of(identity: int) -> str:
    """Range of the voice: "men" or "women"."""
    return ("men", "women")[(identity * 7) % 10 // 5]


def draw_scene(config: DemoConfig, identity: int, scene: int) -> Scene:
    """Room, microphone, camera and encoder of a genuine clip and of the fakes made from it.

    What a simple rule could measure (loudness, noise, brightness, size of the face and of the file) is the
    same for all clips of an identity, so that it is balanced within each identity and not only on average.
    """
    same = generator(config, identity, 1)
    own = generator(config, identity, 1, 1 + scene)
    return Scene(
        onset_s=float(own.uniform(0.1, 0.45)),
        recording=draw_recording(same),
        crf=int(same.integers(16, 24)),
        noise=float(same.uniform(1.0, 4.0)),
        blur=float(same.uniform(0.0, 0.7)),
        gain=tuple(same.uniform(0.82, 1.15) * same.uniform(0.95, 1.05, 3)),
        face_scale=float(same.uniform(0.9, 1.1)),
    )


def generator(config: DemoConfig, *keys: int) -> np.random.Generator:
    """A random generator for one purpose, so that no clip depends on which was made before it."""
    return np.random.default_rng([config.seed, GENERATOR_VERSION, *keys])
