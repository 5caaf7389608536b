"""What the demo set holds: identities, scenes, clips, names and metadata, in FakeAVCeleb's layout.

Every identity gets three genuine clips ("scenes") and five fakes. A fake is made from a scene of its identity
and keeps the scene's room, light, camera, microphone and encoder setting, so that none of these can tell real
from fake.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.demo.forgeries import ForgeryConfig
from preprocess.demo.speech import Recording, draw_recording
from utils.config import opt

HEADER = "source,target1,target2,method,category,type,race,gender,path,"
FOLDER_PREFIX = "FakeAVCeleb"
GENERATOR_VERSION = 2  # raise it when the same seed gives other files
# FakeAVCeleb's own cells; here they are names of folders and say nothing about the faces in them
CELLS = tuple(
    (race, gender)
    for gender in ("men", "women")
    for race in ("African", "Asian (East)", "Asian (South)", "Caucasian (American)", "Caucasian (European)")
)
CATEGORY_LETTERS = {
    "RealVideo-RealAudio": "A",
    "RealVideo-FakeAudio": "B",
    "FakeVideo-RealAudio": "C",
    "FakeVideo-FakeAudio": "D",
}
FAKES = (
    ("RealVideo-FakeAudio", "rtvc"),
    ("FakeVideo-RealAudio", "wav2lip"),
    ("FakeVideo-RealAudio", "faceswap"),
    ("FakeVideo-FakeAudio", "wav2lip"),
    ("FakeVideo-FakeAudio", "faceswap-wav2lip"),
)
SCENES_PER_IDENTITY = 3
FPS = 25


@dataclass(frozen=True, kw_only=True)
class DemoConfig(ForgeryConfig):
    """preprocess.demo: a generated raw data set in FakeAVCeleb's download layout."""

    output: Path = opt(dataclasses.MISSING, "folder to write; becomes the root of the raw data set")
    num_identities: int = opt(40, "pseudo-identities; each has 3 genuine and 5 fake clips")
    seed: int = opt(0, "the same seed gives the same pictures and sounds")
    num_workers: int = opt(2, "processes; does not change the result")
    duration_s: float = opt(3.0, "length of every clip in seconds")
    frame_size: int = opt(320, "width and height of the frames in pixels")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_identities < 2:
            raise ValueError(
                f"num_identities must be >= 2 (a face swap needs a donor), got {self.num_identities}"
            )
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be >= 1, got {self.num_workers}")
        if self.duration_s < 1:
            raise ValueError(f"duration_s must be >= 1, got {self.duration_s}")
        if self.frame_size < 192 or self.frame_size % 16:
            raise ValueError(f"frame_size must be a multiple of 16 and >= 192, got {self.frame_size}")


@dataclass(frozen=True)
class Scene:
    """What a genuine clip and the fakes made from it have in common."""

    onset_s: float  # when the first syllable begins
    recording: Recording
    crf: int  # of the H.264 encoder
    noise: float  # sensor noise, standard deviation in levels of 255
    blur: float  # lens, in pixels
    gain: tuple[float, float, float]  # white balance and exposure
    face_scale: float  # size of the face against FACE_HEIGHT, in frames of 320 pixels


@dataclass(frozen=True)
class PlannedClip:
    """One file of the set."""

    identity: int
    scene: int  # index of the genuine clip that it is, or is made from
    category: str
    method: str
    donor: int | None
    file_name: str

    @property
    def is_fake(self) -> bool:
        return self.category != "RealVideo-RealAudio"


def identity_name(index: int) -> str:
    """FakeAVCeleb's spelling of a person: id00076."""
    return f"id{76 + 37 * index:05d}"


def clip_folder(clip: PlannedClip) -> str:
    """Folder of a clip below the root, e.g. RealVideo-RealAudio/African/men/id00076."""
    race, gender = cell_of(clip.identity)
    return f"{clip.category}/{race}/{gender}/{identity_name(clip.identity)}"


def cell_of(identity: int) -> tuple[str, str]:
    """Race and gender folder of an identity; neighbours get different ones."""
    return CELLS[(identity * 7) % len(CELLS)]


def gender_of(identity: int) -> str:
    """Gender folder, "men" or "women": decides the range of the voice."""
    return cell_of(identity)[1]


def plan_clips(config: DemoConfig) -> list[PlannedClip]:
    """All clips of the set, identity by identity. Which scene a fake comes from is drawn evenly."""
    clips = []
    for identity in range(config.num_identities):
        rng = generator(config, identity, 0)
        donor = (identity + 1 + int(rng.integers(config.num_identities - 1))) % config.num_identities
        numbers = [f"{100 * (identity + 1) + 9 * (scene + 1):05d}" for scene in range(SCENES_PER_IDENTITY)]
        for scene, number in enumerate(numbers):
            clips.append(PlannedClip(identity, scene, "RealVideo-RealAudio", "real", None, f"{number}.mp4"))
        scenes = np.concatenate([rng.permutation(SCENES_PER_IDENTITY) for _ in range(2)])
        for (category, method), scene in zip(FAKES, scenes, strict=False):
            name = identity_name(donor)
            has_donor = method != "rtvc" and (category, method) != ("FakeVideo-FakeAudio", "wav2lip")
            endings = {
                ("RealVideo-FakeAudio", "rtvc"): "fake",
                ("FakeVideo-RealAudio", "wav2lip"): f"0_{name}_wavtolip",
                ("FakeVideo-RealAudio", "faceswap"): f"{name}",
                ("FakeVideo-FakeAudio", "wav2lip"): "fake_wavtolip",
                ("FakeVideo-FakeAudio", "faceswap-wav2lip"): f"1_{name}_wavtolip",
            }
            clips.append(
                PlannedClip(
                    identity,
                    int(scene),
                    category,
                    method,
                    donor if has_donor else None,
                    f"{numbers[int(scene)]}_{endings[category, method]}.mp4",
                )
            )
    return clips


def draw_scene(config: DemoConfig, identity: int, scene: int) -> Scene:
    """Room, microphone, camera and encoder of a genuine clip and of the fakes made from it.

    What a one-line rule could measure (loudness, noise, brightness, size of the face and of the file) is one
    value per identity, so that it is balanced within each identity and not only on average.
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


def metadata_row(clip: PlannedClip) -> str:
    """The clip's line of meta_data.csv: ten values under nine names, as in FakeAVCeleb."""
    race, gender = cell_of(clip.identity)
    donor = "-" if clip.donor is None else identity_name(clip.donor)
    values = (
        *(identity_name(clip.identity), donor, "-", clip.method, CATEGORY_LETTERS[clip.category]),
        *(clip.category, race, gender, clip.file_name, f"{FOLDER_PREFIX}/{clip_folder(clip)}"),
    )
    return ",".join(values)


def generator(config: DemoConfig, *keys: int) -> np.random.Generator:
    """A random generator of its own for each purpose, so that no clip depends on which was made before it."""
    return np.random.default_rng([config.seed, GENERATOR_VERSION, *keys])
