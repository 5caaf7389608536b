"""Copy a video as M2SD's released script draws it: a box and a word for each face, in an AVI without sound.

Kept from the script: words, colours, thickness, place of the text, its threshold, and a frame's score: the
mean P(fake) of the windows that show it. Changed: each face has scores of its own (there, those of all faces
are averaged, and only the last box is drawn), all frames are drawn, not the first 768, and sizes are those of
1,080 lines, smaller in smaller pictures, with the text inside the picture. A face that cannot be judged is
called undecided, which the script does not know, and a caveat stands across the top of each frame.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import expit

from models.judging.annotate import caveat_line
from models.judging.verdict import FaceVerdict, over_frames
from models.judging.walk import Floats, Pixels, ShowProgress, open_copy, to_even, walk_faces
from preprocess.clip.all_faces import TrackedVideo

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
    show_progress: ShowProgress = lambda pictures, count: pictures,
) -> None:
    """Write `target` (.avi): all frames of `source` with its rate and size.

    scores: `frame_scores` per face. doubted: faces that cannot be judged. caveat: in every frame.
    """
    line = caveat_line(caveat, tracked.width, tracked.height)
    with open_copy(target, tracked.fps, tracked.width, tracked.height) as writer:
        for frame, faces in walk_faces(source, tracked, show_progress):
            for number, place, box, points in faces:
                prob = scores[number][place]
                if not np.isnan(prob):
                    word = "undecided" if doubted[number] else "fake" if prob > THRESHOLD else "real"
                    _draw(frame, box, points, word)
            rows = min(len(line), len(frame))
            frame[:rows] = line[:rows]
            writer.write(to_even(frame))


def _draw(frame: Pixels, box: Floats, points: Floats, word: str) -> None:
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
