"""Tables and curves of test.py --robustness and --shortcuts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context

from utils.evaluation.metrics import DetectionMetrics, detection_metrics
from utils.evaluation.results import write_csv
from utils.evaluation.scoring import ClipScores
from utils.files import write_text
from utils.report.pages import (
    FAKE_COLOR,
    LINE,
    REAL_COLOR,
    SOFT,
    STYLE,
    drawn_name,
    new_figure,
    save_plot,
    stamped,
)


@dataclass(frozen=True, kw_only=True)
class RobustnessRow:
    """One kind of perturbation at one level; level 0 is the unchanged set."""

    kind: str
    level: int
    value: str  # what the level means
    auc: float
    ap: float
    eer: float
    balanced_accuracy: float
    num_real: int
    num_fake: int
    num_lost: int  # clips in which no face was found; left out of all other numbers but face_share
    face_share: float  # mean share of frames with a face, over all clips


@dataclass(frozen=True, kw_only=True)
class ShortcutRow:
    """One change of the input, compared with the unchanged clips."""

    change: str
    auc: float
    auc_difference: float
    eer: float
    balanced_accuracy: float


def robustness_row(
    scores: ClipScores, *, kind: str, level: int, value: str, num_lost: int, face_share: float
) -> RobustnessRow:
    """Row for the scores of a variant. Raises DatasetError if all clips of a class were lost."""
    metrics = detection_metrics(scores.labels, scores.logits, f"{kind} at level {level}")
    common = _common(RobustnessRow, metrics)
    return RobustnessRow(
        kind=kind, level=level, value=value, num_lost=num_lost, face_share=face_share, **common
    )


def shortcut_row(scores: ClipScores, plain: ClipScores, change: str) -> ShortcutRow:
    """Row for the scores after a change (`scores`) and before it (`plain`)."""
    metrics, before = (detection_metrics(s.labels, s.logits, change) for s in (scores, plain))
    return ShortcutRow(
        change=change, auc_difference=metrics.auc - before.auc, **_common(ShortcutRow, metrics)
    )


def _common(row_type: type, metrics: DetectionMetrics) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(row_type)}
    return {name: value for name, value in dataclasses.asdict(metrics).items() if name in names}


def _by_kind(rows: Sequence[RobustnessRow]) -> dict[str, list[RobustnessRow]]:
    kinds: dict[str, list[RobustnessRow]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return kinds


def summarize_robustness(rows: Sequence[RobustnessRow], families: dict[str, Sequence[str]]) -> dict[str, Any]:
    """AUC per kind: at each level, and mean and worst over levels above 0; then mean and worst over kinds.

    families: {name: kinds}; the mean over a family is given if all of its kinds were measured.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for name, of_kind in _by_kind(rows).items():
        above = [row.auc for row in of_kind if row.level > 0]
        kinds[name] = {
            "auc": {str(row.level): row.auc for row in of_kind},
            "mean_auc": float(np.mean(above)),
            "worst_auc": min(above),
        }
    summary: dict[str, Any] = {
        "per_kind": kinds,
        "mean_auc": float(np.mean([row["mean_auc"] for row in kinds.values()])),
        "worst_auc": min(row["worst_auc"] for row in kinds.values()),
    }
    for family, members in families.items():
        if set(members) <= kinds.keys():
            summary[f"mean_auc_{family}"] = float(np.mean([kinds[name]["mean_auc"] for name in members]))
    return summary


def write_robustness(
    output_dir: Path,
    rows: Sequence[RobustnessRow],
    *,
    families: dict[str, Sequence[str]],
    title: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write robustness.json, .csv and .png; return the content of the JSON.

    rows: those of a kind in the order of levels.
    """
    table = [dataclasses.asdict(row) for row in rows]
    result = about | summarize_robustness(rows, families) | {"rows": table}
    write_text(output_dir / "robustness.json", json.dumps(result, indent=1) + "\n")
    write_csv(output_dir / "robustness.csv", table)
    with stamped(about.get("caveat", "")):
        plot_robustness(output_dir / "robustness.png", rows, title)
    return result


@rc_context(STYLE)
def plot_robustness(path: Path, rows: Sequence[RobustnessRow], title: str) -> None:
    """Write a PNG with one small panel per kind: AUC against level, all on one scale."""
    kinds = _by_kind(rows)
    columns = min(4, len(kinds))
    num_rows = -(-len(kinds) // columns)
    size = (2.6 * columns + 0.6, 2.3 * num_rows + 0.8)
    figure, panels = new_figure(*size, rows=num_rows, columns=columns, sharey=True)
    lowest = min(0.5, *(row.auc for row in rows))
    for (kind, of_kind), panel in zip(kinds.items(), panels, strict=False):
        panel.axhline(of_kind[0].auc, color=LINE, lw=1)
        panel.axhline(0.5, color=SOFT, lw=1, ls=":")
        levels = [row.level for row in of_kind]
        panel.plot(levels, [row.auc for row in of_kind], marker="o", ms=4, lw=1.6, color=REAL_COLOR)
        lost = [row for row in of_kind if row.num_lost]
        panel.plot([r.level for r in lost], [r.auc for r in lost], "o", ms=9, mfc="none", color=FAKE_COLOR)
        panel.set(title=drawn_name(kind), ylim=(lowest - 0.03, 1.03))
        panel.set_xticks(levels, ["0", *(f"{row.level}\n{row.value}" for row in of_kind[1:])])
        panel.tick_params(labelsize=7)
    for panel in panels[::columns]:
        panel.set_ylabel("AUC")
    for panel in panels[len(kinds) :]:
        panel.set_axis_off()
    note = "; ringed: clips without a face left out" if any(row.num_lost for row in rows) else ""
    figure.suptitle(f"{title}; grey line: unchanged clips{note}", fontsize=10)
    save_plot(figure, path, f"AUC against level of {', '.join(kinds)}")
