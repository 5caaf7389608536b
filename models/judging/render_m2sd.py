"""Copy a video as M2SD's released script draws it: a box and a word for each face, in an AVI without sound.

Kept from the script: words, colours, thickness, place of the text, its threshold, and a frame's score: the
mean P(fake) of the windows that show it. Changed: each face has scores of its own (there, those of all faces
are averaged, and only the last box is drawn), all frames are drawn, not the first 768, and sizes are those of
1,080 lines, smaller in smaller pictures, with the text inside the picture. A face that cannot be judged is
called undecided, which the script does not know, and a caveat stands across the top of each frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import expit

from models.judging.annotate import caveat_line
from models.judging.verdict import FaceVerdict, over_frames
from preprocess.clip.all_faces import TrackedVideo
from preprocess.clip.schedule import iterate_schedule
from utils.clip.files import open_landmarks
from utils.media.picture import Picture
from utils.media.times import read_video_times
from utils.media.writer import VideoWriter

THRESHOLD = 0.002584857167676091  # of another detector (FTCN), and never fitted to M2SD's scores
COLORS = {"real": (0, 255, 255), "fake": (255, 255, 0), "undecided": (200, 200, 200)}  # RGB: cyan, yellow
LINES = 1080  # of a picture in which a box is 10 pixels thick
FONT = cv2.FONT_HERSHEY_SIMPLEX


def frame_scores(face: FaceVerdict, window_frames: int) -> npt.NDArray[np.float64]:
    """(num_frames,) mean P(fake), without temperature, of the windows that show a frame; NaN without any."""
    return over_frames(face.window_starts, expit(face.window_logits), face.num_frames, window_frames)


def render_m2sd(
    source: Path,
    target: Path,
    tracked: TrackedVideo,
    scores: list[npt.NDArray[np.float64]],
    doubted: list[bool],
    caveat: str = "",
    *,
    show_progress: Callable[[Iterable[Picture], int], Iterable[Picture]] = lambda pictures, count: pictures,
) -> None:
    """Write `target` (.avi): all frames of `source` with its rate and size.

    scores: `frame_scores` per face. doubted: faces that cannot be judged. caveat: in every frame.
    """
    times = read_video_times(source)
    line = caveat_line(caveat, tracked.width, tracked.height)
    landmarks = [open_landmarks(track.folder) for track in tracked.tracks]
    width, height = tracked.width + tracked.width % 2, tracked.height + tracked.height % 2
    to_even = ((0, height - tracked.height), (0, width - tracked.width), (0, 0))
    with VideoWriter(target, fps=tracked.fps, width=width, height=height, crf=20, container="avi") as writer:
        pictures = show_progress(iterate_schedule(source, times), tracked.num_frames)
        for index, picture in enumerate(pictures):
            frame = np.ascontiguousarray(picture.rgb())
            for track, points, probs, doubt in zip(tracked.tracks, landmarks, scores, doubted, strict=True):
                place = index - track.first_frame
                if 0 <= place < track.num_frames and not np.isnan(probs[place]):
                    word = "undecided" if doubt else "fake" if probs[place] > THRESHOLD else "real"
                    _draw(frame, track.face_boxes[place], points[place], word)
            rows = min(len(line), len(frame))
            frame[:rows] = line[:rows]
            writer.write(np.pad(frame, to_even, mode="edge"))


def _draw(
    frame: npt.NDArray[np.uint8], box: npt.NDArray[np.float64], points: npt.NDArray[Any], word: str
) -> None:
    """A face's rectangle and its word; `box` (x, y, side) is the crop, `points` (L, 2) are in units of it.

    The rectangle is around the landmarks, as the script's detector sees a face; without any it is the crop.
    """
    low, high = np.zeros(2), np.ones(2)
    if not np.isnan(points).any():
        low, high = points.min(axis=0), points.max(axis=0)
    (x1, y1), (x2, y2) = np.rint(box[:2] + np.stack([low, high]) * box[2]).astype(int).tolist()
    unit = frame.shape[0] / LINES
    cv2.rectangle(frame, (x1, y1), (x2, y2), COLORS[word], max(1, round(10 * unit)))
    scale, thick = 3 * unit, max(1, round(5 * unit))
    (wide, tall), below = cv2.getTextSize(word, FONT, scale, thick)
    left = int(np.clip(x1, 0, max(0, frame.shape[1] - wide)))
    base = int(np.clip(y2 + 68 * unit, tall, frame.shape[0] - below))
    cv2.putText(frame, word, (left, base), FONT, scale, COLORS[word], thick, cv2.LINE_AA)
