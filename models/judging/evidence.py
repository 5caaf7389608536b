"""What a score relies on: shift the sound against the picture, blur regions of the face.

A probe that moves the logit by less than rounding does is *saturated*: it shows nothing, and says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
import torch

from loaders.batches.places import window_frames
from loaders.batches.windows import ClipDataset, ClipWindow, WindowStart
from utils.clip.face_regions import FACE_OVAL, LEFT_BROW, LEFT_EYE, LIPS, NOSE, RIGHT_BROW, RIGHT_EYE
from utils.clip.files import CROP_SIZE, open_landmarks
from utils.evaluation.metrics import Floats
from utils.run.progress import Bar

Score = Callable[[Iterable[ClipWindow]], Floats]  # the clip's logits of windows, which it takes in batches
PROBE_WINDOWS = 3  # windows of a face on which lag and regions are probed
BLUR_SIGMA = 12.0  # pixels of the crop: eyes and lips dissolve
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# By how many steps of the precision rounding may move a logit. Measured on windows of real videos, with the
# checkpoint of a demo run: up to 27 between float32 and float64, up to 11 between bf16 and float32
ROUNDING_STEPS = 32
REGIONS = {
    "eyes": (LEFT_EYE + LEFT_BROW, RIGHT_EYE + RIGHT_BROW),
    "nose": (NOSE,),
    "mouth": (LIPS,),
    "contour": (FACE_OVAL,),  # a ring along it
}


def spread_probes(starts: Sequence[int]) -> list[int]:
    """At most PROBE_WINDOWS of the starts of windows, evenly spaced."""
    places = np.linspace(0, len(starts) - 1, min(PROBE_WINDOWS, len(starts)) + 2)[1:-1].round().astype(int)
    return [starts[place] for place in dict.fromkeys(places.tolist())]


def lag_curve(
    score: Score, dataset: ClipDataset, starts: Sequence[int], fps: Fraction, lag_frames: int
) -> dict[str, list[float]]:
    """Mean logit of some windows for each delay of their sound, from -lag_frames to lag_frames.

    If picture and sound belong together, a detector that uses both scores lowest near 0.
    """
    delays = [frames / float(fps) for frames in range(-lag_frames, lag_frames + 1)]
    bar = Bar(delays, desc="sound against picture", unit="shift", leave=False)
    logits = score(dataset[0, WindowStart(start, delay)] for delay in bar for start in starts)
    curve = logits.reshape(len(delays), len(starts)).mean(axis=1)
    return {"delay_s": [round(delay, 4) for delay in delays], "logit": curve.tolist()}


def region_map(score: Score, dataset: ClipDataset, starts: Sequence[int], fps: Fraction) -> dict[str, float]:
    """Mean drop of the logit over some windows when a region of the face is blurred.

    A large positive drop suggests a forgery there; a negative one speaks against it.
    """
    landmarks = open_landmarks(dataset.clips[0].folder)

    def variants() -> Iterator[ClipWindow]:
        for start in starts:
            window = dataset[0, WindowStart(start)]
            yield window
            shown = landmarks[window_frames(start, len(landmarks), fps, dataset.config)]
            for name in REGIONS:
                video = torch.from_numpy(blur_region(window.video.numpy(), shown, name))
                yield dataclasses.replace(window, video=video)

    before, *after = score(variants()).reshape(len(starts), 1 + len(REGIONS)).T
    return {name: float(np.mean(before - logits)) for name, logits in zip(REGIONS, after, strict=True)}


def rounding_of(logits: Sequence[float], precision: str) -> float:
    """How far rounding may move the largest of these logits; a logit below 1 is a sum of terms about 1."""
    largest = max(1.0, *map(abs, logits))
    return ROUNDING_STEPS * torch.finfo(DTYPES[precision]).eps * 2.0 ** math.floor(math.log2(largest))


def saturated_probes(
    lags: dict[str, list[float]] | None, regions: dict[str, float] | None, logit: float, precision: str
) -> dict[str, str]:
    """{"lag_curve", "regions": what to say} of those probes that do not move the `logit` of the face."""
    curve, drops = lags["logit"] if lags else [], list(regions.values()) if regions else []
    moved = {
        "lag_curve": ("shifting the sound", max(curve) - min(curve) if curve else None),
        "regions": ("blurring a region of the face", max(map(abs, drops)) if drops else None),
    }
    rounding = rounding_of([logit, *curve], precision)
    return {
        name: f"saturated: {what} moves the logit ({logit:.3f}) by {_plain(move)} at most, no more than "
        f"rounding does ({_plain(rounding)}), so this shows nothing about the score"
        for name, (what, move) in moved.items()
        if move is not None and not move > rounding
    }


def _plain(value: float) -> str:
    """A number >= 0 without an exponent, with one significant digit."""
    return f"{value:.{max(0, -math.floor(math.log10(value)))}f}" if value else "0"


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
