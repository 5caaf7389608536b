"""report.html: the whole evaluation as one self-contained page; its plots also as PNG files."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.special import expit

from utils.clip.files import VIDEO_NAME, open_landmarks
from utils.clip.frames import read_frames, read_video_header
from utils.errors import DatasetError
from utils.evaluation.metrics import Floats, Rows
from utils.evaluation.scoring import ClipScores
from utils.names import parse_json
from utils.report.pages import TEMPLATES, jpeg_data_url, write_page
from utils.report.plots import (
    Bar,
    plot_bars,
    plot_det,
    plot_reliability,
    plot_roc,
    plot_score_histogram,
    plot_training,
)
from utils.types import Clip

NUM_WRONG = 20
THUMBNAILS, THUMBNAIL_SIZE = 3, 112  # frames per clip; pixels, twice the size shown on a phone
JPEG_QUALITY = 72
NUM_BINS = 15
HEADLINES = (  # metric, name, description
    ("auc", "AUC", "probability that a fake scores above a real; 0.5 is chance"),
    ("eer", "EER", "error rate where missed fakes = accused reals"),
    ("balanced_accuracy", "Balanced accuracy", "at P(fake) = 0.5"),
    ("ap", "AP", "average precision"),
    ("tpr_at_fpr_1", "Fakes found at 1 % FPR", "share, when 1 in 100 reals is called fake"),
    ("tpr_at_fpr_5", "Fakes found at 5 % FPR", "share, when 1 in 20 reals is called fake"),
)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluation, and where its files are."""

    result: Mapping[str, Any]  # the content of test_metrics.json
    clips: Sequence[Clip]  # the scored clips, in any order
    scores: ClipScores
    groups: Mapping[str, Mapping[str, Rows]]  # "category" or "method" -> name -> rows, with all reals
    spans_of: Callable[[Clip], Sequence[tuple[float, float]]]  # windows of a clip, in seconds
    run_dir: Path  # folder of the checkpoint
    data_root: Path
    no_thumbnails: bool = False  # the page shows no face


def write_report(output_dir: Path, evaluated: Evaluated) -> None:
    """Write report.html and its plots as PNG. Raises ClipError if a clip shown in it cannot be read."""
    result = evaluated.result
    write_page(
        output_dir / "report.html",
        TEMPLATES / "report.html",
        result=result,
        headlines=_headlines(result),
        persons=_persons(result),
        plots=_plots(output_dir, evaluated),
        confusion=_confusion(result, evaluated.scores),
        **_most_wrong(evaluated),
        no_thumbnails=evaluated.no_thumbnails,
        config=_run_config(evaluated.run_dir / "config.json"),
        audit=_audit(evaluated),
    )


def _persons(result: Mapping[str, Any]) -> str:
    """How the intervals were computed, or why they were not."""
    intervals = result.get("intervals", {})
    if reason := intervals.get("overall", {}).get("reason"):
        return f"No intervals: {reason}."
    if "num_persons" not in intervals:
        return "No intervals."
    return (
        f"In parentheses: {intervals['confidence']:.0%} intervals from {intervals['num_resamples']:,} "
        f"resamples of the {intervals['num_persons']} persons, since clips of one person are not independent."
    )


def _headlines(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    intervals = result.get("intervals", {}).get("overall", {})
    rows = []
    for metric, name, what in HEADLINES:
        if metric == "ap":
            what += f"; {result['overall']['prevalence']:.3f} is chance"
        value, interval = result["overall"][metric], intervals.get(metric)
        rows.append({"name": name, "value": value, "interval": interval, "what": what})
    decision = result.get("decision", {})
    if "ece_after" in decision:
        before, value = decision["ece_before"], decision["ece_after"]
        what = f"mean distance of P(fake) from the share of fakes; {before:.3f} without temperature"
        rows.append({"name": "Calibration error", "value": value, "interval": None, "what": what})
    for key in ("category", "method"):
        if len(result[f"per_{key}"]) > 1:
            what = f"mean over {len(result[f'per_{key}'])} {_plural(key)}, each against all reals"
            value = result[f"macro_auc_{key}"]
            rows.append({"name": f"AUC over {_plural(key)}", "value": value, "interval": None, "what": what})
    return rows


def _plural(key: str) -> str:
    return {"category": "categories", "method": "methods"}[key]


def _plots(output_dir: Path, evaluated: Evaluated) -> dict[str, Markup]:
    """{name: SVG}; each plot is also written as name.png."""
    result, scores = evaluated.result, evaluated.scores
    labels, logits = scores.labels, scores.logits
    categories = evaluated.groups["category"]
    curves = {"all": (labels, logits)}
    if len(categories) > 1:  # a single category is the same as "all"
        curves |= {name: (labels[rows], logits[rows]) for name, rows in categories.items()}
    threshold, source = _threshold(result)
    thresholds = {source: float(expit(threshold))}
    probs = {"as scored": expit(logits)}
    if stored := result.get("decision", {}).get("stored"):
        probs["with temperature"] = expit(logits / stored["clip"]["temperature"])
    sections = {
        f"per {key}": _bars(result, f"per_{key}") for key in ("category", "method") if evaluated.groups[key]
    }
    plots = {
        "roc": plot_roc(output_dir / "roc.png", curves, "ROC (AUC)"),
        "det": plot_det(output_dir / "det.png", curves, "Detection error trade-off"),
        "scores": plot_score_histogram(
            output_dir / "scores.png", labels, expit(logits), "Scores", thresholds
        ),
        "reliability": plot_reliability(
            output_dir / "reliability.png", labels, probs, "Reliability", NUM_BINS
        ),
        "categories": plot_bars(output_dir / "categories.png", sections, "AUC of each kind of fake"),
    }
    metrics_file = evaluated.run_dir / "metrics.csv"
    if metrics_file.is_file():
        columns = read_training_curves(metrics_file)
        select_by = _run_config(evaluated.run_dir / "config.json").get("train", {}).get("select_by", "")
        best = _best_epoch(columns, select_by)
        plots["training"] = plot_training(output_dir / "training.png", columns, best, "Training")
    return plots


def _bars(result: Mapping[str, Any], key: str) -> list[Bar]:
    intervals = result.get("intervals", {}).get(key, {})
    return [
        Bar(name, row["auc"], intervals.get(name, {}).get("auc"), row["num_fake"])
        for name, row in sorted(result[key].items(), key=lambda item: item[1]["auc"])
    ]


def read_training_curves(path: Path) -> dict[str, Floats]:
    """Columns of a metrics.csv as (epochs,) arrays, NaN for empty values. Raises DatasetError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or "epoch" not in rows[0]:
            raise ValueError("no epochs")
        return {name: np.array([float(row[name] or math.nan) for row in rows]) for name in rows[0]}
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise DatasetError(f"{path}: is not the metrics.csv of a run ({error})") from error


def _best_epoch(columns: Mapping[str, Floats], select_by: str) -> int | None:
    if select_by not in columns or np.isnan(columns[select_by]).all():
        return None
    find = np.nanargmin if select_by == "val_loss" else np.nanargmax
    epoch = columns["epoch"][find(columns[select_by])]
    return int(epoch) if math.isfinite(epoch) else None


def _threshold(result: Mapping[str, Any]) -> tuple[float, str]:
    """(logit above which a clip is called fake, name of this threshold)."""
    stored = result.get("decision", {}).get("stored")
    if stored is None:
        return 0.0, "P(fake) = 0.5"
    return stored["clip"]["threshold"], "threshold"


def _confusion(result: Mapping[str, Any], scores: ClipScores) -> dict[str, Any]:
    """Counts of reals and fakes called real and fake, and the verdicts of the checkpoint's decision."""
    threshold, _ = _threshold(result)
    accused, fake = scores.logits > threshold, scores.labels == 1
    decision = result.get("decision", {})
    return {
        "threshold": threshold,
        "prob": float(expit(threshold)),
        "reason": decision.get("reason", ""),
        "stored": decision.get("stored"),
        "counts": {
            name: {"real": int((~accused & rows).sum()), "fake": int((accused & rows).sum())}
            for name, rows in (("real", ~fake), ("fake", fake))
        },
        "verdicts": decision.get("verdicts"),
    }


def _most_wrong(evaluated: Evaluated) -> dict[str, Any]:
    """The clips farthest on the wrong side of the threshold, then those nearest to it on the right side."""
    scores = evaluated.scores
    threshold, _ = _threshold(evaluated.result)
    error = np.where(scores.labels == 1, threshold - scores.logits, scores.logits - threshold)
    by_id = {clip.clip_id: clip for clip in evaluated.clips}
    rows = np.argsort(-error, kind="stable")[:NUM_WRONG]
    is_wrong = (scores.logits > threshold) != (scores.labels == 1)
    wrong = [_wrong_clip(evaluated, by_id[scores.clip_ids[row]], int(row), error[row] >= 0) for row in rows]
    return {"wrong": wrong, "num_wrong": int(is_wrong.sum())}


def _wrong_clip(evaluated: Evaluated, clip: Clip, row: int, is_wrong: bool) -> dict[str, Any]:
    scores = evaluated.scores
    fps, _ = read_video_header(clip.folder / VIDEO_NAME)
    num_frames = len(open_landmarks(clip.folder))
    duration_s = num_frames / float(fps)
    windows = [
        {"start": start, "end": end, "prob": float(expit(value))}
        for (start, end), value in zip(evaluated.spans_of(clip), scores.window_logits[row], strict=True)
    ]
    heads = {
        name: float(expit(values[row]))
        for name, values in (("picture", scores.video_logits), ("sound", scores.audio_logits))
        if values is not None
    }
    # one frame from the middle of each third of the clip
    places = ((np.arange(THUMBNAILS) + 0.5) / THUMBNAILS * num_frames).astype(np.int64)
    pictures = []
    if not evaluated.no_thumbnails:
        frames = read_frames(clip.folder / VIDEO_NAME, places)
        pictures = [jpeg_data_url(frame, THUMBNAIL_SIZE, JPEG_QUALITY) for frame in frames]
    segments = {"picture": clip.video_fake_segments, "sound": clip.audio_fake_segments}
    return {
        "clip": clip,
        "is_wrong": bool(is_wrong),
        "fake": bool(scores.labels[row] == 1),
        "prob": float(expit(scores.logits[row])),
        "heads": heads,
        "windows": windows,
        "duration": duration_s,
        "segments": {name: values for name, values in segments.items() if values is not None},
        "pictures": pictures,
    }


def _run_config(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a run's config.json; {} if there is no such file, as for published checkpoints."""
    if not path.is_file():
        return {}
    try:
        sections = parse_json(path.read_bytes())["config"]
        return {name: dict(section) for name, section in sections.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: is not the config.json of a run ({error!r})") from error


def _audit(evaluated: Evaluated) -> dict[str, Any] | None:
    """The audit of this data set; None if no folder that is searched has an audit.json."""
    run_dir, root = evaluated.run_dir, evaluated.data_root
    folders = (run_dir, run_dir / "audit", root, root / "audit", root.parent, root.parent / "audit")
    return read_audit(folders, evaluated.result["dataset"], evaluated.result["split_checksum"])


def read_audit(folders: Sequence[Path], dataset: str, split_checksum: str) -> dict[str, Any] | None:
    """The first audit.json of `dataset` in one of the folders, as the report shows it; None if not found.

    Raises DatasetError if a file of that name is not valid.
    """
    for path in (folder / "audit.json" for folder in folders):
        if not path.is_file():
            continue
        try:
            content = parse_json(path.read_bytes())
            if content["dataset"] != dataset:
                continue  # of another data set in the same folder
            findings = [
                {name: finding[name] for name in ("is_note", "summary", "remedy")}
                for finding in content["findings"]
            ]
            return {
                "path": str(path),
                "found": [finding for finding in findings if not finding["is_note"]],
                "notes": [finding for finding in findings if finding["is_note"]],
                "same_split": content["split_checksum"] == split_checksum,
                "num_clips": content["num_clips"],
            }
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path}: is not an audit.json ({error!r})") from error
    return None
