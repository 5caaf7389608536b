"""The mouth as lip-reading networks see it: 96x96 grey pixels of a face that is turned upright.

As in AV-HuBERT's align_mouth.py (facebookresearch/av_hubert, 2a7d99b): a similarity carries the nose's base
and the corners of the eyes, averaged over 12 frames, onto those of a mean face in 256x256 pixels
(20words_mean_face.npy of mpc001/Lipreading_using_Temporal_Convolutional_Networks); the picture is the square
around the middle of the lips there. Not as published: points of Face Mesh, not dlib's; of a face crop, which
was resized before, not of the video; not compressed again.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from utils.clip.face_regions import LIPS
from utils.clip.files import LANDMARKS_NAME, open_landmarks
from utils.errors import ClipError

SIDE = 96
SMOOTHED = 12  # frames, from each one on
# base of the nose, corners of the left and of the right eye, and where the mean face has them
STABLE = (2, 33, 133, 362, 263)
MEAN_FACE = np.array([128.9 + 137.3j, 92.5 + 94.4j, 112.8 + 94.9j, 145.5 + 94.5j, 166.7 + 93.6j])  # x + y j


class Mouths:
    """The places of the mouth in a clip's frames.

    Frames without a face have the places between their neighbours'. Raises ClipError if the clip's landmarks
    are missing or not valid, or if no frame has a face.
    """

    def __init__(self, folder: Path) -> None:
        landmarks = open_landmarks(folder)
        points = landmarks[:, [*STABLE, *LIPS]].astype(np.float64)
        is_spread = (points != points[:, :1])[:, : len(STABLE)].any(axis=(1, 2))  # not zeros of another tool
        found = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)) & is_spread)
        if not len(found):
            raise ClipError(folder / LANDMARKS_NAME, "has no face in any frame, so there is no mouth to see")
        frames = np.arange(len(points))
        columns = points.reshape(len(points), -1).T
        filled = np.stack([np.interp(frames, found, column[found]) for column in columns], axis=1)
        filled = filled.reshape(points.shape)
        count = min(SMOOTHED, len(points))
        smoothed = np.lib.stride_tricks.sliding_window_view(filled[:, : len(STABLE)], count, axis=0).mean(-1)
        self._stable = smoothed[np.minimum(frames, len(smoothed) - 1)]  # (T, 5, 2)
        self._middle = filled[:, len(STABLE) :].mean(axis=1)  # (T, 2)

    def __len__(self) -> int:
        return len(self._stable)

    def cut(self, frames: npt.NDArray[np.int64], images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(n, 96, 96) mouths in RGB `images` (n, H, W, 3) of `frames` (n,), whose edges go on beyond them."""
        height, width = images.shape[1:3]
        scale = np.array([width, height])
        stable = (self._stable[frames] * scale) @ [1, 1j]  # (n, 5)
        middle = (self._middle[frames] * scale) @ [1, 1j]  # (n,)
        mouths = np.empty((len(frames), SIDE, SIDE), np.uint8)
        for mouth, image, points, centre in zip(mouths, images, stable, middle, strict=True):
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            cv2.warpAffine(
                grey, _to_mouth(points, centre), (SIDE, SIDE), dst=mouth, borderMode=cv2.BORDER_REPLICATE
            )
        return mouths


def _to_mouth(points: npt.NDArray[np.complex128], centre: complex) -> npt.NDArray[np.float64]:
    """(2, 3): from pixels of a picture to those of its mouth.

    The turn and scale that carry `points` (5,) onto the mean face's with the least squared error.
    """
    here, there = points - points.mean(), MEAN_FACE - MEAN_FACE.mean()
    turn = np.vdot(here, there) / np.vdot(here, here).real
    upright = turn * (centre - points.mean()) + MEAN_FACE.mean()
    corner = np.round(upright.real) - SIDE // 2 + 1j * (np.round(upright.imag) - SIDE // 2)
    shift = MEAN_FACE.mean() - turn * points.mean() - corner
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
