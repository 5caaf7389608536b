"""Copy a video with the findings drawn into it: boxes, landmarks, verdicts, P(fake) over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.judging.walk import Floats, Pixels, ShowProgress, open_copy, to_even, walk_faces
from preprocess.clip.all_faces import TrackedVideo
from utils.clip.files import SAMPLE_RATE_HZ
from utils.clip.sound import read_waveform

# RGB; verdicts are also written in words
COLORS = {"real": (42, 157, 143), "fake": (214, 69, 65), "undecided": (233, 196, 106)}
CURVES = ((240, 240, 240), (120, 190, 255), (255, 190, 120), (190, 255, 150))
FONT = cv2.FONT_HERSHEY_SIMPLEX
CONTAINERS = ("mp4", "avi")


@dataclass(frozen=True)
class FaceLabels:
    """What is drawn for a face."""

    verdict: str
    frame_probs: Floats  # (track.num_frames,), NaN = no score
    frame_logits: Floats  # (track.num_frames,), shown where P(fake) is 0.00 or 1.00


def annotate_video(
    source: Path,
    target: Path,
    tracked: TrackedVideo,
    labels: list[FaceLabels],
    threshold: float,
    caveat: str = "",
    *,
    show_progress: ShowProgress = lambda pictures, count: pictures,
) -> None:
    """Write `target` (.mp4 or .avi): all frames of `source` at its frame rate, with its sound, and a strip
    chart below.

    The chart shows P(fake) of each face up to the current frame, and `threshold`. A `caveat` is written above
    it in every frame. Memory is constant.
    """
    strip = _Strip(tracked, labels, threshold)
    line = caveat_line(caveat, tracked.width, tracked.height)
    height = tracked.height + len(line) + strip.height
    with open_copy(target, tracked.fps, tracked.width, height) as writer:
        if not tracked.silent:
            writer.add_audio_stream(SAMPLE_RATE_HZ, bit_rate=96_000)
        for index, (frame, faces) in enumerate(walk_faces(source, tracked, show_progress)):
            for number, place, box, points in faces:
                verdict, prob = labels[number].verdict, labels[number].frame_probs[place]
                text = f"{number + 1}: {verdict}{_score(prob, labels[number].frame_logits[place])}"
                draw_face(frame, box, points, COLORS[verdict], text)
            writer.write(to_even(np.concatenate([frame, line, strip.draw(index)])))
            if not tracked.silent:
                start, end = (round(n / tracked.fps * SAMPLE_RATE_HZ) for n in (index, index + 1))
                writer.write_audio(_samples(tracked.sound, start, end - start))


def _score(prob: float, logit: float) -> str:
    """A frame's score in words; with its logit where P(fake) is saturated."""
    if np.isnan(prob):
        return ""
    shown = f"{prob:.2f}"
    return f"  P(fake) now {shown}" + (f", logit {logit:.1f}" if shown in ("0.00", "1.00") else "")


def _samples(path: Path, start: int, count: int) -> npt.NDArray[np.float32]:
    start_s, duration_s = start / SAMPLE_RATE_HZ, count / SAMPLE_RATE_HZ
    samples = read_waveform(path, SAMPLE_RATE_HZ, start_s=start_s, duration_s=duration_s)
    return np.pad(samples, (0, max(0, count - len(samples))))[:count]


def draw_face(frame: Pixels, box: Floats, points: Floats, color: tuple[int, int, int], text: str) -> None:
    """Draw the `box` (x, y, side) of a face, its landmarks (L, 2) in units of the box, and a line of text."""
    x, y, side = box
    unit = max(frame.shape[0], frame.shape[1]) / 640  # line widths and text grow with the picture
    thick = max(1, round(1.5 * unit))
    if not np.isnan(points).any():
        for px, py in (points * side + [x, y]).round().astype(int).tolist():
            cv2.circle(frame, (px, py), max(1, round(0.6 * unit)), color, -1, cv2.LINE_AA)
    corner, opposite = (round(x), round(y)), (round(x + side), round(y + side))
    cv2.rectangle(frame, corner, opposite, color, thick, cv2.LINE_AA)
    scale = 0.5 * unit
    (width, tall), below = cv2.getTextSize(text, FONT, scale, thick)
    left = int(np.clip(corner[0], 0, max(0, frame.shape[1] - width - 6)))
    base = int(np.clip(corner[1] - 6, tall + 4, frame.shape[0] - below - 2))
    cv2.rectangle(frame, (left, base - tall - 4), (left + width + 6, base + below), color, -1)
    place, dark = (left + 3, base - 1), (20, 20, 20)
    cv2.putText(frame, text, place, FONT, scale, dark, max(1, round(unit)), cv2.LINE_AA)


def caveat_line(text: str, width: int, height: int) -> Pixels:
    """A line of text (rows, width, 3) as wide as a picture of `width` x `height`; no rows without text."""
    unit = max(width, height) / 640
    scale, thick = 0.5 * unit, max(1, round(unit))
    (wide, tall), below = cv2.getTextSize(text, FONT, scale, thick)
    if wide > width - 8:
        scale *= (width - 8) / wide
        (wide, tall), below = cv2.getTextSize(text, FONT, scale, thick)
    line = np.full((tall + below + 8 if text else 0, width, 3), COLORS["undecided"], np.uint8)
    if text:
        place = (max(0, (width - wide) // 2), tall + 4)
        cv2.putText(line, text, place, FONT, scale, (20, 20, 20), thick, cv2.LINE_AA)
    return line


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
        title, scale = "P(fake)", 0.35 * self._unit
        (width, tall), _ = cv2.getTextSize(title, FONT, scale, 1)
        for text, place in (
            ("1", (3, self._row(1.0) + 10 * self._unit)),
            ("0", (3, self._row(0.0) - 2)),
            (title, (self._width - width - 6, tall + 6)),
        ):
            cv2.putText(self._image, text, place, FONT, scale, (170, 170, 170), 1, cv2.LINE_AA)

    def _row(self, prob: float) -> int:
        margin = 4
        return round(margin + (1 - prob) * (self.height - 1 - 2 * margin))

    def _column(self, index: int) -> int:
        return round(index / max(1, self._num_frames - 1) * (self._width - 1))

    def draw(self, index: int) -> Pixels:
        """The strip (height, width, 3) at a frame."""
        for number, probs in enumerate(self._curves):
            last = max(0, index - 1)
            before, now = probs[last], probs[index]
            if not np.isnan(now):
                start = (self._column(last), self._row(now if np.isnan(before) else before))
                end = (self._column(index), self._row(now))
                color = CURVES[number % len(CURVES)]
                cv2.line(self._image, start, end, color, self._unit, cv2.LINE_AA)
        image = self._image.copy()
        cv2.line(image, (self._column(index), 0), (self._column(index), self.height), (90, 90, 90), 1)
        return image
