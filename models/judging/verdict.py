"""The verdict on a raw video: of each tracked face, and of the whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.evaluation.decision import FAKE, REAL, UNDECIDED, HeadDecision

# fitted on no clip: P(fake) = sigmoid(logit), and both thresholds at 0.5
_ZEROS: dict[str, Any] = dict.fromkeys(HeadDecision.__annotations__, 0.0)
NO_DECISION = HeadDecision(**_ZEROS | {"temperature": 1.0})


def prob_of(head: HeadDecision | None, logit: float | None) -> float | None:
    """Calibrated P(fake) of a logit; None where there is no logit."""
    return None if logit is None else float((head or NO_DECISION).prob(np.array(logit)))


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a face's track with P(fake) above the threshold."""

    start_s: float
    end_s: float
    mean_prob: float


@dataclass(frozen=True, kw_only=True)
class FaceFeatures:
    """What a detector's score of a face is computed from: DetectorOutput.embedding of N windows."""

    fused: npt.NDArray[np.float32]  # (E,) mean over the windows
    windows: npt.NDArray[np.float32]  # (N, E)
    start_s: npt.NDArray[np.float64]  # (N,) when a window begins, in seconds of the video
    window_s: float  # length of a window


@dataclass(frozen=True, kw_only=True)
class FaceVerdict:
    """One face, from its first to its last frame in the video."""

    verdict: str  # real, fake or undecided
    prob: float | None  # calibrated P(fake); None: too short for a score
    logit: float | None
    modalities: dict[str, str]  # "video", "audio" -> verdict, if the method has that head
    video_prob: float | None
    audio_prob: float | None
    off_domain: list[str]  # reasons not to trust the detector on it
    first_frame: int
    num_frames: int
    num_frames_with_face: int
    face_height_px: float  # median, hairline to chin
    num_windows: int
    segments: list[Segment]
    lag_curve: dict[str, list[float]] | None  # "delay_s" of the sound -> "logit"
    regions: dict[str, float] | None  # face region -> drop of the logit when it is blurred
    frame_probs: npt.NDArray[np.float64]  # (num_frames,) P(fake) per frame, NaN where no window covers it
    frame_logits: npt.NDArray[np.float64]  # (num_frames,) the same as logits, which saturate later
    window_starts: list[int]  # first frame of each window, counted from the face's first frame
    window_logits: npt.NDArray[np.float64]  # (num_windows,)
    saturated: dict[str, str]  # "lag_curve", "regions" -> why it shows nothing: it does not move the logit
    # proposals for forged segments, as test.py makes them: "clip" (picture or sound), "video", "audio" ->
    # [confidence, start, end] in seconds of the video, by falling confidence; {}: the checkpoint has no rules
    located: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The whole video: fake if any face is, real if all are."""

    video: str  # name of the file
    verdict: str
    prob: float | None  # of the most suspicious face
    modalities: list[str]  # which of "video" and "audio" are fake
    notes: list[str]  # caveats: gaps without a face, no sound, no stored threshold, another landmark backend
    fps: float
    num_frames: int
    duration_s: float
    width: int
    height: int
    threshold: float  # P(fake) above which a face is called fake
    threshold_logit: float  # the same as a logit
    temperature: float  # P(fake) = sigmoid(logit / temperature)
    faces: list[FaceVerdict]
    checkpoint: str
    caveat: str = ""  # what to say with everything about it, e.g. that the training clips were generated
    # how often a real video may be called fake (utils/evaluation/promise.py), None without a stored decision;
    # and what the tests of this checkpoint showed of that
    promise: dict[str, Any] | None = None
    shown: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    landmark_backend: str = ""  # which networks found the faces (preprocess/faces/backends.py)

    def as_plain(self) -> dict[str, Any]:
        """The content of verdict.json; NaN becomes null."""
        values = dataclasses.asdict(self)
        for face in values["faces"]:
            for name, digits in (("frame_probs", 4), ("frame_logits", 5), ("window_logits", 5)):
                numbers = face[name].tolist()
                face[name] = [None if math.isnan(number) else round(number, digits) for number in numbers]
        return values


def join_verdicts(faces: list[FaceVerdict]) -> tuple[str, float | None, list[str]]:
    """(verdict, P(fake), fake modalities) of a video from those of its faces."""
    words = [face.verdict for face in faces]
    verdict = FAKE if FAKE in words else UNDECIDED if UNDECIDED in words or not words else REAL
    probs = [face.prob for face in faces if face.prob is not None]
    accused = [face for face in faces if face.verdict == FAKE]
    modalities = sorted({name for face in accused for name, word in face.modalities.items() if word == FAKE})
    return verdict, max(probs) if probs else None, modalities


def over_frames(
    starts: Sequence[int], values: npt.NDArray[np.float64], num_frames: int, length: int
) -> npt.NDArray[np.float64]:
    """(num_frames,) mean of the `values` of windows that cover a frame; NaN where there is none.

    starts: first frames of windows of `length` frames; the last one reaches to the end.
    """
    sums, counts = np.zeros(num_frames), np.zeros(num_frames)
    for start, value in zip(starts, values, strict=True):
        end = num_frames if start == starts[-1] else start + length  # a part of a frame may be left
        sums[start:end] += value
        counts[start:end] += 1
    return np.divide(sums, counts, out=np.full(num_frames, np.nan), where=counts > 0)


def find_segments(
    frame_probs: npt.NDArray[np.float64], threshold: float, fps: float, first_frame: int
) -> list[Segment]:
    """Runs of frames above the threshold, in seconds from the video's start."""
    return [
        Segment(
            start_s=round((first_frame + start) / fps, 3),
            end_s=round((first_frame + end) / fps, 3),
            mean_prob=float(frame_probs[start:end].mean()),
        )
        for start, end in runs_of(frame_probs > threshold)
    ]


def runs_of(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of each run of True in (T,) `mask`; the end does not belong to it."""
    padded = np.concatenate([[False], mask, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
