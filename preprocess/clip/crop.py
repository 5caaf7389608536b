"""The largest face of a video as `cropped_video.mp4`, 224x224, steady and square, with its landmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from preprocess.clip.schedule import iterate_schedule
from preprocess.faces.track import CropConfig
from preprocess.faces.tracker import FaceTracker
from utils.errors import NoFaceError
from utils.media.picture import Picture
from utils.media.times import VideoTimes

# (full frames, frames per second, folder for temporary files) -> the same number of frames
PictureChange = Callable[[Iterator[Picture], Fraction, Path], Iterator[Picture]]


@dataclass(frozen=True, kw_only=True)
class CropReport:
    """What was found in one video while its face was cropped: these fields of clip.json."""

    source_width: int  # as displayed, in pixels
    source_height: int
    face_boxes: list[list[float]]  # x, y, side per frame; [] outside of the track
    frames_without_face: list[int]
    num_face_tracks: int
    frames_undecoded: list[int]
    interlaced: bool
    cuts: list[int]


def crop_face(
    source: Path, folder: Path, times: VideoTimes, config: CropConfig, change: PictureChange | None = None
) -> tuple[CropReport, int]:
    """Write `cropped_video.mp4` and `landmarks.npy` of the largest track of one face into `folder`.

    Returns what was found, and the number of frames with any face. A hard cut ends a track; if the face comes
    back without one, the track goes on. Decodes the video once and holds about a second of it. `folder` must
    exist; temporary files go there, too. `change` applies to the full frames before all else.

    Raises ClipError if the video cannot be decoded, NoFaceError if no face is found.
    """
    num_frames = len(times.starts_s)
    tracker = FaceTracker(folder, num_frames=num_frames, fps=times.fps, config=config)
    undecoded: list[int] = []
    pictures = iterate_schedule(source, times, undecoded)
    if change is not None:
        pictures = change(pictures, times.fps, folder)
    tracks = tracker.follow(pictures)
    if not tracks:
        raise NoFaceError(source, f"no face in any of its {num_frames} frames")
    (track,) = tracks
    track.move_to(folder)
    end = track.first_frame + len(track.boxes)
    boxes = [[round(value, 2) for value in box] for box in track.boxes]
    report = CropReport(
        source_width=tracker.width,
        source_height=tracker.height,
        face_boxes=[[]] * track.first_frame + boxes + [[]] * (num_frames - end),
        frames_without_face=[*range(track.first_frame), *track.without_face, *range(end, num_frames)],
        num_face_tracks=tracker.num_tracks,
        frames_undecoded=undecoded,
        interlaced=tracker.interlaced,
        cuts=tracker.cuts,
    )
    return report, tracker.num_frames_with_face


def require_faces(
    path: Path,
    num_seen: int,
    num_frames: int,
    min_fraction: float,
    *,
    num_with_any: int = 0,
    num_cuts: int = 0,
) -> None:
    """Raise NoFaceError if a face was found in too few frames; `num_with_any` counts those with any face."""
    if num_seen >= min_fraction * num_frames:
        return
    found = f"a face in {num_seen} of {num_frames} frames ({num_seen / num_frames:.0%})"
    reason = f"{found}, fewer than --min_face_fraction {min_fraction:g}"
    if num_with_any > num_seen:
        reason = (
            f"one {reason.removeprefix('a ')}; any face in {num_with_any} ({num_with_any / num_frames:.0%})"
        )
        if num_cuts:
            reason += f", but a track ends at a hard cut, and there are {num_cuts}"
        reason += "; lower the flag, or split the video by persons and shots"
    raise NoFaceError(path, reason)
