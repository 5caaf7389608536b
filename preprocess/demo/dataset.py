"""The demo set as files: which clips there are, in FakeAVCeleb's layout and metadata, made in parallel.

Every identity gets three genuine clips ("scenes") and five fakes. A fake is made from a scene of its identity
and keeps the scene's room, light, camera, microphone and encoder setting, so that none of these can tell real
from fake. Genuine and forged frames pass through the same camera and are encoded once.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from preprocess.demo.animation import (
    MAX_OPENING,
    Motion,
    Puppet,
    draw_background,
    draw_motion,
    render,
)
from preprocess.demo.forgeries import ForgeryConfig, resynthesise_mouth, swap_faces
from preprocess.demo.identities import make_identity
from preprocess.demo.speech import (
    SAMPLE_RATE_HZ,
    TRACK_HZ,
    Recording,
    Utterance,
    draw_recording,
    draw_voice,
    record,
    revoice,
    speak,
)
from utils.clip_files import file_sha256
from utils.config import opt, to_plain
from utils.errors import DatasetError
from utils.media import VideoWriter

log = logging.getLogger(__name__)

MANIFEST_NAME = "demo_manifest.json"
METADATA_NAME = "meta_data.csv"
HEADER = "source,target1,target2,method,category,type,race,gender,path,"
FOLDER_PREFIX = "FakeAVCeleb"
GENERATOR_VERSION = 1  # raise it when the same seed gives other files
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
    num_identities: int = opt(28, "pseudo-identities; each has 3 genuine and 5 fake clips")
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
    race, gender = CELLS[_cell(clip.identity)]
    return f"{clip.category}/{race}/{gender}/{identity_name(clip.identity)}"


def _cell(identity: int) -> int:
    return (identity * 7) % len(CELLS)  # neighbours get different races and genders


def plan_clips(config: DemoConfig) -> list[PlannedClip]:
    """All clips of the set, identity by identity. Which scene a fake comes from is drawn evenly."""
    clips = []
    for identity in range(config.num_identities):
        rng = _generator(config, identity, 0)
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
    """Room, microphone, camera and encoder of a genuine clip and of the fakes made from it."""
    rng = _generator(config, identity, 1, scene)
    return Scene(
        onset_s=float(rng.uniform(0.1, 0.45)),
        recording=draw_recording(rng),
        crf=int(rng.integers(16, 24)),
        noise=float(rng.uniform(1.0, 4.0)),
        blur=float(rng.uniform(0.0, 0.7)),
        gain=tuple(rng.uniform(0.82, 1.15) * rng.uniform(0.95, 1.05, 3)),
    )


def metadata_row(clip: PlannedClip) -> str:
    """The clip's line of meta_data.csv: ten values under nine names, as in FakeAVCeleb."""
    race, gender = CELLS[_cell(clip.identity)]
    donor = "-" if clip.donor is None else identity_name(clip.donor)
    values = (
        *(identity_name(clip.identity), donor, "-", clip.method, CATEGORY_LETTERS[clip.category]),
        *(clip.category, race, gender, clip.file_name, f"{FOLDER_PREFIX}/{clip_folder(clip)}"),
    )
    return ",".join(values)


def _generator(config: DemoConfig, *keys: int) -> np.random.Generator:
    """A generator of its own for each purpose, so that no clip depends on which was made before it."""
    return np.random.default_rng([config.seed, GENERATOR_VERSION, *keys])


def _utterance(config: DemoConfig, identity: int, scene: int, onset_s: float, *, voice: int) -> Utterance:
    """What is said in a scene (voice 0), or what a forger lets another voice say (voice 1, 2, ...)."""
    female = CELLS[_cell(identity)][1] == "women"
    speaker = draw_voice(_generator(config, identity, 2, voice), female=female)
    return speak(
        speaker, _generator(config, identity, 3, scene, voice), duration_s=config.duration_s, onset_s=onset_s
    )


def _per_frame(track: np.ndarray, num_frames: int) -> np.ndarray:
    """A track at TRACK_HZ, read in the middle of each frame: (T,)."""
    return np.interp((np.arange(num_frames) + 0.5) / FPS * TRACK_HZ, np.arange(len(track)), track)


def _donor_pictures(config: DemoConfig, donor: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (S, H, W, 3) and landmarks of a donor who opens the mouth step by step, then shuts the eyes."""
    rng = _generator(config, donor, 4)
    puppet = Puppet(make_identity(_generator(config, donor, 5)))
    opening = np.concatenate([np.linspace(0, 1, 10), np.linspace(0, 1, 3)])
    motion = draw_motion(opening, np.zeros(13), rng, size=config.frame_size, fps=FPS)
    blink = np.concatenate([np.zeros(10), np.full(3, 0.9)])
    motion = dataclasses.replace(motion, blink=blink)
    return render(puppet, motion, draw_background(rng, config.frame_size))


def make_identity_clips(config: DemoConfig, identity: int, clips: list[PlannedClip]) -> None:
    """Render, forge, encode and write the clips of one identity that are not there yet."""
    wanted = [clip for clip in clips if not _path(config, clip).is_file()]
    if not wanted:
        return
    puppet = Puppet(make_identity(_generator(config, identity, 5)))
    num_frames = round(config.duration_s * FPS)
    donors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for index in sorted({clip.scene for clip in wanted}):
        scene = draw_scene(config, identity, index)
        said = _utterance(config, identity, index, scene.onset_s, voice=0)
        rng = _generator(config, identity, 6, index)
        motion: Motion = draw_motion(
            _per_frame(said.opening, num_frames),
            _per_frame(said.rounding, num_frames),
            rng,
            size=config.frame_size,
            fps=FPS,
        )
        frames, landmarks = render(puppet, motion, draw_background(rng, config.frame_size))
        for clip in wanted:
            if clip.scene != index:
                continue
            if clip.method.startswith("faceswap") and clip.donor not in donors:
                donors[clip.donor] = _donor_pictures(config, clip.donor)
            number = clips.index(clip)
            forged, voice = _forge(config, clip, number, scene, said, frames, landmarks, donors)
            _write_clip(config, clip, scene, forged, voice, _generator(config, identity, 8, number))


def _forge(
    config: DemoConfig,
    clip: PlannedClip,
    number: int,
    scene: Scene,
    said: Utterance,
    frames: np.ndarray,
    landmarks: np.ndarray,
    donors: dict[int, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and voice of a clip, before camera and microphone; those of the scene where they are genuine."""
    rng = _generator(config, clip.identity, 7, number)
    voice, heard = said.waveform, said
    if clip.category.endswith("FakeAudio"):
        heard = _utterance(config, clip.identity, clip.scene, scene.onset_s, voice=number)
        voice = revoice(heard.waveform, SAMPLE_RATE_HZ, rng)
    if clip.method.startswith("faceswap"):
        frames = swap_faces(frames, landmarks, *donors[clip.donor], rng, config)
    if clip.method.endswith("wav2lip"):
        if clip.category == "FakeVideo-RealAudio":
            # the lips follow a track that is not the one to be heard
            heard = _utterance(config, clip.donor, clip.scene, scene.onset_s, voice=number)
        openings = MAX_OPENING * _per_frame(heard.opening, len(frames))
        frames = resynthesise_mouth(frames, landmarks, openings, rng, config)
    return frames, voice


def _path(config: DemoConfig, clip: PlannedClip) -> Path:
    return config.output / clip_folder(clip) / clip.file_name


def _write_clip(
    config: DemoConfig,
    clip: PlannedClip,
    scene: Scene,
    frames: np.ndarray,
    voice: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Film, record and encode; the file appears under its name only when it is complete."""
    path = _path(config, clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same room and microphone, whoever speaks: the room's generator belongs to the scene
    room = _generator(config, clip.identity, 9, clip.scene)
    waveform = record(voice, scene.recording, room)
    partial = path.with_name(f".{path.stem}.partial.mp4")
    size = config.frame_size
    with VideoWriter(partial, fps=Fraction(FPS), width=size, height=size, crf=scene.crf) as writer:
        writer.add_audio_stream(SAMPLE_RATE_HZ)
        for frame in _film(frames, scene, rng):
            writer.write(frame)
        writer.write_audio(waveform)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)


def _film(frames: np.ndarray, scene: Scene, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Lens, exposure and sensor noise, alike for genuine and forged frames."""
    size = frames.shape[1]
    bank = rng.normal(0, scene.noise, (size + 64, size + 64, 3)).astype(np.float32)
    gain = np.array(scene.gain, np.float32)
    for frame in frames:
        image = frame.astype(np.float32) * gain
        if scene.blur > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), scene.blur)
        x, y = rng.integers(0, 64, 2)
        yield (image + bank[y : y + size, x : x + size]).round().clip(0, 255).astype(np.uint8)


def _settings(config: DemoConfig) -> dict[str, object]:
    """What shapes the files: all fields but where they go and who makes them."""
    plain = to_plain(config)
    return {"generator_version": GENERATOR_VERSION} | {
        name: value for name, value in plain.items() if name not in {"output", "num_workers"}
    }


def _read_manifest(config: DemoConfig) -> dict | None:
    """The manifest of an earlier call, None if there is none. Raises DatasetError if its settings differ."""
    path = config.output / MANIFEST_NAME
    if not path.is_file():
        if config.output.is_dir() and any(config.output.iterdir()):
            raise DatasetError(f"{config.output}: not empty and not a demo set; name another --output")
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        settings = manifest["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not a manifest of a demo set ({error}); remove the folder") from error
    if settings != json.loads(json.dumps(_settings(config))):
        raise DatasetError(f"{config.output}: holds a demo set with other settings; name another --output")
    return manifest


def _is_complete(config: DemoConfig, manifest: dict) -> bool:
    """Whether every file that the manifest lists is there with its checksum; a damaged one is removed."""
    if not manifest["files"]:
        return False
    complete = True
    for name, checksum in manifest["files"].items():
        path = config.output / name
        if not path.is_file():
            complete = False
        elif file_sha256(path) != checksum:
            log.warning("%s differs from the manifest and is made again", path)
            path.unlink()
            complete = False
    return complete


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def make_demo_set(config: DemoConfig) -> Path:
    """Write the whole set, or what an interrupted call left undone; return its root.

    Raises DatasetError if `output` holds something else.
    """
    manifest = _read_manifest(config)
    if manifest and _is_complete(config, manifest):
        log.info("%s is complete: %d files", config.output, len(manifest["files"]))
        return config.output
    config.output.mkdir(parents=True, exist_ok=True)
    manifest_path = config.output / MANIFEST_NAME
    if manifest is None:
        _write_text(manifest_path, json.dumps({"settings": _settings(config), "files": {}}, indent=1))
    clips = plan_clips(config)
    by_identity: dict[int, list[PlannedClip]] = {}
    for clip in clips:
        by_identity.setdefault(clip.identity, []).append(clip)
    _run_workers(config, by_identity)
    _write_text(config.output / METADATA_NAME, "\n".join([HEADER, *map(metadata_row, clips)]) + "\n")
    names = [METADATA_NAME, *(f"{clip_folder(clip)}/{clip.file_name}" for clip in clips)]
    files = {name: file_sha256(config.output / name) for name in names}
    _write_text(manifest_path, json.dumps({"settings": _settings(config), "files": files}, indent=1))
    log.info("%s: %d clips of %d identities", config.output, len(clips), config.num_identities)
    return config.output


def _prepare_worker() -> None:
    cv2.setNumThreads(1)


def _run_workers(config: DemoConfig, by_identity: dict[int, list[PlannedClip]]) -> None:
    """Make the identities in processes of their own.

    They are started afresh, since MediaPipe's threads do not survive a fork, and with one thread for linear
    algebra: with several, the last bit of a sum may depend on their number.
    """
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.num_workers, context, _prepare_worker) as pool:
            jobs = [
                pool.submit(make_identity_clips, config, identity, clips)
                for identity, clips in by_identity.items()
            ]
            try:
                for job in tqdm(as_completed(jobs), total=len(jobs), desc="demo identities", unit="identity"):
                    job.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
