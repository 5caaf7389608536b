"""test.py --video: judge raw videos and write the verdicts as JSON, video, plot and page.

    python test.py --video clip.mp4 --checkpoint saved_models/X/best.pt --output_dir verdicts
    python test.py --video FOLDER   --checkpoint saved_models/X/best.pt --output_dir verdicts

Writes verdict.json, annotated.mp4 (--format avi: annotated.avi), timeline.png and report.html; for a FOLDER,
into a subfolder per video. --render m2sd draws a video as M2SD's released script does (avi). If a video
cannot be decoded within the limits, it is reported and the exit status is 1. verdict.json is written first:
if something cannot be drawn, that alone is missing, and the log says so.
camera:0 or pipe: judges what comes as it comes: a line of JSON per verdict, live.mp4 and verdict.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.judging.annotate import CONTAINERS, FaceLabels, annotate_video
from models.judging.config import JudgeConfig
from models.judging.detector import LoadedDetector, load_detector
from models.judging.live import is_live, judge_live, open_source
from models.judging.page import write_video_page
from models.judging.render_m2sd import frame_scores, render_m2sd
from models.judging.verdict import Verdict
from preprocess.work.left_out import describe_left_out
from preprocess.work.workers import call_limited
from utils.clip.files import VIDEO_SUFFIXES
from utils.config import opt, parse_command
from utils.errors import ClipError, FrameworkError, UsageError
from utils.files import require_writable, walk_tree, write_atomically, write_text
from utils.run.device import device_flag, precision_flag
from utils.run.progress import configure_logging, logging_redirect_tqdm

log = logging.getLogger("test")
# what plots, pictures and encoders fail with; the drawing process turns its own errors into ClipError
DRAWING_ERRORS = (
    *(FrameworkError, ArithmeticError, LookupError, MemoryError),
    *(OSError, RuntimeError, TypeError, ValueError),
)


@dataclass(frozen=True, kw_only=True)
class VideoConfig(JudgeConfig):
    """models/judging/command.py: what is judged, and what is written."""

    video: Path = opt(
        dataclasses.MISSING,
        "a raw video, a folder of videos, camera:N, or pipe: (standard input)",
    )
    checkpoint: Path = opt(dataclasses.MISSING, "best.pt of a run")
    output_dir: Path = opt(dataclasses.MISSING, "where results are written")
    format: str = opt("mp4", "format of the annotated video: mp4 (H.264) or avi (XVID)", choices=CONTAINERS)
    annotate: bool = opt(True, "write the annotated video (camera:N and pipe: live.mp4)")
    render: str = opt(
        "full",
        "what the annotated video shows; full: boxes, landmarks, verdicts, P(fake) over time, with sound; "
        "m2sd: as M2SD's released script, a box and a word per face at its threshold, always avi, no sound",
        choices=("full", "m2sd"),
    )
    stall_s: float = opt(30.0, "camera:N and pipe: end when nothing comes for this time, in s; 0 = never")
    no_thumbnails: bool = opt(False, "show no face in report.html; with --annotate false, in no file at all")
    precision: str = precision_flag("auto = fp32: the probes need smaller steps than those of bf16")
    device: str = device_flag()

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        if is_live(self.video):
            names = ("format", "render", "tracker", "lag_frames", "explain")
            return dict.fromkeys(names, "--video is judged as it comes")
        unused = {} if self.annotate else dict.fromkeys(("format", "render"), "annotate is false")
        return unused | {"stall_s": "--video is a file"}


def find_videos(path: Path, output_dir: Path) -> list[Path]:
    """The video, or all videos below the folder, sorted; skips what this command has written.

    Raises UsageError if there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"--video {path}: no such file or folder")
    own = output_dir.resolve()
    files = [Path(folder, name) for folder, _, names in walk_tree(path, links="skip") for name in names]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    found = sorted(file for file in videos if not file.resolve().is_relative_to(own))
    left_out = describe_left_out(file for file in files if file.suffix.lower() not in VIDEO_SUFFIXES)
    if not found:
        there = f"; it holds {left_out}, which are not taken" if left_out else ""
        raise UsageError(f"--video {path}: no video in it (looked for {', '.join(VIDEO_SUFFIXES)}){there}")
    if left_out:
        log.warning("%s: files that look like videos are not taken: %s", path, left_out)
    return found


def judge_video(detector: LoadedDetector, video: Path, output_dir: Path, config: VideoConfig) -> Verdict:
    """Judge one video and write its files to `output_dir`, the verdict first.

    Raises ClipError if the video cannot be decoded; what cannot be drawn is logged.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".work_") as work:
        verdict, tracked = detector.judge_tracks(video, Path(work), config)
        write_text(output_dir / "verdict.json", json.dumps(verdict.as_plain(), indent=1) + "\n")
        with _drawing(output_dir / "report.html"):
            write_video_page(output_dir, verdict, tracked, no_thumbnails=config.no_thumbnails)
        if config.annotate:
            drawn = Path(work) / f"annotated.{'avi' if config.render == 'm2sd' else config.format}"
            options: dict[str, Any] = {
                "source": video,
                "limits": config,
                "progress": f"{video.name}: drawing",
            }
            with _drawing(output_dir / drawn.name):
                if config.render == "m2sd":
                    length = detector.window_frames(verdict.fps)
                    scores = [frame_scores(face, length) for face in verdict.faces]
                    doubted = [bool(face.off_domain) for face in verdict.faces]
                    shown = (scores, doubted, verdict.caveat)
                    call_limited(render_m2sd, video, drawn, tracked, *shown, **options)
                else:
                    labels = [FaceLabels(f.verdict, f.frame_probs, f.frame_logits) for f in verdict.faces]
                    findings = (labels, verdict.threshold, verdict.caveat)
                    call_limited(annotate_video, video, drawn, tracked, *findings, **options)
                write_atomically(output_dir / drawn.name, drawn.rename)
    return verdict


@contextlib.contextmanager
def _drawing(target: Path) -> Iterator[None]:
    """Log a failure to draw `target`, and remove the one of an earlier verdict."""
    try:
        yield
    except DRAWING_ERRORS as error:
        log.error("%s could not be drawn, the verdict stands: %s: %s", target, type(error).__name__, error)
        target.unlink(missing_ok=True)


def main() -> int:
    config = parse_command(VideoConfig, __doc__)
    configure_logging()
    videos = [] if is_live(config.video) else find_videos(config.video, config.output_dir)
    require_writable(config.output_dir)
    detector = load_detector(config.checkpoint, device=config.device, precision=config.precision)
    if not videos:
        source = open_source(config.video, config, config.stall_s)
        judge_live(detector, source, config.output_dir, config, annotate=config.annotate)
        return 0
    several = config.video.is_dir()
    num_failed = 0
    for video in videos:
        folder = config.output_dir
        if several:
            place = video.relative_to(config.video)
            # "...mp4" has no stem: ".." is the folder above
            folder = folder / place.parent / (place.stem if place.stem.strip(".") else place.name)
        with logging_redirect_tqdm():
            try:
                verdict = judge_video(detector, video, folder, config)
            except ClipError as error:
                if not several:
                    raise
                log.error("%s", error)
                num_failed += 1
                continue
        prob = "-" if verdict.prob is None else f"{verdict.prob:.3f}"
        reasons = [*verdict.notes, *(why for face in verdict.faces for why in face.off_domain)]
        notes = "; ".join(dict.fromkeys(reasons))
        log.info("%s: %s, P(fake) %s%s", video.name, verdict.verdict, prob, f" ({notes})" if notes else "")
        line = {"video": str(video), "verdict": verdict.verdict, "prob": verdict.prob, "notes": notes}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    log.info("%d judged, %d failed; written to %s", len(videos) - num_failed, num_failed, config.output_dir)
    return 1 if num_failed else 0
