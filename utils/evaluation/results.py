"""Results of an evaluation: metrics and intervals per category and method, and a row per clip."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from utils.clip_type import Clip
from utils.evaluation.abstention import abstention_results
from utils.evaluation.bootstrap import interval_results, metric_intervals, or_reason
from utils.evaluation.classes import class_results, class_rows
from utils.evaluation.decision import Decision, decision_results
from utils.evaluation.domain import Domain
from utils.evaluation.metrics import (
    Floats,
    Labels,
    Rows,
    against_the_reals,
    detection_metrics,
    frame_level_metrics,
    lacks_a_class,
    one_class_metrics,
)
from utils.evaluation.promise import promise_of
from utils.evaluation.scoring import ClipScores
from utils.evaluation.significance import delong_interval
from utils.evaluation.units import kinds_of
from utils.files import write_text


def all_metrics(
    decision: Decision | None,
    clips: Sequence[Clip],
    scores: ClipScores,
    donor_disjoint: Set[str],
    what: str,
    domain: Domain | None = None,
) -> dict[str, Any]:
    """The numbers of test_metrics.json: of all clips, and of each category and method against all reals.

    With intervals over persons, and the results of the checkpoint's decision. donor_disjoint: ids of clips
    with no donor in training; if some of the fakes are, they too are compared with all reals. Of clips of one
    class: what can be said without the other, and the "reason" for the rest. Of emotions: `class_results`.
    """
    if scores.emotion_logits is not None:
        return class_results(clips, scores, what)
    labels, logits = scores.labels, scores.logits
    ordered = scores.in_order(clips)
    persons = [clip.identity for clip in ordered]
    decided: dict[str, Any] = {"reason": "the checkpoint holds no decision"}
    if decision is not None:
        kinds = kinds_of(ordered[row] for row in np.flatnonzero(labels == 0))
        decided = decision_results(decision, labels, logits, persons)
        decided |= {"identity_is": kinds, "promise": promise_of(decision)}
    about_domain: dict[str, Any] = {
        "reason": "the checkpoint does not describe its training clips, or too few persons: see train.log"
    }
    if domain is not None and scores.facts is not None:
        threshold = decision.clip.threshold if decision else 0.0
        about_domain = abstention_results(domain, scores.facts, labels, logits, persons, threshold)
    by_frame: dict[str, Any] = {}
    if scores.frame_labels is not None:
        by_frame = {"frame_level": frame_level_metrics(scores.frame_labels, scores.window_logits)}
    if reason := lacks_a_class(labels, what):
        said = {"overall": one_class_metrics(labels, logits), "reason": reason}
        return {**said, "decision": decided, "domain": about_domain, **by_frame}

    def metrics_of(rows: Rows, name: str) -> dict[str, Any]:
        return dataclasses.asdict(detection_metrics(labels[rows], logits[rows], name))

    result: dict[str, Any] = {"overall": metrics_of(np.arange(len(labels)), what), **by_frame}
    groups = {
        key: against_the_reals([getattr(clip, key) for clip in ordered], labels)
        for key in ("category", "method")
    }
    for key, rows_of in groups.items():
        metrics = {name: metrics_of(rows, f"{key} {name}") for name, rows in rows_of.items()}
        result[f"per_{key}"] = metrics
        result[f"macro_auc_{key}"] = float(np.mean([row["auc"] for row in metrics.values()]))
    result["intervals"] = interval_results(labels, logits, persons, groups, what, kinds_of(ordered))
    result["delong"] = delong_results(labels, logits, persons, what)
    result["per_stratum"] = stratum_results([clip.stratum for clip in ordered], labels, logits, persons)
    result["decision"] = decided
    result["domain"] = about_domain
    is_disjoint = np.array([clip_id in donor_disjoint for clip_id in scores.clip_ids])
    if (is_disjoint & (labels == 1)).any():
        rows = np.flatnonzero(is_disjoint | (labels == 0))
        result["donor_disjoint"] = metrics_of(rows, "the donor-disjoint subset")
    return result


def delong_results(labels: Labels, logits: Floats, persons: Sequence[str], what: str) -> dict[str, Any]:
    """`delong_interval` over "clips" and over "persons", or {"reason": why there is none}."""
    units = {"clips": None, "persons": persons}
    return {name: or_reason(delong_interval, labels, logits, what, of) for name, of in units.items()}


def stratum_results(
    strata: Sequence[str], labels: Labels, logits: Floats, persons: Sequence[str]
) -> dict[str, Any]:
    """{stratum: its metrics, with the interval of the AUC} among its own clips, e.g. of men from Africa.

    Unlike categories and methods, strata have reals of their own. {} if all clips are of one stratum; a
    stratum without one of the classes has {"reason": why}.
    """
    result: dict[str, Any] = {}
    names, people = np.array(strata, str), np.array(persons, str)
    for name in np.unique(names) if len(set(strata)) > 1 else ():
        rows, what = np.flatnonzero(names == name), f"stratum {name}"
        if reason := lacks_a_class(labels[rows], what):
            result[str(name)] = {"reason": reason}
            continue
        found = or_reason(metric_intervals, labels[rows], logits[rows], people[rows], what)
        metrics = dataclasses.asdict(detection_metrics(labels[rows], logits[rows], what))
        result[str(name)] = {**metrics, "interval": found.get("auc", found)}
    return result


def headline(result: Mapping[str, Any]) -> str:
    """The main numbers of test_metrics.json, for the log."""
    rates = "AUC {auc:.4f}, EER {eer:.4f}, balanced accuracy {balanced_accuracy:.4f}"
    if "classes" in result:
        return "accuracy {accuracy:.4f}, macro AUC {macro_auc:.4f}".format(**result["overall"])
    said = [("accuracy {accuracy:.4f}" if "reason" in result else rates).format(**result["overall"])]
    if frames := result.get("frame_level"):
        said.append(sentence_of_frames(frames))
    said += [sentence_of_segments(stream, found) for stream, found in result.get("localisation", {}).items()]
    return "; ".join(filter(None, said))


def sentence_of_segments(stream: str, found: Any) -> str:
    """AP and AR of a stream of test_metrics.json's "localisation", correct form; "" of its other values."""
    if not isinstance(found, dict) or "correct" not in found:
        return ""
    named = {"clip": "segments", "video": "of the picture", "audio": "of the sound"}[stream]
    ap, ar = found["correct"]["ap"], found["correct"]["ar"]
    aps = " / ".join(f"{value:.3f}" for value in ap.values())
    return f"{named}: AP@{' / '.join(ap)} {aps}, AR@100 {ar['100']:.3f}"


def sentence_of_frames(frames: Mapping[str, Any]) -> str:
    """What `frame_level_metrics` found."""
    count, auc = frames["num_real"] + frames["num_fake"], frames["auc"]
    rates = f"accuracy {frames['accuracy']:.4f}, log-loss {frames['log_loss']:.4f}"
    return f"over all {count:,} frames: {'' if auc is None else f'AUC {auc:.4f}, '}{rates}"


def over_data_sets(results: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """test_metrics.json of several data sets, with their mean AUC, and the lines of a table for the log."""
    overall = {name: row["overall"] for name, row in results.items()}
    aucs = [row["auc"] for row in overall.values() if row["auc"] is not None]
    table = [f"{'data set':<18}{'real':>7}{'fake':>7}{'AUC':>8}{'AP':>8}{'EER':>8}"]
    for name, row in overall.items():
        known = (row[key] for key in ("auc", "ap", "eer"))
        rates = "".join(f"{'-':>8}" if value is None else f"{value:>8.4f}" for value in known)
        table.append(f"{name:<18}{row['num_real']:>7}{row['num_fake']:>7}{rates}")
    caveats = sorted({row["caveat"] for row in results.values() if row["caveat"]})
    mean = {"caveat": "; ".join(caveats), "macro_auc_dataset": float(np.mean(aucs)) if aucs else None}
    return {"datasets": results} | mean, table + caveats


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal columns, with a header."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def write_predictions(
    path: Path,
    clips: Iterable[Clip],
    scores: ClipScores,
    donor_disjoint: Set[str],
    domain: Domain | None = None,
) -> None:
    """Write predictions.csv, one row per clip. `donor_disjoint`: ids of clips with no donor in training."""
    if scores.emotion_logits is not None:
        write_csv(path, class_rows(list(clips), scores))
        return
    rows = []
    ordered, p_values = scores.in_order(clips), None
    if domain is not None and scores.facts is not None:
        p_values = domain.p_values(scores.facts)
    for row, clip in enumerate(ordered):
        rows.append(
            {
                "clip_id": clip.clip_id,
                "identity": clip.identity,
                "identity_is": clip.identity_is,
                "category": clip.category,
                "method": clip.method,
                "label": int(scores.labels[row]),
                # unrounded: rounding would tie clips with nearly equal scores
                "logit": float(scores.logits[row]),
                "prob": _shown_prob(scores.logits, row),
                "video_prob": _shown_prob(scores.video_logits, row),
                "audio_prob": _shown_prob(scores.audio_logits, row),
                "num_windows": scores.num_windows[row],
                "donor_disjoint": int(clip.clip_id in donor_disjoint),
                # how like the training clips it is; "" if the checkpoint does not describe them
                "domain_p": "" if p_values is None else round(float(p_values[row]), 6),
            }
        )
    write_csv(path, rows)


def _shown_prob(logits: Floats | None, row: int) -> str:
    """P(fake) of a row; "" if it is unknown."""
    return "" if logits is None or np.isnan(logits[row]) else f"{expit(logits[row]):.6f}"
