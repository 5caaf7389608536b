"""Write the demo set: render, forge, film and encode every planned clip, in parallel and resumable.

Genuine and forged frames pass through the same camera, and each is encoded once.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from preprocess.demo.animation import MAX_OPENING, Puppet, draw_background, draw_motion, render
from preprocess.demo.forgeries import ForgeryConfig, resynthesise_mouth, swap_faces
from preprocess.demo.geometry import Floats, Floats32, Pixels
from preprocess.demo.identities import make_identity
from preprocess.demo.layouts import LAYOUTS, LEAD_IN_FRAMES, plan_clips
from preprocess.demo.plan import (
    ENCODER_VERSION,
    FPS,
    GENERATOR_VERSION,
    DemoConfig,
    PlannedClip,
    Scene,
    draw_scene,
    gender_of,
    generator,
)
from preprocess.demo.speech import (
    SAMPLE_RATE_HZ,
    Utterance,
    draw_voice,
    record,
    replace_part,
    revoice,
    speak,
)
from utils.clip.generated import MANIFEST_NAME
from utils.config import to_plain
from utils.errors import DatasetError
from utils.files import file_sha256, write_atomically, write_text
from utils.media.writer import VideoWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Take:
    """A genuine clip before camera and microphone, from which the fakes of its scene are made."""

    scene: Scene
    said: Utterance
    frames: Pixels
    landmarks: Floats32


def _utterance(config: DemoConfig, identity: int, scene: int, onset_s: float, *, voice: int) -> Utterance:
    """What is said in a scene (voice 0), or what a forger makes another voice say (voice 1, 2, ...)."""
    female = gender_of(identity) == "women"
    speaker = draw_voice(generator(config, identity, 2, voice), female=female)
    rng = generator(config, identity, 3, scene, voice)
    return speak(speaker, rng, duration_s=config.duration_s, onset_s=onset_s)


@functools.lru_cache(maxsize=4)
def _donor_pictures(config: DemoConfig, donor: int) -> tuple[Pixels, Floats32]:
    """Frames (S, H, W, 3) and landmarks of a donor who opens the mouth step by step, then shuts the eyes."""
    rng = generator(config, donor, 4)
    puppet = Puppet(make_identity(generator(config, donor, 5)))
    opening = np.concatenate([np.linspace(0, 1, 10), np.linspace(0, 1, 3)])
    motion = draw_motion(opening, np.zeros(13), rng, size=config.frame_size, fps=FPS, scale=1.0)
    motion = dataclasses.replace(motion, blink=np.repeat([0, 0.9], [10, 3]))
    return render(puppet, motion, draw_background(rng, config.frame_size))


def make_identity_clips(config: DemoConfig, traces: ForgeryConfig, clips: list[PlannedClip]) -> None:
    """Render, forge, encode and write those of one identity's clips that are not there yet."""
    wanted = [clip for clip in clips if not all((config.output / name).is_file() for name in clip.files)]
    if not wanted:
        return
    puppet = Puppet(make_identity(generator(config, clips[0].identity, 5)))
    for number in sorted({clip.scene for clip in wanted}):
        take = make_take(config, puppet, clips[0].identity, number)
        for clip in wanted:
            if clip.scene == number:
                _write_clip(config, clip, take, *forge(config, traces, clip, take))


def make_take(config: DemoConfig, puppet: Puppet, identity: int, number: int) -> Take:
    """Render the genuine clip of one of an identity's scenes."""
    scene = draw_scene(config, identity, number)
    said = _utterance(config, identity, number, scene.onset_s, voice=0)
    rng = generator(config, identity, 6, number)
    mouth = said.mouth(FPS, round(config.duration_s * FPS))
    motion = draw_motion(*mouth, rng, size=config.frame_size, fps=FPS, scale=scene.face_scale)
    return Take(scene, said, *render(puppet, motion, draw_background(rng, config.frame_size)))


def forge(
    config: DemoConfig, traces: ForgeryConfig, clip: PlannedClip, take: Take
) -> tuple[Pixels, Floats32]:
    """Frames and voice of a clip, before camera and microphone; those of the take where they are genuine."""
    rng = generator(config, clip.identity, 7, clip.number)
    changes, said, frames, voice = clip.kind.changes, take.said, take.frames, take.said.waveform
    start, end = clip.segment or (0, len(frames))
    donor = clip.identity if clip.donor is None else clip.donor
    if "voice" in changes or "lips" in changes:
        # the lips of a clip that keeps its voice follow the donor, who is not heard
        speaker = clip.identity if "voice" in changes else donor
        said = _utterance(config, speaker, clip.scene, take.scene.onset_s, voice=clip.number)
        if clip.segment:
            said = said.spoken_from(start / FPS, end / FPS)
    if "voice" in changes:
        voice = revoice(said.waveform, SAMPLE_RATE_HZ, rng)
    part, landmarks = frames[start:end], take.landmarks[start:end]
    if "face" in changes:
        part = swap_faces(part, landmarks, *_donor_pictures(config, donor), rng, traces)
    if "lips" in changes:
        openings = MAX_OPENING * said.mouth(FPS, len(frames))[0]
        part = resynthesise_mouth(part, landmarks, openings[start:end], rng, traces)
    return np.concatenate([frames[:start], part, frames[end:]]), voice


def record_clip(clip: PlannedClip, take: Take, voice: Floats, room: np.random.Generator) -> Floats32:
    """A voice in the room of the take, outside a forged segment the genuine one."""
    room_too = copy.deepcopy(room)
    forged = record(voice, take.scene.recording, room)
    if clip.segment is None:
        return forged
    genuine = record(take.said.waveform, take.scene.recording, room_too)
    start, end = clip.segment
    return replace_part(genuine, forged, start / FPS, end / FPS)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def _write_clip(config: DemoConfig, clip: PlannedClip, take: Take, frames: Pixels, voice: Floats) -> None:
    """Film, record and encode a clip; the file gets its name when it is complete."""
    # the same room and microphone, whoever speaks: the room's generator belongs to the scene
    room, scene = generator(config, clip.identity, 9, clip.scene), take.scene
    waveform = record_clip(clip, take, voice, room)
    if clip.sound:
        _write(config.output / clip.sound, functools.partial(_write_sound, waveform=waveform, rng=room))

    def encode(path: Path) -> None:
        # a clip that is forged in part is its scene's recording elsewhere, down to the noise of the camera
        number = clip.number if clip.segment is None else clip.scene
        rng, size = generator(config, clip.identity, 8, number), config.frame_size
        with VideoWriter(path, fps=Fraction(FPS), width=size, height=size, crf=scene.crf) as writer:
            if not clip.silent:
                writer.add_audio_stream(SAMPLE_RATE_HZ, bit_rate=32_000)  # so low that any voice uses it up
            for frame in _film(frames, scene, rng):
                writer.write(frame)
            if not clip.silent:
                writer.write_audio(waveform)

    _write(config.output / clip.path, encode)


def _write_sound(path: Path, waveform: Floats32, rng: np.random.Generator) -> None:
    """Write the sound of a whole downloaded video: noise before the sequence begins."""
    import soundfile

    lead_in = round(LEAD_IN_FRAMES / FPS * SAMPLE_RATE_HZ)
    before = 0.3 * float(np.abs(waveform).max()) * rng.standard_normal(lead_in)
    sound = np.concatenate([before, waveform])
    soundfile.write(path, sound, SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV")


def _film(frames: Pixels, scene: Scene, rng: np.random.Generator) -> Iterator[Pixels]:
    """The frames with lens, exposure and sensor noise, which genuine and forged ones share."""
    size = frames.shape[1]
    bank = rng.normal(0, scene.noise, (size + 64, size + 64, 3)).round().astype(np.int16)
    exposure = np.outer(np.arange(256), scene.gain).round().clip(0, 255).astype(np.uint8)
    for frame in frames:
        image = cv2.LUT(frame, exposure[:, None])  # (256, 1, 3)
        if scene.blur > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), scene.blur)
        x, y = rng.integers(0, 64, 2)
        noisy = cv2.add(image, bank[y : y + size, x : x + size], dtype=cv2.CV_8U)
        yield noisy.astype(np.uint8, copy=False)


def _settings(config: DemoConfig, traces: ForgeryConfig) -> dict[str, Any]:
    """The settings that shape the files: all fields but `output` and `num_workers`."""
    versions = {"generator_version": GENERATOR_VERSION, "encoder_version": ENCODER_VERSION}
    settings = versions | to_plain(traces) | to_plain(config)
    del settings["output"], settings["num_workers"]
    return settings


def _read_files(output: Path, settings: dict[str, Any]) -> dict[str, str]:
    """File -> checksum of an earlier call; raises DatasetError if `output` holds anything but such a set."""
    path = output / MANIFEST_NAME
    if not path.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise DatasetError(f"{output}: not empty and not a demo set; choose another --output")
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known, files = manifest["settings"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not the manifest of a demo set ({error}); remove the folder") from error
    if known != settings:
        raise DatasetError(f"{output}: holds a demo set with other settings; choose another --output")
    return files


def _remove_damaged(output: Path, files: dict[str, str]) -> None:
    """Remove files whose checksum differs from the manifest's."""
    for name, checksum in files.items():
        path = output / name
        if path.is_file() and file_sha256(path) != checksum:
            log.warning("%s differs from the manifest and is made again", path)
            path.unlink()


def make_demo_set(config: DemoConfig, traces: ForgeryConfig | None = None) -> Path:
    """Write the set, or the part of it that an interrupted call did not finish; return its root.

    Raises DatasetError if `output` holds anything else.
    """
    traces, output = traces or ForgeryConfig(), config.output
    settings = _settings(config, traces)
    files = _read_files(output, settings)
    _remove_damaged(output, files)
    if files and all((output / name).is_file() for name in files):
        log.info("%s is complete: %d files", output, len(files))
        return output
    write_text(output / MANIFEST_NAME, json.dumps({"settings": settings, "files": files}, indent=1))
    clips = plan_clips(config)
    _run_workers(config, traces, clips)
    metadata = LAYOUTS[config.layout].metadata(config, clips)
    for name, content in metadata.items():
        _write(output / name, functools.partial(Path.write_bytes, data=content))
    names = [*metadata, *(name for clip in clips for name in clip.files)]
    files = {name: file_sha256(output / name) for name in names}
    write_text(output / MANIFEST_NAME, json.dumps({"settings": settings, "files": files}, indent=1))
    log.info("%s: %d clips of %d identities", output, len(clips), config.num_identities)
    return output


def _run_workers(config: DemoConfig, traces: ForgeryConfig, clips: list[PlannedClip]) -> None:
    """Make the clips in several processes, one identity at a time.

    These are spawned, since MediaPipe's threads do not survive a fork, and use one thread for linear algebra:
    with several, the last bit of a sum may depend on their number.
    """
    by_identity = [list(group) for _, group in itertools.groupby(clips, lambda clip: clip.identity)]
    make = functools.partial(make_identity_clips, config, traces)
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.num_workers, context, cv2.setNumThreads, (1,)) as pool:
            done = pool.map(make, by_identity)  # after an error, the identities that wait are not begun
            for _ in tqdm(done, total=len(by_identity), desc="demo identities", unit="identity"):
                pass
    finally:
        os.environ.clear()
        os.environ.update(before)
