"""The files of a clip folder and their units: `preprocess/` writes them, `loaders/` reads them.

cropped_video.mp4   H.264, 224x224, constant frame rate, no sound
cropped_video.wav   mono PCM16 (readers also accept `audio.wav`, other rates and channel counts)
landmarks.npy       (T, 478, 2) float32, x and y in the crop, 0..1; NaN where no face was found
clip.json           ClipInfo; absent in folders that other tools prepared
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.clip.packed import LARGEST, RATE, find_clip, find_member, open_array
from utils.errors import ClipError
from utils.names import brief, parse_json

VIDEO_NAME = "cropped_video.mp4"
AUDIO_NAME = "cropped_video.wav"
AUDIO_NAMES = (AUDIO_NAME, "audio.wav")
LANDMARKS_NAME = "landmarks.npy"
DATA_FILES = (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME)  # all but clip.json, which has their checksums
INFO_NAME = "clip.json"
# of raw videos; their clip folders have the name without it
VIDEO_SUFFIXES = tuple(".mp4 .avi .mov .mkv .webm .m4v .3gp .mpg .mpeg .ts .mts .m2ts".split())
NUM_LANDMARKS = 478
CROP_SIZE = 224
SAMPLE_RATE_HZ = 48_000
LAYOUT_VERSION = 3
MIN_CLIP_S = 0.12  # methods need min_window_s, 0.1 s at most, in whole steps of --video_fps (25)


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """clip.json: a clip's origin and what preprocessing found. No time stamps: same input, same bytes."""

    layout_version: int
    source: str  # path of the raw video, relative to the raw root
    source_sha256: str
    source_bytes: int
    source_codecs: str  # of picture and sound, e.g. "h264/aac"; "h264/" has no sound track
    sound_sha256: str  # of the separate file with the sound; "": the sound was in the video
    source_width: int  # as displayed, after rotation
    source_height: int
    source_fps: str  # fraction, e.g. "30000/1001": the average rate of the source
    variable_frame_rate: bool  # the source's was, and the crop was resampled to a constant one
    fps: str  # fraction: the crop's exact constant rate
    num_frames: int
    # per frame x, y, side in pixels of the displayed source frame; [] where the face is away
    face_boxes: list[list[float]]
    frames_without_face: list[int]
    num_face_tracks: int  # all faces seen, each from one hard cut to the next; the largest was taken
    sample_rate_hz: int
    audio_start_s: float  # where the sound begins, relative to the picture; the gap is silence
    audio_padded_s: float  # silence added at the end to make sound and picture equally long
    silent: bool  # the source has no sound (kept by --allow_silent): the wav is all zeros
    settings: dict[str, Any]  # the flags that shape the files
    tools: dict[str, str]  # versions of the packages that made them
    files: dict[str, str]  # name -> sha256 of the other files of the folder
    # from here on: only where they differ from these defaults
    frames_undecoded: list[int] = field(default_factory=list)  # they repeat the frame before
    sound_undecoded_s: list[list[float]] = field(default_factory=list)  # start and end of silent patches
    silent_reason: str = ""
    source_colour: dict[str, Any] = field(default_factory=dict)  # transfer, primaries, depth; HDR or 10 bit
    interlaced: bool = False  # the source's frames are two fields each
    cuts: list[int] = field(default_factory=list)  # frames with which another shot begins, for any face
    landmark_models: dict[str, str] = field(default_factory=dict)  # file -> sha256 of the networks for faces


_TYPES = typing.get_type_hints(ClipInfo)
_DEFAULTS = {  # values that are not written
    item.name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    for item in dataclasses.fields(ClipInfo)
    if (item.default, item.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
}


def check_info_values(values: object) -> dict[str, Any]:
    """`values` if they are valid for a clip.json of any layout; names that ClipInfo lacks are not checked.

    Raises ValueError that names the first value that does not fit its field.
    """
    if not isinstance(values, dict) or not values:
        raise ValueError(f"it is {brief(values)}")
    for name, value in values.items():
        if not _fits(value, _TYPES.get(name, Any)):
            raise ValueError(f"{name} is {brief(value)}")
    for name in ("fps", "source_fps"):
        if name in values and RATE.fullmatch(values[name]) is None:
            raise ValueError(f"{name} is {brief(values[name])}, not a fraction above 0")
    if values.get("num_frames", 1) < 1:
        raise ValueError(f"num_frames is {values['num_frames']}")
    if any(len(box) not in (0, 3) for box in values.get("face_boxes", ())):
        raise ValueError("face_boxes are not all x, y and side")
    for name in values.get("files", ()):
        if name != PurePath(name).name:
            raise ValueError(f"it lists {brief(name)}, which is not a file of its folder")
    return values


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value fits a field's type; numbers must be finite and not exceed LARGEST."""
    if hint is Any:
        return True
    if hint is float or hint is int:
        kinds = (int, float) if hint is float else int
        return isinstance(value, kinds) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
    outer, inner = _parts_of(hint)
    if not isinstance(value, outer):
        return False
    members = value.values() if outer is dict else value if outer is list else ()
    return inner is Any or all(_fits(member, inner) for member in members)


@functools.cache
def _parts_of(hint: Any) -> tuple[Any, Any]:
    """A field's type, and that of its members; looked up once, since a run reads a million clip.json."""
    inner = typing.get_args(hint)
    return typing.get_origin(hint) or hint, inner[-1] if inner else Any


def write_clip_info(folder: Path, info: ClipInfo) -> None:
    """Write clip.json into a folder that is not yet under its final name."""
    # one line per field; otherwise the boxes of a long clip would fill most lines
    fields = sorted((name, value) for name, value in vars(info).items() if value != _DEFAULTS.get(name))
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value, sort_keys=True)}" for name, value in fields)
    (folder / INFO_NAME).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read_clip_info(folder: Path) -> ClipInfo | None:
    """clip.json of a clip folder, packed or not; None if it has none. Raises ClipError if it is not valid."""
    values = read_info_values(folder, with_boxes=True)
    try:
        return ClipInfo(**values) if values else None
    except TypeError as error:
        raise _invalid(folder, error) from error


def read_info_values(folder: Path, *, with_boxes: bool = False) -> dict[str, Any]:
    """The values of a clip.json of any layout version, packed or not; {} if there is none. Raises ClipError.

    Without the face boxes, which are most of the file, this is cheap enough for every clip of a run.
    """
    path = folder / INFO_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        member = find_member(path)
        if member is None:
            return {}
        with member.open() as file:
            text = file.read()
    except OSError as error:
        raise ClipError(path, f"cannot be read ({error.strerror}); prepare the clip again") from error
    start = text.find(b'"face_boxes": [')
    end = text.find(b"]],\n", start)
    # our own layout: one line per field
    if not with_boxes and 0 <= start < end and b"\n" not in text[start:end]:
        text = text[:start] + text[end + 4 :]
    try:
        return check_info_values(parse_json(text))
    except ValueError as error:
        raise _invalid(folder, error) from error


def known_header(folder: Path, info: Mapping[str, Any] | None = None) -> tuple[Fraction, int] | None:
    """(frames per second, number of frames) of a clip's crop, from the index of its pack or from clip.json;
    None if neither says it. Opens no crop. Raises ClipError if clip.json is not valid.

    `info`: the values of clip.json, if they were read before.
    """
    if (packed := find_clip(folder)) and packed[0].members(packed[1]):
        fps, num_frames = packed[0].clip_header(packed[1])
        return Fraction(fps), num_frames
    info = read_info_values(folder) if info is None else info
    if not {"fps", "num_frames"} <= info.keys():
        return None
    return Fraction(info["fps"]), info["num_frames"]


def _invalid(folder: Path, why: object) -> ClipError:
    reason = f"is not a valid clip.json of layout {LAYOUT_VERSION} ({why}); prepare the clip again"
    return ClipError(folder / INFO_NAME, reason)


def require_long_enough(path: Path, num_frames: int, fps: Fraction) -> None:
    """Raise ClipError if a clip is too short for training, which would stop at it."""
    seconds = num_frames / fps
    if seconds < MIN_CLIP_S:
        found = f"too short: {num_frames} frames, {float(seconds):.3f} s"
        raise ClipError(path, f"{found}; training needs at least {MIN_CLIP_S:g} s")


def find_audio(folder: Path) -> Path:
    """The sound file of a clip folder, packed or not. Raises ClipError if there is none."""
    for name in AUDIO_NAMES:
        if (folder / name).is_file() or find_member(folder / name):
            return folder / name
    raise ClipError(folder, f"no {' or '.join(AUDIO_NAMES)}; prepare the clip again")


def open_landmarks(folder: Path) -> npt.NDArray[np.floating[Any]]:
    """Memory-mapped landmarks (T, 478, 2) of a clip folder; (T, 956) is read as the same.

    Raises ClipError if the file is missing, unreadable, or of another shape or type.
    """
    path = folder / LANDMARKS_NAME
    member = find_member(path)
    if member is None and not path.is_file():
        raise ClipError(path, "missing; run preprocess.extract_landmarks")
    try:
        landmarks = member.array() if member else open_array(path)
    except (ValueError, OSError, EOFError) as error:
        reason = f"not a readable .npy file ({error}); run preprocess.extract_landmarks"
        raise ClipError(path, reason) from error
    if landmarks.ndim == 2 and landmarks.shape[1] == 2 * NUM_LANDMARKS:
        landmarks = landmarks.reshape(-1, NUM_LANDMARKS, 2)
    if landmarks.ndim != 3 or landmarks.shape[1:] != (NUM_LANDMARKS, 2) or landmarks.shape[0] == 0:
        raise ClipError(path, f"shape {landmarks.shape}, expected (T, {NUM_LANDMARKS}, 2) with T > 0")
    if landmarks.dtype.kind != "f":
        raise ClipError(path, f"type {landmarks.dtype}, expected float32")
    return landmarks
