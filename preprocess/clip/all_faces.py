"""Each face of a raw video as its own clip, for judging: crop, landmarks and sound as in training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preprocess.clip.schedule import iterate_schedule
from preprocess.clip.sound import AudioConfig, WavWriter, extract_audio
from preprocess.faces.m2sd_tracker import M2sdTracker
from preprocess.faces.track import CropConfig, FaceTrack
from preprocess.faces.tracker import FaceTracker
from utils.clip.files import AUDIO_NAME
from utils.media.picture import Picture
from utils.media.times import read_video_times

MAX_TRACKS = 8  # per video: the largest faces
MIN_TRACK_S = 0.2  # faces that are visible for a shorter time are left out
PASSES = {"ours": 1, "m2sd": 2}  # how faces are followed -> how often the video is decoded for it


@dataclass(frozen=True, kw_only=True)
class TrackClip:
    """One face of a video: a clip folder with its frames, from `first_frame` on, and their sound."""

    folder: Path
    first_frame: int
    num_frames: int
    face_boxes: npt.NDArray[np.float64]  # (num_frames, 3) x, y, side in pixels of the displayed source frame
    has_face: npt.NDArray[np.bool_]  # (num_frames,)


@dataclass(frozen=True, kw_only=True)
class TrackedVideo:
    """The faces of a raw video."""

    fps: Fraction
    num_frames: int
    width: int
    height: int
    silent: bool  # without a sound track, or with digital silence in it
    silent_reason: str = ""
    sound: Path  # mono wav as long as the picture
    tracks: list[TrackClip]  # the largest face first; empty if no face was found
    notes: Sequence[str] = ()  # what a reader must know of how faces were followed


def track_video(
    source: Path,
    folder: Path,
    *,
    rules: str = "ours",
    backend: str = "auto",
    show_progress: Callable[[Iterable[Picture], int], Iterable[Picture]] = lambda pictures, count: pictures,
) -> TrackedVideo:
    """Write a clip folder for each face of `source` below `folder`, in constant memory.

    rules: one of PASSES; backend: one of BACKENDS (preprocess/faces/backends.py). `show_progress(pictures,
    count)` may wrap the frames of all passes, e.g. in a bar.
    Raises ClipError if the video cannot be decoded. A video without a face or without sound is not an error;
    the result says so.
    """
    times = read_video_times(source)
    num_frames, fps = len(times.starts_s), times.fps
    folder.mkdir(parents=True, exist_ok=True)
    sound = folder / AUDIO_NAME
    audio = extract_audio(source, sound, times, AudioConfig(allow_silent=True, max_missing_audio_s=1e9))
    passes = (iterate_schedule(source, times) for _ in range(PASSES[rules]))
    pictures = iter(show_progress(itertools.chain.from_iterable(passes), PASSES[rules] * num_frames))
    tracker: FaceTracker | M2sdTracker
    if rules == "m2sd":
        tracker = M2sdTracker(folder, fps=fps, max_tracks=MAX_TRACKS, backend=backend)
        tracker.search(itertools.islice(pictures, num_frames))
    else:
        config = CropConfig(landmark_backend=backend)
        tracker = FaceTracker(folder, num_frames=num_frames, fps=fps, config=config, max_tracks=MAX_TRACKS)
    clips = [
        _to_clip(track, folder / f"face_{number}", sound, fps)
        for number, track in enumerate(tracker.follow(pictures))
    ]
    return TrackedVideo(
        fps=fps,
        num_frames=num_frames,
        width=tracker.width,
        height=tracker.height,
        silent=audio.silent,
        silent_reason=audio.silent_reason,
        sound=sound,
        tracks=[clip for clip in clips if clip is not None],
        notes=tracker.notes if isinstance(tracker, M2sdTracker) else (),
    )


def _to_clip(track: FaceTrack, folder: Path, sound: Path, fps: Fraction) -> TrackClip | None:
    """Move a finished track into a clip folder; None, and its files are deleted, if it is too short."""
    length = len(track.boxes)
    if length < MIN_TRACK_S * fps:
        track.delete_files()
        return None
    folder.mkdir(exist_ok=True)
    track.move_to(folder)
    _cut_sound(sound, folder / AUDIO_NAME, track.first_frame / fps, length / fps)
    return TrackClip(
        folder=folder,
        first_frame=track.first_frame,
        num_frames=length,
        face_boxes=np.array(track.boxes),
        has_face=~np.isin(track.first_frame + np.arange(length), track.without_face),
    )


def _cut_sound(source: Path, target: Path, start_s: Fraction, duration_s: Fraction) -> None:
    import soundfile

    with soundfile.SoundFile(source) as file:
        rate = file.samplerate
        total = round(duration_s * rate)
        file.seek(round(start_s * rate))
        with WavWriter(target, rate, total) as wav:
            for piece in file.blocks(1 << 18, frames=total, dtype="float32"):
                wav.write(piece)
            wav.pad_to(total)
