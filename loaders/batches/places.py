"""Where windows lie in a clip, and which single frames stand for it: numbers of frames."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from loaders.batches.data_config import RELEASED_FRAMES, DataConfig


def window_frames(start: int, num_frames: int, fps: Fraction, config: DataConfig) -> npt.NDArray[np.int64]:
    """Numbers of the clip's frames that a window from frame `start` on shows, at most `window_frames`."""
    if config.window == "released":
        return np.minimum(start + np.arange(RELEASED_FRAMES), num_frames - 1)
    # the epsilon keeps a frame whose middle falls on a boundary by rounding; first + 0.5 is the middle of a
    # frame
    num_steps = min(config.window_frames, math.floor((num_frames - start) / fps * config.video_fps + 1e-6))
    steps = (np.arange(num_steps) + 0.5) / config.video_fps * float(fps)
    return np.minimum(start + np.floor(steps + 1e-6).astype(np.int64), num_frames - 1)


def last_start_frame(num_frames: int, fps: Fraction, window_s: float) -> int:
    """The last frame at which a full window can start; 0 for clips that are shorter."""
    return max(0, num_frames - math.ceil(window_s * float(fps) - 1e-6))


def covering_starts(num_frames: int, fps: Fraction, window_s: float, stride_s: float) -> list[int]:
    """Start frames of windows that cover a clip, about `stride_s` from one to the next, at least a frame."""
    last = last_start_frame(num_frames, fps, window_s)
    return sorted({*range(0, last, max(1, round(stride_s * fps))), last})


def evaluation_starts(last_start: int, windows: int) -> list[int]:
    """At most `windows` different start frames, evenly spread over 0..last_start; a single one lies in the
    middle.
    """
    if windows == 1:
        return [last_start // 2]
    return sorted({round(place) for place in np.linspace(0, last_start, windows)})


def spread_frames(num_frames: int, count: int, rng: np.random.Generator | None) -> npt.NDArray[np.int64]:
    """At most `count` different frames: one of each of as many equal parts, its middle one or by `rng`."""
    edges = np.linspace(0, num_frames, min(count, num_frames) + 1).astype(np.int64)
    if rng is None:
        return (edges[:-1] + edges[1:] - 1) // 2
    return rng.integers(edges[:-1], edges[1:])
