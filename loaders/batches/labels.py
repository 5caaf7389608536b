"""Labels of a clip and of a part of it, under a label rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from utils.clip_type import EMOTIONS, Clip
from utils.errors import UsageError


def clip_labels(clip: Clip, rule: str) -> tuple[float, float, float]:
    """(label, video_label, audio_label) of a clip, NaN = unknown; rule: "any", "video" or "emotion" (see
    DataConfig).

    Raises UsageError if rule "video" meets a clip whose picture has no label, or "emotion" one without.
    """
    video, audio = (
        math.nan if value is None else float(value) for value in (clip.video_label, clip.audio_label)
    )
    if rule == "video":
        if clip.video_label is None:
            raise UsageError(
                f"--label_rule video: {clip.dataset} does not say whether the picture of {clip.clip_id} "
                "is fake"
            )
        return video, video, audio
    if rule == "emotion":
        if clip.emotion is None:
            what = f"{clip.dataset} does not say the emotion of {clip.clip_id}"
            raise UsageError(f"--label_rule emotion: {what}")
        return float(EMOTIONS.index(clip.emotion)), video, audio
    return float(clip.label), video, audio


def window_labels(
    clip: Clip, rule: str, start_s: float, end_s: float, min_fake_s: float
) -> tuple[float, float, float]:
    """(label, video_label, audio_label) of what a clip shows from `start_s` to `end_s`.

    A modality with forged segments is fake if at least `min_fake_s` of one of them is shown, or all of a
    shorter one, or if a shorter window shows nothing else. If a modality's label is unknown and the other
    shows nothing forged, the clip's label stays.
    """
    label, *modalities = clip_labels(clip, rule)
    all_segments = (clip.video_fake_segments, clip.audio_fake_segments)
    if all_segments == (None, None) or rule == "emotion":
        return label, modalities[0], modalities[1]

    def is_shown(start: float, end: float) -> bool:
        least_s = min(min_fake_s, end - start, end_s - start_s)
        return min(end_s, end) - max(start_s, start) >= least_s - 1e-6

    video, audio = (
        float(any(is_shown(*segment) for segment in segments)) if part == 1 and segments is not None else part
        for part, segments in zip(modalities, all_segments, strict=True)
    )
    if rule == "video":
        return video, video, audio
    if 1 in (video, audio):
        return 1.0, video, audio
    return label if math.isnan(video) or math.isnan(audio) else 0.0, video, audio


def true_segments(clip: Clip, stream: str, rule: str, duration_s: float) -> list[tuple[float, float]] | None:
    """What is forged of a clip, (start, end) in seconds; None: it is not known.

    stream: "video", "audio", or "clip", in either, with segments that touch joined; under rule "video" in the
    picture alone. A fake without segments is forged as a whole.
    """
    parts = {
        "video": (clip.video_label, clip.video_fake_segments),
        "audio": (clip.audio_label, clip.audio_fake_segments),
    }
    if stream == "clip" and rule == "video":
        stream = "video"
    label, _ = parts.get(stream, (clip.label, None))
    if label != 1:
        return None if label is None else []
    chosen = [parts[stream]] if stream in parts else [part for part in parts.values() if part[0] == 1]
    spans = [span for _, segments in chosen for span in segments or ()]
    if not chosen or any(segments is None for _, segments in chosen):
        return [(0.0, duration_s)]
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def forged_frames(
    clip: Clip, rule: str, times_s: npt.NDArray[np.float64], duration_s: float
) -> npt.NDArray[np.float32]:
    """(T,) whether something is forged at these times, by `true_segments` of "clip"; NaN = unknown."""
    segments = true_segments(clip, "clip", rule, duration_s)
    if segments is None:
        return np.full(len(times_s), np.nan, np.float32)
    return _inside(segments, times_s)


def _inside(
    segments: Sequence[tuple[float, float]], times_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """(T,) 1 where a time lies in one of the segments, else 0."""
    spans = np.array(segments, np.float64).reshape(-1, 2)
    inside = (spans[:, 0] <= times_s[:, None]) & (times_s[:, None] < spans[:, 1])
    return np.asarray(inside.any(axis=1), np.float32)


def frame_labels(clip: Clip, rule: str, times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(T,) labels of the picture at these times: of the clip where that of its picture is unknown."""
    label, video, _ = clip_labels(clip, rule)
    if video == 1 and clip.video_fake_segments is not None:
        return _inside(clip.video_fake_segments, times_s)
    if rule == "emotion":
        label = float(clip.label)
    return np.full(len(times_s), label if math.isnan(video) else video, np.float32)


def real_clips(clips: Sequence[Clip], label_rule: str) -> list[Clip]:
    """Those without a forgery, as far as the rule looks."""
    rule = "any" if label_rule == "emotion" else label_rule
    return [clip for clip in clips if clip_labels(clip, rule)[0] == 0]
