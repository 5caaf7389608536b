"""A raw video to a clip folder, in one decode pass: crop, landmarks, sound and clip.json."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from preprocess.clip.crop import PictureChange, crop_face, require_faces
from preprocess.clip.sound import AudioConfig, WaveformChange, extract_audio, require_sound
from preprocess.faces.backends import backend_packages, model_checksums, resolve_backend
from preprocess.faces.track import CropConfig
from utils.clip.files import (
    AUDIO_NAME,
    DATA_FILES,
    LAYOUT_VERSION,
    ClipInfo,
    read_clip_info,
    require_long_enough,
    write_clip_info,
)
from utils.config import opt, require_between, to_plain
from utils.errors import ClipError
from utils.files import file_sha256
from utils.media.times import read_video_times

TOOLS = ("av", "soxr", "numpy")
BUILDS_OF_OPENCV = ("opencv-contrib-python", "opencv-python", "opencv-python-headless")
# of clips that were made before it was a flag
OLDER_SETTINGS = {"landmark_backend": "solutions"}


@functools.cache
def _tool_versions(backend: str) -> dict[str, str]:
    """Installed versions, read once: it takes 5 ms each."""
    versions = {tool: importlib.metadata.version(tool) for tool in (*TOOLS, *backend_packages(backend))}
    for build in BUILDS_OF_OPENCV:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[build] = importlib.metadata.version(build)
    return versions


@dataclass(frozen=True, kw_only=True)
class ClipConfig(CropConfig, AudioConfig):
    """preprocess/clip/make.py: how one clip is made."""

    min_face_fraction: float = opt(0.8, "share of frames in which a face must be found")

    def __post_init__(self) -> None:
        CropConfig.__post_init__(self)
        AudioConfig.__post_init__(self)
        require_between(self, 0, 1, "min_face_fraction")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a raw video before it becomes a clip; see preprocess/perturb."""

    settings: dict[str, Any]  # added to those of clip.json, so that the clip is recognised
    pictures: PictureChange | None = None
    waveform: WaveformChange | None = None


UNCHANGED = Change(settings={})
# they decide which clips are good enough, not what is in the files: changing them makes no clip stale
_THRESHOLDS = ("min_face_fraction", "max_missing_audio_s", "allow_silent")


def clip_settings(config: ClipConfig, change: Change) -> dict[str, Any]:
    """The settings of clip.json: the flags that shape a clip's files, the backend by its own name."""
    settings = {name: value for name, value in sorted(to_plain(config).items()) if name not in _THRESHOLDS}
    return settings | {"landmark_backend": resolve_backend(config.landmark_backend)} | change.settings


def prepare_clip(
    source: Path,
    folder: Path,
    config: ClipConfig,
    *,
    name: str | None = None,
    sound: Path | None = None,
    change: Change = UNCHANGED,
) -> ClipInfo:
    """Make the four files of a clip folder in `folder`, which must exist and be empty; return its clip.json.

    `name` is the source's name in clip.json (default: its file name), `sound` a separate file with its sound.
    `change` applies to full frames and sound. Raises ClipError if the video cannot be used; `folder` may then
    hold temporary files.
    """
    times = read_video_times(source)
    require_long_enough(source, len(times.starts_s), times.fps)
    wav = folder / AUDIO_NAME
    # first, because it fails quickly
    audio = extract_audio(source, wav, times, config, sound=sound, change=change.waveform)
    crop, num_with_any = crop_face(source, folder, times, config, change.pictures)
    info = ClipInfo(
        layout_version=LAYOUT_VERSION,
        source=name or source.name,
        source_sha256=file_sha256(source),
        source_bytes=source.stat().st_size,
        source_codecs=times.codecs,
        source_colour=times.colour,
        sound_sha256="" if sound is None else file_sha256(sound),
        source_fps=str(times.fps),
        variable_frame_rate=not times.constant,
        fps=str(times.fps),
        num_frames=len(times.starts_s),
        sample_rate_hz=config.sample_rate_hz,
        settings=clip_settings(config, change),
        tools=_tool_versions(config.landmark_backend),
        landmark_models=model_checksums(config.landmark_backend),
        files={file: file_sha256(folder / file) for file in DATA_FILES},
        **vars(crop),
        **vars(audio),
    )
    require_usable(source, info, config, num_with_any)
    write_clip_info(folder, info)
    return info


def require_usable(path: Path, info: ClipInfo, config: ClipConfig, num_with_any: int = 0) -> None:
    """Raise ClipError if a clip does not meet the thresholds of `config`.

    `num_with_any` is the number of frames with any face, where it is known, for the message.
    """
    num_seen = info.num_frames - len(info.frames_without_face)
    require_long_enough(path, info.num_frames, Fraction(info.fps))
    require_faces(
        path,
        num_seen,
        info.num_frames,
        config.min_face_fraction,
        num_with_any=num_with_any,
        num_cuts=len(info.cuts),
    )
    require_sound(path, info, config)


def is_finished(
    source: Path, folder: Path, config: ClipConfig, *, sound: Path | None = None, change: Change = UNCHANGED
) -> bool:
    """Whether `folder` holds what `prepare_clip` would make of this source file now."""
    info = current_info(source, folder, config, change)
    return (
        info is not None
        and all((folder / file).is_file() for file in info.files)
        and all(file_sha256(folder / file) == digest for file, digest in info.files.items())
        and source.is_file()
        and file_sha256(source) == info.source_sha256
        and ("" if sound is None else file_sha256(sound)) == info.sound_sha256
    )


def current_info(
    source: Path, folder: Path, config: ClipConfig, change: Change = UNCHANGED
) -> ClipInfo | None:
    """clip.json of a folder if it was made with these flags; else None."""
    try:
        info = read_clip_info(folder)
        if info is None:
            return None
        require_usable(source, info, config)
    except ClipError:
        return None
    made = info.layout_version, OLDER_SETTINGS | info.settings, set(info.files)
    return info if made == (LAYOUT_VERSION, clip_settings(config, change), set(DATA_FILES)) else None
