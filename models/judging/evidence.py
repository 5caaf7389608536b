"""What a score relies on: shift the sound against the picture, blur regions of the face."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from loaders.batches.windows import ClipDataset, ClipWindow, WindowStart, window_frames
from utils.clip.face_regions import FACE_OVAL, LEFT_BROW, LEFT_EYE, LIPS, NOSE, RIGHT_BROW, RIGHT_EYE
from utils.clip.files import CROP_SIZE, open_landmarks

Score = Callable[[ClipWindow], float]  # the clip's logit of one window
BLUR_SIGMA = 12.0  # pixels of the crop: eyes and lips dissolve
REGIONS = {
    "eyes": (LEFT_EYE + LEFT_BROW, RIGHT_EYE + RIGHT_BROW),
    "nose": (NOSE,),
    "mouth": (LIPS,),
    "contour": (FACE_OVAL,),  # a ring along it
}


def lag_curve(
    score: Score, dataset: ClipDataset, starts: Sequence[int], fps: Fraction, lag_frames: int
) -> dict[str, list[float]]:
    """Mean logit of some windows for each delay of their sound, from -lag_frames to lag_frames.

    If picture and sound belong together, a detector that uses both scores lowest near 0.
    """
    delays = [frames / float(fps) for frames in range(-lag_frames, lag_frames + 1)]
    curve = [
        float(np.mean([score(dataset[0, WindowStart(start, delay)]) for start in starts]))
        for delay in tqdm(delays, desc="sound against picture", unit="shift", leave=False)
    ]
    return {"delay_s": [round(delay, 4) for delay in delays], "logit": curve}


def region_map(score: Score, dataset: ClipDataset, starts: Sequence[int], fps: Fraction) -> dict[str, float]:
    """Mean drop of the logit over some windows when a region of the face is blurred.

    A large positive drop suggests a forgery there; a negative one speaks against it.
    """
    falls: dict[str, list[float]] = {name: [] for name in REGIONS}
    landmarks = open_landmarks(dataset.clips[0].folder)
    for start in starts:
        window = dataset[0, WindowStart(start)]
        before = score(window)
        shown = landmarks[window_frames(start, len(landmarks), fps, dataset.config)]
        for name in REGIONS:
            video = torch.from_numpy(blur_region(window.video.numpy(), shown, name))
            falls[name].append(before - score(dataclasses.replace(window, video=video)))
    return {name: float(np.mean(values)) for name, values in falls.items()}


def blur_region(
    video: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.float32], region: str
) -> npt.NDArray[np.uint8]:
    """(T, H, W, 3) with a region of the face blurred; frames without landmarks stay unchanged."""
    video = video.copy()
    for frame, points in zip(video, landmarks, strict=True):
        if np.isnan(points).any():
            continue
        scale = frame.shape[0]
        mask = np.zeros(frame.shape[:2], np.uint8)
        for vertices in REGIONS[region]:
            hull = cv2.convexHull((points[list(vertices)] * scale).astype(np.int32))
            if region == "contour":
                cv2.polylines(mask, [hull], True, (255,), thickness=max(1, round(0.1 * scale)))
            else:
                cv2.fillConvexPoly(mask, hull, (255,))
        if region != "contour":
            mask[:] = cv2.dilate(mask, np.ones((5, 5), np.uint8), iterations=2)
        sigma = BLUR_SIGMA * scale / CROP_SIZE
        frame[mask > 0] = cv2.GaussianBlur(frame, (0, 0), sigma)[mask > 0]
    return video
