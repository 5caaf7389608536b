"""search.html: what a search has tried, and what came of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.evaluation.units import UNKNOWN, caveat, counted, join_kinds
from utils.report.pages import stamped, write_page
from utils.search.checks import Checked, Plain
from utils.search.plots import plot_rows, plot_space
from utils.search.results import (
    Point,
    add_differences,
    best_of,
    caveat_of_search,
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
    mark = caveat_of_search(study, outcomes)
    path = study.run_dir / "search.png"
    with stamped(mark):
        if definition.rows:
            plot = plot_rows(path, points, datasets)
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
    counts: dict[str, dict[str, Any]] = {}  # by data set
    for point in points:
        for name, row in point.differences.items():
            if "num_persons" in row:
                counts.setdefault(name, row)
    if not counts:
        return ""
    kinds = {name: row["clustered_by"] or UNKNOWN for name, row in counts.items()}
    persons = {name: counted(row["num_persons"], kinds[name]) for name, row in counts.items()}
    over = f"the {', '.join(persons.values())} of the test split"
    if len(counts) > 1:
        each = ", ".join(f"{found} of {name}" for name, found in persons.items())
        over = f"each data set's test split ({each})"
    return f"{over}. {caveat(join_kinds(kinds.values()))}".strip()
