"""The frames of a judged video with the faces in each, and the file that their copies go into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.clip.all_faces import TrackedVideo
from preprocess.clip.schedule import iterate_schedule
from utils.clip.files import open_landmarks
from utils.media.picture import Picture
from utils.media.times import read_video_times
from utils.media.writer import VideoWriter

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)
Floats = npt.NDArray[np.floating[Any]]
ShowProgress = Callable[[Iterable[Picture], int], Iterable[Picture]]  # (pictures, their number)


class FaceInFrame(NamedTuple):
    """A tracked face in one frame of the video."""

    number: int  # which of TrackedVideo.tracks
    place: int  # frame of that track
    box: Floats  # (3,) x, y, side of the crop in pixels of the frame
    points: Floats  # (478, 2) landmarks in units of the box, NaN where Face Mesh sees no face


def walk_faces(
    source: Path, tracked: TrackedVideo, show_progress: ShowProgress
) -> Iterator[tuple[Pixels, list[FaceInFrame]]]:
    """Yield each frame of the video, RGB to draw into, with the faces whose tracks cover it.

    One decode pass in constant memory. Raises ClipError if the video cannot be decoded.
    """
    landmarks = [open_landmarks(track.folder) for track in tracked.tracks]
    pictures = iterate_schedule(source, read_video_times(source))
    for index, picture in enumerate(show_progress(pictures, tracked.num_frames)):
        faces = []
        for number, track in enumerate(tracked.tracks):
            place = index - track.first_frame
            if 0 <= place < track.num_frames:
                box, points = track.face_boxes[place], landmarks[number][place]
                faces.append(FaceInFrame(number, place, box, points))
        yield picture.rgb().copy(), faces  # a picture that stays for several frames comes again


def open_copy(target: Path, fps: Fraction, width: int, height: int) -> VideoWriter:
    """A writer of `target` (.mp4 or .avi) for frames of width x height that went through `to_even`."""
    return VideoWriter(
        target,
        fps=fps,
        width=width + width % 2,
        height=height + height % 2,
        crf=20,
        container=target.suffix.removeprefix("."),
    )


def to_even(frame: Pixels) -> Pixels:
    """The frame with its last row and column repeated if their number is odd, which encoders dislike."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
