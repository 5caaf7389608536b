"""report.html of a judged video, with its plots."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes

from models.judging.verdict import FaceVerdict, Verdict
from preprocess.clip.all_faces import TrackClip, TrackedVideo
from utils.clip.files import VIDEO_NAME
from utils.clip.frames import read_frames
from utils.clip.sound import read_waveform
from utils.evaluation.localisation import NUM_SHOWN
from utils.evaluation.metrics import Floats
from utils.evaluation.promise import sentence_of, sentences
from utils.report import pages

NUM_PICTURES = 4
MIN_CONFIDENCE = 0.01  # of a proposal for a forged segment
STREAM_NAMES = {"clip": "picture or sound", "video": "picture", "audio": "sound"}
SATURATED = 0.01  # P(fake) that near to 0 or 1 is at the edge of its plot
MIN_SPAN = 0.1  # of an axis of logits: less would show rounding and little noise as mountains
PROB_TICKS = ("0.00001", "0.0001", "0.001", "0.01", "0.1", "0.5", "0.9", "0.99", "0.999", "0.9999", "0.99999")
ENVELOPE_RATE_HZ = 8000


def write_video_page(
    output_dir: Path, verdict: Verdict, tracked: TrackedVideo, *, no_thumbnails: bool = False
) -> None:
    """Write report.html, timeline.png and a PNG for each other plot. `no_thumbnails`: show no faces."""
    with pages.stamped(verdict.caveat):
        _write_video_page(output_dir, verdict, tracked, no_thumbnails)


def _write_video_page(output_dir: Path, verdict: Verdict, tracked: TrackedVideo, no_thumbnails: bool) -> None:
    timeline = _plot_timeline(output_dir / "timeline.png", verdict, tracked)
    faces = [
        {
            "number": number,
            "face": face,
            "pictures": [] if no_thumbnails else _pictures(track),
            "start_s": face.first_frame / verdict.fps,
            "located": {
                STREAM_NAMES[name]: [row for row in rows[:NUM_SHOWN] if row[0] >= MIN_CONFIDENCE]
                for name, rows in face.located.items()
            },
            "end_s": (face.first_frame + face.num_frames) / verdict.fps,
            "plots": [
                plot
                for name, plot in (
                    ("lag_curve", _plot_lag(output_dir / f"lag_{number}.png", face)),
                    ("regions", _plot_regions(output_dir / f"regions_{number}.png", face)),
                )
                if plot and name not in face.saturated  # which the page says in words
            ],
        }
        for number, (face, track) in enumerate(zip(verdict.faces, tracked.tracks, strict=True), 1)
    ]
    template = Path(__file__).with_name("video.html")
    promise = sentences(verdict.promise) if verdict.promise else []
    pages.write_page(
        output_dir / "report.html",
        template,
        verdict=verdict,
        faces=faces,
        timeline=timeline,
        num_proposals=NUM_SHOWN,
        promise=promise + [sentence_of(shown) for shown in verdict.shown],
    )


def _pictures(track: TrackClip) -> list[str]:
    """Evenly spaced frames of the crop as "data:" URLs."""
    frames = np.linspace(0, track.num_frames - 1, NUM_PICTURES + 2).round().astype(int)[1:-1]
    return [pages.jpeg_data_url(frame, 160, 85) for frame in read_frames(track.folder / VIDEO_NAME, frames)]


@rc_context(pages.STYLE)
def _plot_timeline(path: Path, verdict: Verdict, tracked: TrackedVideo) -> Markup:
    """The score of every face over time, above the amplitude of the sound.

    The score is P(fake), or where that is saturated its logit, with P(fake) on the right.
    """
    figure, (score, sound) = pages.new_figure(5, 3.2, rows=2, sharex=True, height_ratios=(3, 1))
    is_saturated = any(map(has_saturated_probs, verdict.faces))
    threshold = verdict.threshold_logit if is_saturated else verdict.threshold
    score.axhline(threshold, color=pages.SOFT, lw=1, ls="--", label="threshold")
    for number, face in enumerate(verdict.faces):
        times = (face.first_frame + np.arange(face.num_frames) + 0.5) / verdict.fps
        style = ("-", "--", ":", "-.")[number % 4]
        values = face.frame_logits if is_saturated else face.frame_probs
        score.plot(times, values, color=pages.INK, lw=1.6, ls=style, label=f"face {number + 1}")
        for segment in face.segments:
            score.axvspan(segment.start_s, segment.end_s, color=pages.FAKE_COLOR, alpha=0.15, lw=0)
    if is_saturated:
        score.set(ylabel="logit", title="P(fake) is saturated: its logit; shaded: above the threshold")
        _add_probs(score, verdict.temperature)
    else:
        score.set(ylim=(-0.03, 1.03), ylabel="P(fake)", title="shaded: above the threshold")
    times, envelope = _envelope(tracked.sound, verdict.duration_s)
    sound.fill_between(times, -envelope, envelope, color=pages.REAL_COLOR, lw=0, alpha=0.7)
    sound.set(xlim=(0, verdict.duration_s), xlabel="seconds", ylabel="sound", yticks=[])
    figure.legend(loc="outside lower center", ncols=5)
    what = "Logit" if is_saturated else "P(fake)"
    alt = f"{what} of {len(verdict.faces)} faces over {verdict.duration_s:.1f} seconds"
    return pages.save_plot(figure, path, alt)


def has_saturated_probs(face: FaceVerdict) -> bool:
    """Whether half of the frames with a score have a P(fake) that a plot cannot tell from 0 or from 1."""
    probs = face.frame_probs[~np.isnan(face.frame_probs)]
    return bool(len(probs) and (np.abs(probs - 0.5) > 0.5 - SATURATED).mean() >= 0.5)


def _add_probs(axes: Axes, temperature: float) -> None:
    """Widen the axis of logits to at least MIN_SPAN, and mark values of P(fake) on its right."""
    low, high = axes.get_ylim()
    missing = max(0.0, MIN_SPAN - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)
    low, high = axes.get_ylim()
    shown: list[tuple[float, str]] = []
    for text in PROB_TICKS:
        place = temperature * math.log(float(text) / (1 - float(text)))
        if low <= place <= high and (not shown or place - shown[-1][0] > (high - low) / 8):
            shown.append((place, text))
    right = axes.secondary_yaxis("right")
    right.set_yticks([place for place, _ in shown], [text for _, text in shown])
    right.set_ylabel("P(fake)")
    right.spines["right"].set_visible(True)


def _envelope(path: Path, duration_s: float) -> tuple[Floats, Floats]:
    """(times in seconds, largest amplitude) of 400 equal parts, read one part at a time."""
    edges = np.linspace(0, duration_s, 401)
    peaks = np.zeros(400)
    for index, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        piece = read_waveform(path, ENVELOPE_RATE_HZ, start_s=start, duration_s=end - start)
        peaks[index] = np.abs(piece).max() if len(piece) else 0.0
    return (edges[1:] + edges[:-1]) / 2, peaks


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _plot_words(path: Path, title: str, text: str) -> Markup:
    """In place of a plot, why there is none."""
    figure, (axes,) = pages.new_figure(4.6, 3)
    axes.set_axis_off()
    axes.set_title(title)
    lines = textwrap.wrap(text, 48)
    axes.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", transform=axes.transAxes)
    return pages.save_plot(figure, path, f"{title}: {text}")


@rc_context(pages.STYLE)
def _plot_lag(path: Path, face: FaceVerdict) -> Markup | None:
    if face.lag_curve is None:
        return None
    title = "sound shifted"
    if reason := face.saturated.get("lag_curve"):
        return _plot_words(path, title, reason)
    figure, (axes,) = pages.new_figure(4.6, 3)
    curve = face.lag_curve["logit"]
    axes.plot(face.lag_curve["delay_s"], curve, color=pages.INK, marker=".", lw=1.4)
    axes.axvline(0, color=pages.SOFT, lw=1, ls="--")
    axes.grid(color=pages.LINE)
    axes.locator_params(axis="x", nbins=5)
    low, high = axes.get_ylim()
    missing = max(0.0, MIN_SPAN - (high - low)) / 2
    axes.set(ylim=(low - missing, high + missing), title=f"{title}: moves the logit by {_span(curve):.2g}")
    axes.set(xlabel="delay of the sound (seconds)", ylabel="logit (higher: more fake)")
    return pages.save_plot(figure, path, "Logit against the delay of the sound")


@rc_context(pages.STYLE)
def _plot_regions(path: Path, face: FaceVerdict) -> Markup | None:
    if face.regions is None:
        return None
    title = "regions that the score relies on"
    if reason := face.saturated.get("regions"):
        return _plot_words(path, title, reason)
    figure, (axes,) = pages.new_figure(4.6, 3)
    colors = [pages.FAKE_COLOR if value > 0 else pages.REAL_COLOR for value in face.regions.values()]
    axes.barh(list(face.regions), list(face.regions.values()), color=colors)
    axes.axvline(0, color=pages.SOFT, lw=1)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=5)
    axes.set(xlabel="drop of the logit when blurred", title=title)
    return pages.save_plot(figure, path, "Drop of the logit when a region of the face is blurred")
