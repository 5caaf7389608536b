"""Reasons not to trust a detector, trained on talking faces, with a face of a raw video."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.judging.verdict import runs_of
from preprocess.clip.all_faces import TrackClip, TrackedVideo
from preprocess.faces.track import CropConfig
from utils.clip.files import AUDIO_NAME
from utils.clip.sound import read_waveform

SILENCE_DBFS = -60.0
MISSING_FACE_S = 0.4  # longer gaps without a face are noted


def doubts_of(
    track: TrackClip, tracked: TrackedVideo, min_face_px: float, window_s: float | None
) -> list[str]:
    """Reasons in a face's picture; `window_s`: of the windows that were scored, None if there were none."""
    reasons = []
    height = face_height_px(track)
    if height < min_face_px:
        reasons.append(f"face too small: {height:.0f} pixels high")
    seconds = int(track.has_face.sum()) / float(tracked.fps)
    if window_s is None or seconds < 0.9 * window_s:
        reasons.append(f"too few frames: the face is seen for {seconds:.2f} s")
    elif track.has_face.mean() < 0.5:
        reasons.append(f"the face is seen in {track.has_face.mean():.0%} of its track only")
    return reasons


def doubts_of_sound(track: TrackClip, tracked: TrackedVideo) -> list[str]:
    """Reasons in a face's sound, for methods that judge it."""
    if tracked.silent:
        return ["no sound"]
    return doubts_of_level(_level_dbfs(track.folder / AUDIO_NAME))


def doubts_of_level(level_dbfs: float) -> list[str]:
    """Reasons in the level of the loudest second of a face's sound."""
    return [f"no speech: the sound's level is {level_dbfs:.0f} dB"] if level_dbfs < SILENCE_DBFS else []


def notes_of(tracked: TrackedVideo) -> list[str]:
    """What else is to be known of a video: what its tracks say, times without a face, a lack of sound."""
    fps, notes = float(tracked.fps), list(tracked.notes)
    missing = np.ones(tracked.num_frames, bool)
    for track in tracked.tracks:
        missing[track.first_frame : track.first_frame + track.num_frames] &= ~track.has_face
    if not tracked.tracks:
        notes.append("no face was found")
    else:
        gaps = [(start, end) for start, end in runs_of(missing) if end - start >= MISSING_FACE_S * fps]
        notes += [f"no face from {start / fps:.2f} to {end / fps:.2f} s" for start, end in gaps]
    if tracked.silent:
        mute = tracked.silent_reason == "digital silence"
        notes.append("the video's sound is digital silence" if mute else "the video has no sound track")
    return notes


def face_height_px(track: TrackClip) -> float:
    """Median height of a face, from hairline to chin."""
    return float(np.median(track.face_boxes[:, 2])) / CropConfig.crop_margin


def _level_dbfs(path: Path) -> float:
    """Root mean square level of the loudest second, in dBFS."""
    loudest, start = 0.0, 0.0
    while len(piece := read_waveform(path, 16_000, start_s=start, duration_s=1.0)):
        loudest = max(loudest, float((piece**2).mean()))
        start += 1.0
    return 10 * float(np.log10(loudest + 1e-12))
