"""Write the demo set: render, forge, film and encode every planned clip, in parallel and resumable.

Genuine and forged frames pass through the same camera, and each is encoded once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
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
    TRACK_HZ,
    Utterance,
    draw_voice,
    record,
    revoice,
    speak,
)
from utils.config import to_plain
from utils.errors import DatasetError
from utils.files import file_sha256, write_atomically, write_text
from utils.media.writer import VideoWriter

log = logging.getLogger(__name__)

MANIFEST_NAME = "demo_manifest.json"


def _utterance(config: DemoConfig, identity: int, scene: int, onset_s: float, *, voice: int) -> Utterance:
    """What is said in a scene (voice 0), or what a forger makes another voice say (voice 1, 2, ...)."""
    female = gender_of(identity) == "women"
    speaker = draw_voice(generator(config, identity, 2, voice), female=female)
    return speak(
        speaker, generator(config, identity, 3, scene, voice), duration_s=config.duration_s, onset_s=onset_s
    )


def _per_frame(track: Floats, num_frames: int) -> Floats:
    """The values of a track at TRACK_HZ in the middle of each frame: (T,)."""
    return np.interp((np.arange(num_frames) + 0.5) / FPS * TRACK_HZ, np.arange(len(track)), track)


@functools.lru_cache(maxsize=4)
def _donor_pictures(config: DemoConfig, donor: int) -> tuple[Pixels, Floats32]:
    """Frames (S, H, W, 3) and landmarks of a donor who opens the mouth step by step, then shuts the eyes."""
    rng = generator(config, donor, 4)
    puppet = Puppet(make_identity(generator(config, donor, 5)))
    opening = np.concatenate([np.linspace(0, 1, 10), np.linspace(0, 1, 3)])
    motion = draw_motion(opening, np.zeros(13), rng, size=config.frame_size, fps=FPS, scale=1.0)
    blink = np.concatenate([np.zeros(10), np.full(3, 0.9)])
    motion = dataclasses.replace(motion, blink=blink)
    return render(puppet, motion, draw_background(rng, config.frame_size))


def make_identity_clips(
    config: DemoConfig, traces: ForgeryConfig, identity: int, clips: list[PlannedClip]
) -> None:
    """Render, forge, encode and write the clips of one identity that are not there yet."""
    wanted = [
        clip
        for clip in clips
        if not all((config.output / name).is_file() for name in (clip.path, clip.sound) if name)
    ]
    if not wanted:
        return
    puppet = Puppet(make_identity(generator(config, identity, 5)))
    num_frames = round(config.duration_s * FPS)
    for index in sorted({clip.scene for clip in wanted}):
        scene = draw_scene(config, identity, index)
        said = _utterance(config, identity, index, scene.onset_s, voice=0)
        rng = generator(config, identity, 6, index)
        motion = draw_motion(
            _per_frame(said.opening, num_frames),
            _per_frame(said.rounding, num_frames),
            rng,
            size=config.frame_size,
            fps=FPS,
            scale=scene.face_scale,
        )
        frames, landmarks = render(puppet, motion, draw_background(rng, config.frame_size))
        for clip in wanted:
            if clip.scene == index:
                number = clips.index(clip)
                forged, voice = _forge(config, traces, clip, number, scene, said, frames, landmarks)
                _write_clip(config, clip, scene, forged, voice, generator(config, identity, 8, number))


def _forge(
    config: DemoConfig,
    traces: ForgeryConfig,
    clip: PlannedClip,
    number: int,
    scene: Scene,
    said: Utterance,
    frames: Pixels,
    landmarks: Floats32,
) -> tuple[Pixels, Floats32]:
    """Frames and voice of a clip, before camera and microphone; those of the scene where they are genuine."""
    rng = generator(config, clip.identity, 7, number)
    voice, heard, forgery = said.waveform, said, clip.forgery
    if forgery is None:
        return frames, voice
    if forgery.changes_voice:
        heard = _utterance(config, clip.identity, clip.scene, scene.onset_s, voice=number)
        voice = revoice(heard.waveform, SAMPLE_RATE_HZ, rng)
    if forgery.swaps_face:
        assert clip.donor is not None
        frames = swap_faces(frames, landmarks, *_donor_pictures(config, clip.donor), rng, traces)
    if forgery.drives_lips:
        if not forgery.changes_voice:
            assert clip.donor is not None  # the lips follow a track that is not heard
            heard = _utterance(config, clip.donor, clip.scene, scene.onset_s, voice=number)
        openings = MAX_OPENING * _per_frame(heard.opening, len(frames))
        frames = resynthesise_mouth(frames, landmarks, openings, rng, traces)
    return frames, voice


def _write_clip(
    config: DemoConfig,
    clip: PlannedClip,
    scene: Scene,
    frames: Pixels,
    voice: Floats32,
    rng: np.random.Generator,
) -> None:
    """Film, record and encode a clip; the file gets its name when it is complete."""
    path = config.output / clip.path
    # the same room and microphone, whoever speaks: the room's generator belongs to the scene
    room = generator(config, clip.identity, 9, clip.scene)
    waveform = record(voice, scene.recording, room)
    if clip.sound is not None:
        _write_sound(config.output / clip.sound, waveform, room)

    def encode(partial: Path) -> None:
        size = config.frame_size
        with VideoWriter(partial, fps=Fraction(FPS), width=size, height=size, crf=scene.crf) as writer:
            if not clip.silent:
                writer.add_audio_stream(SAMPLE_RATE_HZ, bit_rate=32_000)  # so low that any voice uses it up
            for frame in _film(frames, scene, rng):
                writer.write(frame)
            if not clip.silent:
                writer.write_audio(waveform)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode)


def _write_sound(path: Path, waveform: Floats32, rng: np.random.Generator) -> None:
    """Write the sound of a whole downloaded video: noise before the sequence begins."""
    import soundfile

    lead_in = round(LEAD_IN_FRAMES / FPS * SAMPLE_RATE_HZ)
    before = 0.3 * float(np.abs(waveform).max()) * rng.standard_normal(lead_in)
    sound = np.concatenate([before, waveform])
    path.parent.mkdir(parents=True, exist_ok=True)
    write = functools.partial(
        soundfile.write, data=sound, samplerate=SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV"
    )
    write_atomically(path, write)


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
    plain = to_plain(traces) | to_plain(config)
    return {"generator_version": GENERATOR_VERSION, "encoder_version": ENCODER_VERSION} | {
        name: value for name, value in plain.items() if name not in {"output", "num_workers"}
    }


def _read_files(output: Path, settings: dict[str, Any]) -> dict[str, str] | None:
    """File -> checksum of an earlier call, or None. Raises DatasetError if its settings differ."""
    path = output / MANIFEST_NAME
    if not path.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise DatasetError(f"{output}: not empty and not a demo set; choose another --output")
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known, files = manifest["settings"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not the manifest of a demo set ({error}); remove the folder") from error
    if known != settings:
        raise DatasetError(f"{output}: holds a demo set with other settings; choose another --output")
    return dict(files)


def _are_complete(output: Path, files: dict[str, str]) -> bool:
    """Whether every file is there with its checksum; damaged files are removed."""
    complete = bool(files)
    for name, checksum in files.items():
        path = output / name
        if not path.is_file():
            complete = False
        elif file_sha256(path) != checksum:
            log.warning("%s differs from the manifest and is made again", path)
            path.unlink()
            complete = False
    return complete


def make_demo_set(config: DemoConfig, traces: ForgeryConfig | None = None) -> Path:
    """Write the set, or the part of it that an interrupted call did not finish; return its root.

    Raises DatasetError if `output` holds anything else.
    """
    traces = traces or ForgeryConfig()
    settings = _settings(config, traces)
    files = _read_files(config.output, settings)
    if files is not None and _are_complete(config.output, files):
        log.info("%s is complete: %d files", config.output, len(files))
        return config.output
    manifest_path = config.output / MANIFEST_NAME
    if files is None:
        write_text(manifest_path, json.dumps({"settings": settings, "files": {}}, indent=1))
    clips = plan_clips(config)
    by_identity: dict[int, list[PlannedClip]] = {}
    for clip in clips:
        by_identity.setdefault(clip.identity, []).append(clip)
    _run_workers(config, traces, by_identity)
    metadata = LAYOUTS[config.layout].metadata(config, clips)
    for name, content in metadata.items():
        (config.output / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(config.output / name, functools.partial(Path.write_bytes, data=content))
    names = [*metadata, *(name for clip in clips for name in (clip.path, clip.sound) if name)]
    files = {name: file_sha256(config.output / name) for name in names}
    write_text(manifest_path, json.dumps({"settings": settings, "files": files}, indent=1))
    log.info("%s: %d clips of %d identities", config.output, len(clips), config.num_identities)
    return config.output


def _prepare_worker() -> None:
    cv2.setNumThreads(1)


def _run_workers(
    config: DemoConfig, traces: ForgeryConfig, by_identity: dict[int, list[PlannedClip]]
) -> None:
    """Make the identities in several processes.

    These are spawned, since MediaPipe's threads do not survive a fork, and use one thread for linear algebra:
    with several, the last bit of a sum may depend on their number.
    """
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.num_workers, context, _prepare_worker) as pool:
            jobs = [
                pool.submit(make_identity_clips, config, traces, identity, clips)
                for identity, clips in by_identity.items()
            ]
            try:
                for job in tqdm(as_completed(jobs), total=len(jobs), desc="demo identities", unit="identity"):
                    job.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)
