"""search.html: what a search has tried, and what came of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.clip.generated import caveat_of
from utils.evaluation.units import UNKNOWN, caveat, counted
from utils.report.pages import stamped, write_page
from utils.search.checks import Checked, Plain
from utils.search.plots import plot_rows, plot_space
from utils.search.results import (
    Point,
    add_differences,
    best_of,
    generated_sets,
    group,
    read_outcomes,
    write_tables,
)
from utils.search.study import Study

METHODS = {"rows": "named rows", "grid": "a grid", "random": "random search", "tpe": "TPE"}


def write_results(
    study: Study, checked: Checked, configs: Sequence[Plain], failed: Mapping[str, str]
) -> Point | None:
    """Write the tables, search.png and search.html; returns the best point, None if none is complete."""
    definition = checked.definition
    outcomes = read_outcomes(study, checked, failed)
    points = group(outcomes, checked)
    best = best_of(points, len(definition.seeds))
    if definition.rows and points:
        add_differences(study, points)
    write_tables(study, outcomes, points, checked)
    datasets = list(dict.fromkeys(name for outcome in outcomes for name in outcome.tests))
    mark = caveat_of(generated_sets(study, outcomes))
    path = study.run_dir / "search.png"
    with stamped(mark):
        if definition.rows:
            plot = plot_rows(path, points, datasets[0] if datasets else None)
        else:
            plot = plot_space(path, outcomes, best, definition)
    write_page(
        study.run_dir / "search.html",
        Path(__file__).with_name("search.html"),
        definition=definition,
        method=METHODS[definition.kind],
        settings=definition.settings,
        command=shlex.join(["python", *sys.argv]),
        outcomes=outcomes,
        points=points,
        ranked=points if definition.rows else sorted(points, key=_rank),
        best=best,
        num_planned=study.num_planned,
        failed=failed,
        datasets=datasets,
        caveat=mark,
        units=_units(points),
        rules=sorted({config["data"]["label_rule"] for config in configs}),
        plot=plot,
    )
    return best


def _rank(point: Point) -> float:
    return -max(point.values(), default=0.0)


def _units(points: Sequence[Point]) -> str:
    """What the intervals are over."""
    found: list[dict[str, Any]] = [row for point in points for row in point.differences.values()]
    counts = [row for row in found if "num_persons" in row]
    if not counts:
        return ""
    kinds = counts[0]["clustered_by"] or UNKNOWN
    return f"the {counted(counts[0]['num_persons'], kinds)} of the test split. {caveat(kinds)}".strip()
