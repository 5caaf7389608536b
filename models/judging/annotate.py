"""Copy a video with the findings drawn into it: boxes, landmarks, verdicts, P(fake) over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.clip.all_faces import TrackClip, TrackedVideo
from preprocess.clip.schedule import iterate_schedule
from utils.clip.files import SAMPLE_RATE_HZ, open_landmarks
from utils.clip.sound import read_waveform
from utils.media.picture import Picture
from utils.media.video import read_video_times
from utils.media.writer import VideoWriter

# RGB; verdicts are also written in words
COLORS = {"real": (42, 157, 143), "fake": (214, 69, 65), "undecided": (233, 196, 106)}
CURVES = ((240, 240, 240), (120, 190, 255), (255, 190, 120), (190, 255, 150))
FONT = cv2.FONT_HERSHEY_SIMPLEX
CONTAINERS = ("mp4", "avi")


@dataclass(frozen=True, kw_only=True)
class FaceLabels:
    """The text next to a face."""

    verdict: str
    prob: float | None  # of the whole track
    frame_probs: npt.NDArray[np.float64]  # (track.num_frames,), NaN = no score


def annotate_video(
    source: Path,
    target: Path,
    tracked: TrackedVideo,
    labels: list[FaceLabels],
    *,
    threshold: float,
    container: str = "mp4",
    show_progress: Callable[[Iterable[Picture], int], Iterable[Picture]] = lambda pictures, count: pictures,
) -> None:
    """Write `target`: all frames of `source` at its frame rate, with its sound, and a strip chart below.

    The chart shows P(fake) of each face up to the current frame, and `threshold`. Memory is constant.
    """
    times = read_video_times(source)
    landmarks = [open_landmarks(track.folder) for track in tracked.tracks]
    strip = _Strip(tracked, labels, threshold)
    height = tracked.height + strip.height
    with VideoWriter(
        target,
        fps=tracked.fps,
        width=tracked.width + tracked.width % 2,
        height=height + height % 2,
        crf=20,
        container=container,
    ) as writer:
        if not tracked.silent:
            writer.add_audio_stream(SAMPLE_RATE_HZ, bit_rate=96_000)
        pictures = show_progress(iterate_schedule(source, times), tracked.num_frames)
        for index, picture in enumerate(pictures):
            frame = np.ascontiguousarray(picture.rgb())
            for number, track in enumerate(tracked.tracks):
                place = index - track.first_frame
                if 0 <= place < track.num_frames:
                    _draw_face(frame, track, place, landmarks[number], labels[number], number)
            whole = np.concatenate([frame, strip.draw(index)])
            writer.write(np.pad(whole, ((0, height % 2), (0, tracked.width % 2), (0, 0)), mode="edge"))
            if not tracked.silent:
                start, end = (round(n / tracked.fps * SAMPLE_RATE_HZ) for n in (index, index + 1))
                writer.write_audio(_samples(tracked.sound, start, end - start))


def _samples(path: Path, start: int, count: int) -> npt.NDArray[np.float32]:
    samples = read_waveform(
        path, SAMPLE_RATE_HZ, start_s=start / SAMPLE_RATE_HZ, duration_s=count / SAMPLE_RATE_HZ
    )
    return np.pad(samples, (0, max(0, count - len(samples))))[:count]


def _draw_face(
    frame: npt.NDArray[np.uint8],
    track: TrackClip,
    place: int,
    landmarks: npt.NDArray[np.float32],
    labels: FaceLabels,
    number: int,
) -> None:
    x, y, side = track.face_boxes[place]
    color = COLORS[labels.verdict]
    unit = max(frame.shape[0], frame.shape[1]) / 640  # line widths and text grow with the picture
    thick = max(1, round(1.5 * unit))
    points = landmarks[place]
    if not np.isnan(points).any():
        for px, py in (points * side + [x, y]).round().astype(int).tolist():
            cv2.circle(frame, (px, py), max(1, round(0.6 * unit)), color, -1, cv2.LINE_AA)
    corner, opposite = (round(x), round(y)), (round(x + side), round(y + side))
    cv2.rectangle(frame, corner, opposite, color, thick, cv2.LINE_AA)
    now = labels.frame_probs[place]
    text = f"{number + 1}: {labels.verdict}"
    if not np.isnan(now):
        text += f"  P(fake) now {now:.2f}"
    scale = 0.5 * unit
    (width, tall), below = cv2.getTextSize(text, FONT, scale, thick)
    left = int(np.clip(corner[0], 0, max(0, frame.shape[1] - width - 6)))
    base = int(np.clip(corner[1] - 6, tall + 4, frame.shape[0] - below - 2))
    cv2.rectangle(frame, (left, base - tall - 4), (left + width + 6, base + below), color, -1)
    dark = (20, 20, 20)
    cv2.putText(frame, text, (left + 3, base - 1), FONT, scale, dark, max(1, round(unit)), cv2.LINE_AA)


class _Strip:
    """P(fake) over time, drawn up to the current frame."""

    def __init__(self, tracked: TrackedVideo, labels: list[FaceLabels], threshold: float) -> None:
        self.height = max(48, tracked.height // 6) // 2 * 2
        self._width, self._num_frames = tracked.width, tracked.num_frames
        self._curves = []
        for track, label in zip(tracked.tracks, labels, strict=True):
            probs = np.full(tracked.num_frames, np.nan)
            probs[track.first_frame : track.first_frame + track.num_frames] = label.frame_probs
            self._curves.append(probs)
        self._image = np.full((self.height, self._width, 3), 28, np.uint8)
        self._unit = max(1, round(self.height / 60))
        line = self._row(threshold)
        for x in range(0, self._width, 12 * self._unit):
            cv2.line(self._image, (x, line), (x + 6 * self._unit, line), (130, 130, 130), self._unit)
        for text, row in (("1", self._row(1.0) + 10 * self._unit), ("0", self._row(0.0) - 2)):
            cv2.putText(self._image, text, (3, row), FONT, 0.35 * self._unit, (170, 170, 170), 1, cv2.LINE_AA)
        text, scale = "P(fake)", 0.35 * self._unit
        (width, tall), _ = cv2.getTextSize(text, FONT, scale, 1)
        cv2.putText(
            self._image,
            text,
            (self._width - width - 6, tall + 6),
            FONT,
            scale,
            (170, 170, 170),
            1,
            cv2.LINE_AA,
        )

    def _row(self, prob: float) -> int:
        margin = 4
        return round(margin + (1 - prob) * (self.height - 1 - 2 * margin))

    def _column(self, index: int) -> int:
        return round(index / max(1, self._num_frames - 1) * (self._width - 1))

    def draw(self, index: int) -> npt.NDArray[np.uint8]:
        """The strip (height, width, 3) at a frame."""
        for number, probs in enumerate(self._curves):
            before, now = probs[max(0, index - 1)], probs[index]
            if not np.isnan(now):
                start = (self._column(max(0, index - 1)), self._row(now if np.isnan(before) else before))
                end = (self._column(index), self._row(now))
                color = CURVES[number % len(CURVES)]
                cv2.line(self._image, start, end, color, self._unit, cv2.LINE_AA)
        image = self._image.copy()
        cv2.line(image, (self._column(index), 0), (self._column(index), self.height), (90, 90, 90), 1)
        return image
