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
from utils.clip_type import EMOTIONS, Clip
from utils.errors import DatasetError
from utils.evaluation.metrics import Floats, against_the_reals
from utils.evaluation.promise import sentence_of, sentences, shown_by
from utils.evaluation.results import sentence_of_frames
from utils.evaluation.scoring import ClipScores
from utils.evaluation.seen import sentence_of_seen
from utils.evaluation.units import caveat, counted, noun
from utils.names import parse_json
from utils.report.pages import TEMPLATES, jpeg_data_url, stamped, write_page
from utils.report.plots import (
    Bar,
    plot_bars,
    plot_confusion,
    plot_det,
    plot_reliability,
    plot_roc,
    plot_score_histogram,
    plot_training,
)

NUM_WRONG = 20
THUMBNAILS, THUMBNAIL_SIZE = 3, 112  # frames per clip; pixels, twice the size shown on a phone
JPEG_QUALITY = 72
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

    result: dict[str, Any]  # the content of test_metrics.json
    clips: Sequence[Clip]  # the scored clips, in any order
    scores: ClipScores
    spans_of: Callable[[Clip], Sequence[tuple[float, float]]]  # windows of a clip, in seconds
    run_dir: Path  # folder of the checkpoint
    data_root: Path
    no_thumbnails: bool = False  # the page shows no face


def write_report(output_dir: Path, evaluated: Evaluated) -> None:
    """Write report.html and its plots as PNG. Raises ClipError if a clip shown in it cannot be read."""
    if evaluated.scores.emotion_logits is not None:
        _write_class_report(output_dir, evaluated)
        return
    result, run_dir, root = evaluated.result, evaluated.run_dir, evaluated.data_root
    stored = result["decision"].get("stored")
    threshold = stored["clip"]["threshold"] if stored else 0.0  # logit above which a clip is called fake
    config = _run_config(run_dir / "config.json")
    folders = (run_dir, run_dir / "audit", root, root / "audit", root.parent, root.parent / "audit")
    caveat = result.get("caveat", "")
    with stamped(caveat):
        plots = _plots(output_dir, evaluated, threshold, config)
    write_page(
        output_dir / "report.html",
        TEMPLATES / "report.html",
        result=result,
        caveat=caveat,
        headlines=_headlines(result),
        frames=sentence_of_frames(result["frame_level"]) if "frame_level" in result else "",
        persons=_persons(result["intervals"]),
        promise=_promise(result),
        seen=sentence_of_seen(result.get("seen_in_training")),
        plots=plots,
        threshold=threshold,
        threshold_prob=float(expit(threshold)),
        counts=_counts(evaluated.scores, threshold),
        **most_wrong(evaluated, threshold),
        no_thumbnails=evaluated.no_thumbnails,
        located=result.get("localisation"),
        config=config,
        audit=read_audit(folders, result["dataset"], result["split_checksum"]),
    )


def _write_class_report(output_dir: Path, evaluated: Evaluated) -> None:
    """The page of a model that tells EMOTIONS apart."""
    result, run_dir = evaluated.result, evaluated.run_dir
    config, metrics_file = _run_config(run_dir / "config.json"), run_dir / "metrics.csv"
    caveat, plots = result.get("caveat", ""), {}
    with stamped(caveat):
        counts = result["classes"]["confusion"]
        plots["confusion"] = plot_confusion(output_dir / "confusion.png", EMOTIONS, counts)
        if metrics_file.is_file():
            columns = read_training_curves(metrics_file)
            best = _best_epoch(columns, config.get("train", {}).get("select_by", ""))
            plots["training"] = plot_training(output_dir / "training.png", columns, best)
    write_page(
        output_dir / "report.html",
        TEMPLATES / "classes.html",
        result=result,
        caveat=caveat,
        persons=_persons({**result["intervals"], "overall": result["intervals"]}),
        seen=sentence_of_seen(result.get("seen_in_training")),
        plots=plots,
        config=config,
    )


def _promise(result: Mapping[str, Any]) -> list[str]:
    """What the threshold promises, and what this split shows of it."""
    if "stored" not in result["decision"]:
        return []
    shown = shown_by(result)
    return sentences(result["decision"]["promise"]) + ([sentence_of(shown)] if shown else [])


def _persons(intervals: Mapping[str, Any]) -> str:
    """How the intervals were computed, or why they were not."""
    if reason := intervals["overall"].get("reason"):
        return f"No intervals: {reason}."
    kinds, number = intervals["clustered_by"], intervals["num_persons"]
    since = "" if kinds == "clip" else f", since clips of one {noun(kinds, 1)} are not independent"
    return (
        f"In parentheses: {intervals['confidence']:.0%} intervals from {intervals['num_resamples']:,} "
        f"resamples of the {counted(number, kinds)}{since}. {caveat(kinds)}"
    ).strip()


def _headlines(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []

    def add(name: str, value: float, what: str, interval: Sequence[float] | None = None) -> None:
        rows.append({"name": name, "value": value, "interval": interval, "what": what})

    for metric, name, what in HEADLINES:
        chance = f"; {result['overall']['prevalence']:.3f} is chance" if metric == "ap" else ""
        interval = result["intervals"]["overall"].get(metric)
        add(name, result["overall"][metric], what + chance, interval)
    decision = result["decision"]
    if "ece_after" in decision:
        what = "mean distance of P(fake) from the share of fakes; {ece_before:.3f} without temperature"
        add("Calibration error", decision["ece_after"], what.format(**decision))
    for key, plural in (("category", "categories"), ("method", "methods")):
        if (num_groups := len(result[f"per_{key}"])) > 1:
            what = f"mean over {num_groups} {plural}, each against all reals"
            add(f"AUC over {plural}", result[f"macro_auc_{key}"], what)
    return rows


def _plots(
    output_dir: Path, evaluated: Evaluated, threshold: float, config: Mapping[str, Mapping[str, Any]]
) -> dict[str, Markup]:
    """{name: SVG}; each plot is also written as name.png."""
    result, labels, logits = evaluated.result, evaluated.scores.labels, evaluated.scores.logits
    ordered = evaluated.scores.in_order(evaluated.clips)
    categories = against_the_reals([clip.category for clip in ordered], labels)
    curves = {"all": (labels, logits)}
    if len(categories) > 1:  # a single category is the same as "all"
        curves |= {name: (labels[rows], logits[rows]) for name, rows in categories.items()}
    stored = result["decision"].get("stored")
    line = ("threshold" if stored else "P(fake) = 0.5", float(expit(threshold)))
    probs = {"as scored": expit(logits)}
    if stored:
        probs["with temperature"] = expit(logits / stored["clip"]["temperature"])
    sections = {f"per {key}": _bars(result, f"per_{key}") for key in ("category", "method")}
    plots = {
        "roc": plot_roc(output_dir / "roc.png", curves),
        "det": plot_det(output_dir / "det.png", curves),
        "scores": plot_score_histogram(output_dir / "scores.png", labels, probs["as scored"], *line),
        "reliability": plot_reliability(output_dir / "reliability.png", labels, probs),
        "categories": plot_bars(output_dir / "categories.png", sections),
    }
    metrics_file = evaluated.run_dir / "metrics.csv"
    if metrics_file.is_file():
        columns = read_training_curves(metrics_file)
        best = _best_epoch(columns, config.get("train", {}).get("select_by", ""))
        plots["training"] = plot_training(output_dir / "training.png", columns, best)
    return plots


def _bars(result: Mapping[str, Any], key: str) -> list[Bar]:
    intervals = result["intervals"][key]
    return [
        Bar(name, row["auc"], intervals[name].get("auc"), row["num_fake"])
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


def _counts(scores: ClipScores, threshold: float) -> dict[str, dict[str, int]]:
    """How many reals and fakes are called real and fake."""
    accused, fake = scores.logits > threshold, scores.labels == 1
    return {
        name: {"real": int((~accused & rows).sum()), "fake": int((accused & rows).sum())}
        for name, rows in (("real", ~fake), ("fake", fake))
    }


def most_wrong(evaluated: Evaluated, threshold: float) -> dict[str, Any]:
    """The clips farthest on the wrong side of the threshold, then those nearest to it on the right side."""
    scores, clips = evaluated.scores, evaluated.scores.in_order(evaluated.clips)
    fake = scores.labels == 1
    error = np.where(fake, threshold - scores.logits, scores.logits - threshold)
    is_wrong = (scores.logits > threshold) != fake
    rows = np.argsort(-error, kind="stable")[:NUM_WRONG]
    wrong = [_wrong_clip(evaluated, clips[row], row) | {"is_wrong": is_wrong[row]} for row in rows]
    return {"wrong": wrong, "num_wrong": is_wrong.sum()}


def _wrong_clip(evaluated: Evaluated, clip: Clip, row: int) -> dict[str, Any]:
    scores, video = evaluated.scores, clip.folder / VIDEO_NAME
    fps, num_frames = read_video_header(video, clip.frames)
    num_frames = num_frames or len(open_landmarks(clip.folder))  # methods that only see have no landmarks
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
        frames = read_frames(video, places, clip.frames)
        pictures = [jpeg_data_url(frame, THUMBNAIL_SIZE, JPEG_QUALITY) for frame in frames]
    segments = {"picture": clip.video_fake_segments, "sound": clip.audio_fake_segments}
    return {
        "clip": clip,
        "fake": scores.labels[row] == 1,
        "prob": float(expit(scores.logits[row])),
        "heads": heads,
        "windows": windows,
        "duration": num_frames / float(fps),  # seconds
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
