"""What the audit measures in a prepared clip: numbers, checksums, coarse picture and sound descriptors.

Numbers about the raw file come from clip.json. Folders prepared by other tools have no clip.json, and older
ones lack some fields: unknown values are NaN (or "") and are left out of the rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from loaders.batches.silence import block_levels_db, leading_digital_silence_s, leading_silence_s
from utils.clip.backends import backend_of
from utils.clip.files import AUDIO_NAMES, VIDEO_NAME, find_audio, open_landmarks, read_info_values
from utils.clip.frames import read_frames, read_video_header
from utils.clip.packed import find_member, open_member
from utils.clip.sound import read_waveform
from utils.clip_type import Clip
from utils.errors import UsageError
from utils.files import file_sha256

NUM_FRAMES = 8  # evenly spread frames of the crop that describe the picture
PICTURE_SIDE = 8  # lowest frequencies of the cosine transform of a frame, per direction
SOUND_BANDS = 16  # mel bands in SOUND_RANGE_HZ, which a low bit rate preserves
SOUND_STEPS = 32  # evenly spread over the clip
SOUND_RANGE_HZ = (150.0, 4000.0)
SOUND_RATE_HZ = 16_000
SOUND_DEPTH_DB = 50.0  # further below the loudest part is codec noise


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """Measurements of a clip: numbers and names by rule, checksums, picture and sound descriptors."""

    numbers: dict[str, float]  # NaN = unknown
    names: dict[str, str]  # of what has no order: codec, colour, ...; "" = unknown
    checksums: dict[str, str]  # by kind of file: "raw file", "raw sound", "picture", "sound" -> sha256
    picture: npt.NDArray[np.float32]  # (NUM_FRAMES * 63,) in grey levels
    sound: npt.NDArray[np.float32]  # (SOUND_BANDS * SOUND_STEPS,) in dB; zeros if the clip is silent
    silent: bool


def known_checksums(info: dict[str, Any]) -> dict[str, str]:
    """Checksums in clip.json. The sound of a silent clip is left out: all of equal length are identical."""
    files = info.get("files", {})
    sound = next((files[name] for name in AUDIO_NAMES if name in files), "")
    found = {
        "raw file": info.get("source_sha256", ""),
        "raw sound": info.get("sound_sha256", ""),
        "picture": files.get(VIDEO_NAME, ""),
        "sound": "" if info.get("silent") else sound,
    }
    return {kind: value for kind, value in found.items() if value}


def measure_clip(clip: Clip) -> ClipFacts:
    """Measure a clip. Raises ClipError if a file of it cannot be read, UsageError for a folder of frames."""
    if clip.frames is not None:
        raise UsageError(
            f"{clip.clip_id} is a folder of frames: the audit also measures sound, landmarks and raw files. "
            "Leaks of persons and identical frames are looked for when train.py starts"
        )
    folder = clip.folder
    info = read_info_values(folder, with_boxes=True)
    video_path, audio_path = folder / VIDEO_NAME, find_audio(folder)
    fps, _ = read_video_header(video_path)
    num_frames = len(open_landmarks(folder))
    duration_s = num_frames / float(fps)
    waveform = read_waveform(audio_path, SOUND_RATE_HZ)
    levels_db = block_levels_db(waveform, SOUND_RATE_HZ)
    silent = not len(levels_db) or bool(levels_db.max() <= -100)
    # from the middles of equal parts of the clip
    places = ((np.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES * num_frames).astype(np.int64)
    frames = read_frames(video_path, places)
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    checksums = known_checksums(info)
    for kind, path in (("picture", video_path), ("sound", audio_path)):
        is_file = not math.isnan(_num_bytes(path))
        if kind not in checksums and is_file and not (kind == "sound" and silent):
            checksums[kind] = file_sha256(open_member(path) or path)
    return ClipFacts(
        numbers={
            "leading_silence": leading_silence_s(levels_db),
            "leading_digital_silence": leading_digital_silence_s(levels_db),
            "loudness": 10 * math.log10(float((waveform**2).mean()) + 1e-12) if len(waveform) else -120.0,
            "duration": duration_s,
            **_source_numbers(info, fps, duration_s),
            **_face_numbers(folder, info),
            "crop_bit_rate": _num_bytes(video_path) * 8 / duration_s,
            "brightness": float(grey.mean()),
            "sharpness": float(np.mean([cv2.Laplacian(image, cv2.CV_32F).std() for image in grey])),
        },
        names={
            "landmark_backend": backend_of(info),
            "codec": str(info.get("source_codecs", "")),
            "colour": _colour(info),
        },
        checksums=checksums,
        picture=picture_descriptor(grey),
        sound=sound_descriptor(waveform),
        silent=silent,
    )


def _num_bytes(path: Path) -> float:
    """Size of a file in bytes, packed or not; NaN if only its decoded frames are stored."""
    member = find_member(path)
    if member is None and not path.is_file():
        return math.nan
    return float(member.size if member else path.stat().st_size)


def _colour(info: dict[str, Any]) -> str:
    """The raw file's transfer, primaries and depth; clip.json leaves out those of an ordinary 8 bit file."""
    if "source_codecs" not in info:
        return ""
    colour = info.get("source_colour") or {"depth": 8}
    return "/".join(f"{name} {colour[name]}" for name in sorted(colour))


def _source_numbers(info: dict[str, Any], fps: Fraction, duration_s: float) -> dict[str, float]:
    """Rules about the raw file; the frame rate defaults to that of the crop, which preprocessing keeps."""
    width, height = info.get("source_width", math.nan), info.get("source_height", math.nan)
    num_bytes = float(info.get("source_bytes", math.nan))
    padded_s = max(info.get("audio_start_s", math.nan), 0.0) + info.get("audio_padded_s", math.nan)
    return {
        "frame_rate": float(Fraction(info["source_fps"])) if "source_fps" in info else float(fps),
        "variable_frame_rate": float(info.get("variable_frame_rate", math.nan)),
        "interlaced": float(info.get("interlaced", False if "source_codecs" in info else math.nan)),
        "resolution": float(width) * float(height),
        "file_size": num_bytes,
        "bit_rate": num_bytes * 8 / duration_s,
        "padding_share": padded_s / duration_s,
    }


def _face_numbers(folder: Path, info: dict[str, Any]) -> dict[str, float]:
    """Rules about the detected faces; no_face_share defaults to that of the landmarks."""
    sides = [box[2] for box in info.get("face_boxes", []) if box]
    no_face = np.isnan(open_landmarks(folder)[:, 0, 0]).mean()
    if {"frames_without_face", "num_frames"} <= info.keys():
        no_face = len(info["frames_without_face"]) / info["num_frames"]
    return {
        "num_faces": float(info.get("num_face_tracks", math.nan)),
        "face_size": float(np.median(sides)) if sides else math.nan,
        "no_face_share": float(no_face),
    }


def picture_descriptor(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(F, H, W) luma -> (F * 63,): the 8 x 8 lowest cosine frequencies of each frame, without the mean.

    Brightness, noise and block artefacts of an encoder hardly affect it.
    """
    parts = []
    for image in grey:
        small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
        parts.append(cv2.dct(small)[:PICTURE_SIDE, :PICTURE_SIDE].ravel()[1:] / 32)
    return np.concatenate(parts)


def _mel_weights(num_bins: int) -> npt.NDArray[np.float32]:
    """(SOUND_BANDS, num_bins) triangular filters, evenly spaced in mel."""
    low, high = (2595 * np.log10(1 + f / 700) for f in SOUND_RANGE_HZ)
    edges = 700 * (10 ** (np.linspace(low, high, SOUND_BANDS + 2) / 2595) - 1)
    bins = np.linspace(0, SOUND_RATE_HZ / 2, num_bins)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


def sound_descriptor(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N,) at SOUND_RATE_HZ -> (SOUND_BANDS * SOUND_STEPS,): levels of mel bands over time, in dB.

    Levels are cut 50 dB below the loudest, and their mean is removed, so that a gain has no effect. Zeros if
    the sound is silent or shorter than one spectrum.
    """
    size, hop = 1024, 256
    num_spectra = (len(waveform) - size) // hop + 1
    if num_spectra < 1 or not np.abs(waveform).max() > 1e-4:
        return np.zeros(SOUND_BANDS * SOUND_STEPS, np.float32)
    window, weights = np.hanning(size).astype(np.float32), _mel_weights(size // 2 + 1)
    bands = np.empty((num_spectra, SOUND_BANDS), np.float32)
    for start in range(0, num_spectra, 2048):  # in chunks: memory does not grow with the clip
        places = np.arange(start, min(start + 2048, num_spectra))[:, None] * hop + np.arange(size)
        bands[start : start + len(places)] = (np.abs(np.fft.rfft(waveform[places] * window)) ** 2) @ weights.T
    steps = np.linspace(0, num_spectra, SOUND_STEPS + 1)
    starts = np.minimum(steps[:-1].astype(int), num_spectra - 1)
    ends = np.maximum(starts + 1, steps[1:].astype(int))
    means = np.stack([bands[start:end].mean(0) for start, end in zip(starts, ends, strict=True)])
    levels = 10 * np.log10(np.maximum(means, 1e-12))
    levels = np.maximum(levels, levels.max() - SOUND_DEPTH_DB)
    return (levels - levels.mean()).ravel().astype(np.float32)
