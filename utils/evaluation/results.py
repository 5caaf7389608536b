"""Results of an evaluation: metrics and intervals per category and method, and a row per clip."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from utils.evaluation.bootstrap import interval_results
from utils.evaluation.decision import Decision, decision_results
from utils.evaluation.metrics import Rows, detection_metrics
from utils.evaluation.scoring import ClipScores
from utils.files import write_text
from utils.types import Clip


def against_the_reals(clips: list[Clip], scores: ClipScores, key: str) -> dict[str, Rows]:
    """{name: rows of `scores`} per category or method (`key`) of the fakes, each with all real clips."""
    value_of = {clip.clip_id: getattr(clip, key) for clip in clips}
    values = np.array([value_of[clip_id] for clip_id in scores.clip_ids])
    fake = scores.labels == 1
    return {str(value): np.flatnonzero(~fake | (values == value)) for value in sorted(set(values[fake]))}


def category_metrics(clips: list[Clip], scores: ClipScores) -> dict[str, Any]:
    """Metrics per category and per method of the fakes, each against all reals, and their mean AUC."""
    result: dict[str, Any] = {}
    for key in ("category", "method"):
        rows = {
            name: dataclasses.asdict(
                detection_metrics(scores.labels[rows], scores.logits[rows], f"{key} {name}")
            )
            for name, rows in against_the_reals(clips, scores, key).items()
        }
        result[f"per_{key}"] = rows
        result[f"macro_auc_{key}"] = float(np.mean([row["auc"] for row in rows.values()]))
    return result


def statistics_of(
    decision: Decision | None, clips: list[Clip], scores: ClipScores, what: str
) -> dict[str, Any]:
    """Intervals over persons, and the results of the checkpoint's decision."""
    person_of = {clip.clip_id: clip.identity for clip in clips}
    persons = [person_of[clip_id] for clip_id in scores.clip_ids]
    groups = {key: against_the_reals(clips, scores, key) for key in ("category", "method")}
    verdicts: dict[str, Any] = {"reason": "the checkpoint holds no decision"}
    if decision is not None:
        verdicts = decision_results(decision, scores.labels, scores.logits)
    return {
        "intervals": interval_results(scores.labels, scores.logits, persons, groups, what),
        "decision": verdicts,
    }


def all_metrics(
    decision: Decision | None, clips: list[Clip], scores: ClipScores, donor_disjoint: Set[str], what: str
) -> dict[str, Any]:
    """Metrics of all clips, per category and method, with intervals, and of the donor-disjoint fakes if any.

    donor_disjoint: ids of clips with no donor in training; these fakes are compared with all reals.
    """
    result = {
        "overall": dataclasses.asdict(detection_metrics(scores.labels, scores.logits, what)),
        **category_metrics(clips, scores),
        **statistics_of(decision, clips, scores, what),
    }
    is_disjoint = np.array([clip_id in donor_disjoint for clip_id in scores.clip_ids])
    rows = is_disjoint | (scores.labels == 0)
    if (scores.labels[rows] == 1).any():
        metrics = detection_metrics(scores.labels[rows], scores.logits[rows], "the donor-disjoint subset")
        result["donor_disjoint"] = dataclasses.asdict(metrics)
    return result


def write_predictions(path: Path, clips: list[Clip], scores: ClipScores, donor_disjoint: Set[str]) -> None:
    """Write predictions.csv, one row per clip. `donor_disjoint`: ids of clips with no donor in training."""
    by_id = {clip.clip_id: clip for clip in clips}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = (
        "clip_id identity category method label logit prob video_prob audio_prob num_windows donor_disjoint"
    )
    writer.writerow(names.split())
    unknown = np.full(len(scores.logits), np.nan)
    video = unknown if scores.video_logits is None else expit(scores.video_logits)
    audio = unknown if scores.audio_logits is None else expit(scores.audio_logits)
    for row, clip_id in enumerate(scores.clip_ids):
        clip = by_id[clip_id]
        heads = ["" if np.isnan(value) else f"{value:.6f}" for value in (video[row], audio[row])]
        writer.writerow(
            (
                clip_id,
                clip.identity,
                clip.category,
                clip.method,
                int(scores.labels[row]),
                # unrounded: rounding would tie clips with nearly equal scores
                repr(float(scores.logits[row])),
                f"{expit(scores.logits[row]):.6f}",
                *heads,
                scores.num_windows[row],
                int(clip_id in donor_disjoint),
            )
        )
    write_text(path, buffer.getvalue())
