"""Many evaluations on one page: runs by data sets, and folds side by side.

    python test.py --matrix saved_models/A saved_models/B results/A_on_kodf
    python test.py --matrix saved_models/fold_*/ --output_dir results/folds

A folder means every test_metrics.json in and below it. Writes matrix.html and matrix.json to --output_dir and
prints the latter. A row is a checkpoint, a column a data set, a cell the AUC with its interval. Runs that
differ only in seed and fold are grouped, with their mean and standard deviation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.clip.generated import caveat_of
from utils.config import opt, parse_command
from utils.errors import DatasetError, UsageError
from utils.evaluation.significance import over_runs
from utils.evaluation.units import UNKNOWN, is_kind, join_kinds, noun
from utils.files import file_sha256, require_writable, write_text
from utils.names import brief, parse_json
from utils.report.pages import TEMPLATES, write_page
from utils.run.progress import configure_logging

log = logging.getLogger("test")
NAME = "test_metrics.json"
AVERAGED = ("auc", "eer", "accuracy", "balanced_accuracy")  # over runs
# fields of a run's configuration that may differ between averaged runs: what tells repetitions apart, and
# what does not affect the model
NOT_SHARED = {
    "train": {"seed", "run_dir", "data_root", "device"},
    "workers": {"num_workers"},
    "split": {"split_seed", "fold", "protocol_files"},
}


@dataclass(frozen=True, kw_only=True)
class MatrixConfig:
    """test.py --matrix: evaluations of runs on data sets or folds, side by side."""

    matrix: tuple[Path, ...] = opt(
        dataclasses.MISSING, f"folders with {NAME} in or below them, or such files"
    )
    output_dir: Path = opt(Path("matrix"), "where matrix.html and matrix.json are written")


def describe_run(checkpoint: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The "run" of test_metrics.json: identifies the evaluated run, and what it shares with its repetitions.

    content: what the checkpoint holds; without a "config" for a bare state_dict.
    """
    folder = checkpoint.resolve().parent.name
    config: Mapping[str, Mapping[str, Any]] = content.get("config", {})
    about: dict[str, Any] = {
        "name": folder if checkpoint.name == "best.pt" else f"{folder}/{checkpoint.name}",
        "checkpoint_sha256": file_sha256(checkpoint),
        "generated_sets": content.get("generated_sets"),  # None: it is not known
    }
    if not config:
        return about | {"configuration": None}
    shared = {
        section: {name: value for name, value in values.items() if name not in NOT_SHARED.get(section, ())}
        for section, values in config.items()
    }
    train, split = config.get("train", {}), config.get("split", {})
    trained_on = train.get("dataset", [])
    return about | {
        "model": train.get("model"),
        "preset": train.get("preset"),
        "trained_on": [trained_on] if isinstance(trained_on, str) else list(trained_on),
        "seed": train.get("seed"),
        "split_seed": split.get("split_seed"),
        "fold": split.get("fold") or None,
        "configuration": hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest(),
    }


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One checkpoint on one data set."""

    auc: float
    interval: tuple[float, float] | None
    eer: float
    accuracy: float  # at logit 0
    balanced_accuracy: float  # at logit 0; some papers call this AUC
    num_real: int
    num_fake: int
    file: str
    clustered_by: str = UNKNOWN  # what the interval is over (see utils/evaluation/units.py)
    caveat: str = ""  # of the evaluation (see utils/clip/generated.py)


@dataclass
class Run:
    """A row: a checkpoint, and a cell for each data set that it was tested on."""

    about: dict[str, Any]  # as describe_run() gives it; None for what it does not
    cells: dict[str, Cell] = dataclasses.field(default_factory=dict)

    @property
    def what(self) -> str:
        """What distinguishes it from its repetitions, in words."""
        given = [name for name in ("seed", "fold") if self.about[name] not in (None, "")]
        return ", ".join(f"{name} {self.about[name]}" for name in given)


def find_results(paths: Sequence[Path]) -> list[Path]:
    """Each test_metrics.json that `paths` are or contain, once. Raises UsageError for a path without one."""
    found: dict[Path, Path] = {}
    for path in paths:
        files = sorted(path.rglob(NAME)) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise UsageError(f"{path}: {f'no {NAME} in or below it' if path.is_dir() else 'no such file'}")
        found |= {file.resolve(): file for file in files}
    return list(found.values())


def read_results(files: Sequence[Path]) -> list[Run]:
    """The rows, one per checkpoint.

    Raises DatasetError for a file that is not a test_metrics.json, UsageError if two results of one
    checkpoint on one data set differ.
    """
    runs: dict[str, Run] = {}
    for file in files:
        try:
            content = parse_json(file.read_bytes())
            for result in content.get("datasets", {"": content}).values():
                _add(runs, file, result)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise DatasetError(f"{file}: is not a {NAME} ({error!r})") from error
    return list(runs.values())


def _add(runs: dict[str, Run], file: Path, result: Mapping[str, Any]) -> None:
    about = _checked(result["run"])
    for value in (result["dataset"], result["split"]):
        if not isinstance(value, str):
            raise ValueError(f"{brief(value)} is not a name")
    column = _column(result)
    overall = result["overall"]
    if overall["auc"] is None:
        log.warning("%s: left out, %s of %s has no AUC of real and fake clips", file, column, about["name"])
        return
    intervals = result.get("intervals", {})
    interval, kinds = intervals.get("overall", {}).get("auc"), intervals.get("clustered_by", UNKNOWN)
    if not is_kind(kinds):
        raise ValueError(f"{brief(kinds)} is nothing to count")
    if not isinstance(caveat := result.get("caveat", ""), str):
        raise ValueError(f"its caveat is {brief(caveat)}")
    numbers: dict[str, Any] = {name: float(overall[name]) for name in AVERAGED}
    numbers |= {name: int(overall[name]) for name in ("num_real", "num_fake")}
    bounds = None if interval is None else (float(interval[0]), float(interval[1]))
    cell = Cell(**numbers, interval=bounds, file=str(file), clustered_by=kinds, caveat=caveat)
    run = runs.setdefault(about["checkpoint_sha256"], Run(about))
    other = run.cells.setdefault(column, cell)
    # test.py writes the result of each data set twice: to its own folder and to the table of all
    if dataclasses.replace(other, file=cell.file, caveat=caveat) != cell:
        raise UsageError(
            f"{other.file} and {file} differ on {about['name']} on {column}: name only one of them"
        )
    run.cells[column] = dataclasses.replace(other, caveat=other.caveat or caveat)


def _column(result: Mapping[str, Any]) -> str:
    """The column of a result: the data set, and in brackets what else its clips are."""
    # before trimmings had names, "level" was the only one
    trimming = result.get("trimmed", "level" if result.get("data", {}).get("trim_silence") else "no")
    words = [result["split"]] if result["split"] != "test" else []
    words += ["trimmed"] if trimming == "amplitude" else []
    words += ["trimmed by level"] if trimming == "level" else []
    return f"{result['dataset']} ({', '.join(words)})" if words else str(result["dataset"])


def _checked(about: dict[str, Any]) -> dict[str, Any]:
    """`about`, checked to be what describe_run() returns. Raises ValueError, KeyError or TypeError."""
    texts, numbers = ("model", "preset", "fold", "configuration"), ("seed", "split_seed")
    about = dict.fromkeys(("trained_on", "generated_sets", *texts, *numbers)) | about
    required = (about["name"], about["checkpoint_sha256"])
    required += (*(about["trained_on"] or ()), *(about["generated_sets"] or ()))
    if not (
        all(isinstance(text, str) for text in required)
        and all(isinstance(about[name], str | None) for name in texts)
        and all(isinstance(about[name], int | None) for name in numbers)
    ):
        raise ValueError(f"the run is described by {brief(about)}")
    return about


def build_matrix(runs: Sequence[Run]) -> dict[str, Any]:
    """The content of matrix.json: columns, groups of runs that differ only in seed and fold, and folds."""
    columns = sorted({column for run in runs for column in run.cells})
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.about["configuration"] or run.about["checkpoint_sha256"], []).append(run)
    rows = [_group(members, columns) for members in groups.values()]
    return {
        "columns": columns,
        "clustered_by": join_kinds(cell.clustered_by for run in runs for cell in run.cells.values()),
        "groups": rows,
        "folds": [table for row in rows for table in _folds(row)],
    }


def _group(members: Sequence[Run], columns: Sequence[str]) -> dict[str, Any]:
    members = sorted(members, key=lambda run: (_fold_order(run.about["fold"]), run.what, run.about["name"]))
    about = members[0].about
    trained_on = about["trained_on"] or []
    title = " ".join(about[name] for name in ("model", "preset") if about[name]) or about["name"]
    summary = {}
    for column in columns:
        cells = [run.cells[column] for run in members if column in run.cells]
        if len(cells) > 1:
            values = [{name: getattr(cell, name) for name in AVERAGED} for cell in cells]
            summary[column] = over_runs(values, f"{title} on {column}")
    return {
        "title": title + (f", trained on {' and '.join(trained_on)}" if trained_on else ""),
        "trained_on": trained_on,
        "caveat": caveat_of(sorted({name for run in members for name in run.about["generated_sets"] or ()})),
        "configuration": about["configuration"],
        "runs": [
            {
                "name": run.about["name"],
                "what": run.what,
                **{name: run.about[name] for name in ("seed", "split_seed", "fold", "checkpoint_sha256")},
                "cells": {column: dataclasses.asdict(cell) for column, cell in sorted(run.cells.items())},
            }
            for run in members
        ],
        "summary": summary,
    }


def _fold_order(fold: str | None) -> int:
    number = (fold or "").partition("/")[0]
    return int(number) if number.isdecimal() else -1


def _folds(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table per data set that a group's folds were tested on: a row per seed, a column per fold."""
    folded = [run for run in group["runs"] if run["fold"]]
    folds = list(dict.fromkeys(run["fold"] for run in folded))
    tables = []
    for column in sorted({column for run in folded for column in run["cells"]}) if len(folds) > 1 else []:
        cells_of: dict[tuple[int | None, int | None], dict[str, Any]] = {}  # seeds -> fold -> cell
        for run in folded:
            cells = cells_of.setdefault((run["seed"], run["split_seed"]), {})
            if column in run["cells"]:
                cells[run["fold"]] = run["cells"][column]
        rows = [
            {
                "seed": seed,
                "split_seed": split_seed,
                "cells": cells,
                "summary": over_runs([{"auc": cell["auc"]} for cell in cells.values()], column)["auc"],
            }
            for (seed, split_seed), cells in cells_of.items()
            if cells
        ]
        about = {"title": group["title"], "caveat": group["caveat"], "column": column}
        tables.append(about | {"folds": folds, "rows": rows})
    return tables


def main(argv: Sequence[str] | None = None) -> int:
    """`test.py --matrix`."""
    config = parse_command(MatrixConfig, __doc__ or "", argv)
    configure_logging()
    require_writable(config.output_dir)
    matrix = build_matrix(read_results(find_results(config.matrix))) | {"command": shlex.join(sys.argv)}
    text = json.dumps(matrix, indent=1) + "\n"
    write_text(config.output_dir / "matrix.json", text)
    page, units = config.output_dir / "matrix.html", noun(matrix["clustered_by"] or UNKNOWN)
    write_page(page, TEMPLATES / "matrix.html", matrix=matrix, units=units, width=96)
    for group in matrix["groups"]:
        for column, summary in group["summary"].items():
            shown = [f"{name} {row['mean']:.4f} +- {row['std']:.4f}" for name, row in summary.items()]
            num_members = summary["auc"]["num_runs"]
            log.info("%s on %s, mean of %d runs: %s", group["title"], column, num_members, ", ".join(shown))
    num_runs = sum(len(group["runs"]) for group in matrix["groups"])
    log.info("%d runs on %d data sets; written to %s", num_runs, len(matrix["columns"]), config.output_dir)
    sys.stdout.write(text)
    return 0
