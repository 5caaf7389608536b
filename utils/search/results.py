"""What a search has found: a row per trial, a row per point over its seeds, and paired differences."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

from utils.clip.generated import caveat_of
from utils.errors import DatasetError
from utils.evaluation.results import write_csv
from utils.names import parse_json
from utils.report.compare import find_predictions, paired_difference, read_caveat
from utils.search.checks import ELSEWHERE, METRICS, TEST, Checked, shown_changes
from utils.search.definition import Trial
from utils.search.study import Study

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


@dataclass(frozen=True)
class Outcome:
    """A trial and what it came to."""

    trial: Trial
    state: str  # complete, pruned, failed, unfinished
    seed: str  # "" if the search has no seeds
    result: Mapping[str, float]  # epochs, kept_epoch, val_auc; {} while it is not known
    tests: Mapping[str, float | None]  # data set -> AUC on its test split; None if that lacks a class
    command: str  # that repeats it


@dataclass
class Point:
    """A configuration and its trials under several seeds."""

    name: str
    changes: str
    outcomes: list[Outcome] = field(default_factory=list)
    # data set -> what paired_difference() finds against the first point
    differences: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def num_complete(self) -> int:
        return sum(outcome.state == "complete" for outcome in self.outcomes)

    def values(self, dataset: str | None = None) -> list[float]:
        """Validation AUC of each complete trial, or AUC on the test split of a data set."""
        complete = [outcome for outcome in self.outcomes if outcome.state == "complete"]
        if dataset is None:
            return [outcome.result["val_auc"] for outcome in complete]
        found = (outcome.tests.get(dataset) for outcome in complete)
        return [value for value in found if value is not None]


def read_outcomes(study: Study, checked: Checked, failed: Mapping[str, str]) -> list[Outcome]:
    """All trials that were begun, in their order."""
    outcomes = []
    for record in study.records():
        trial = study.describe(record)
        folder = study.folder(trial)
        state = STATES.get(record.state, "failed" if trial.name in failed else "unfinished")
        words = [*checked.flags(trial), "--run_dir", f"saved_models/{trial.name}"]
        outcomes.append(
            Outcome(
                trial=trial,
                state=state,
                seed=" ".join(trial.changes.get("seed") or ()) if checked.definition.seeds else "",
                result=record.user_attrs.get("result", {}),
                tests=read_tests(folder),
                command=shlex.join(["python", "train.py", *words]),
            )
        )
    return outcomes


def read_tests(folder: Path) -> dict[str, float | None]:
    """{data set: AUC or None} of a trial's evaluations; of a model of emotions the mean of their AUCs.

    Raises DatasetError for a file that is not one.
    """
    tests: dict[str, float | None] = {}
    for path in (folder / TEST / METRICS, *sorted(folder.glob(f"{ELSEWHERE}/*/{METRICS}"))):
        if not path.is_file():
            continue
        try:
            content = parse_json(path.read_bytes())
            for name, row in content.get("datasets", {content.get("dataset"): content}).items():
                auc = row["overall"].get("macro_auc", row["overall"]["auc"])
                tests[name] = None if auc is None else float(auc)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path}: is not a {METRICS} ({error!r})") from error
    return tests


def group(outcomes: Sequence[Outcome], checked: Checked) -> list[Point]:
    """The points, in the order of their first trial."""
    points: dict[str, Point] = {}
    for outcome in outcomes:
        trial = outcome.trial
        changes = {name: words for name, words in trial.changes.items() if not outcome.seed or name != "seed"}
        shown = shown_changes(Trial(name=trial.name, point=trial.point, changes=changes))
        points.setdefault(trial.point, Point(trial.point, shown)).outcomes.append(outcome)
    return list(points.values())


def best_of(points: Sequence[Point], num_seeds: int) -> Point | None:
    """The point with the highest mean validation AUC over all of its seeds; None if none is complete."""
    whole = [point for point in points if point.num_complete == max(1, num_seeds)]
    return max(whole, key=lambda point: float(np.mean(point.values())), default=None)


def add_differences(study: Study, points: Sequence[Point]) -> None:
    """Compare each point with the first one on every data set, over the seeds that both were tested with."""
    for point in points[1:]:
        pairs: dict[str, list[tuple[Outcome, Outcome]]] = {}
        for first in points[0].outcomes:
            for second in point.outcomes:
                for dataset in first.tests if first.seed == second.seed else ():
                    if dataset in second.tests:
                        pairs.setdefault(dataset, []).append((first, second))
        point.differences = {dataset: compare(study, both, dataset) for dataset, both in pairs.items()}


def compare(study: Study, pairs: Sequence[tuple[Outcome, Outcome]], dataset: str) -> dict[str, Any]:
    """The mean difference of some pairs of trials, second minus first, or {"reason": why there is none}."""
    files = [
        (predictions_of(study, first, dataset), predictions_of(study, second, dataset))
        for first, second in pairs
    ]
    try:
        return paired_difference(files)
    except DatasetError as error:
        return {"reason": str(error)}


def predictions_of(study: Study, outcome: Outcome, dataset: str) -> Path:
    """The predictions.csv of a trial on a data set that it was tested on."""
    folder = study.folder(outcome.trial)
    if (elsewhere := folder / ELSEWHERE / dataset).is_dir():
        return find_predictions(elsewhere)[""]
    files = find_predictions(folder / TEST)
    return files[dataset if dataset in files else ""]  # "": the only data set


def write_tables(
    study: Study, outcomes: Sequence[Outcome], points: Sequence[Point], checked: Checked
) -> None:
    """Write search.csv, a row per trial, and points.csv, a row per point."""
    searched, seeds = checked.definition.searched, checked.definition.seeds
    datasets = list(dict.fromkeys(name for outcome in outcomes for name in outcome.tests))
    rows = []
    for outcome in outcomes:
        changes = {name: outcome.trial.changes.get(name, ()) for name in searched}
        rows.append(
            {
                "trial": outcome.trial.name,
                "point": outcome.trial.point,
                # blank: as in all trials; -: without what the others have
                **{name: "-" if words is None else " ".join(words) for name, words in changes.items()},
                **({"seed": outcome.seed} if seeds else {}),
                "state": outcome.state,
                **{name: outcome.result.get(name, "") for name in ("epochs", "kept_epoch", "val_auc")},
                **{f"test_auc_{name}": outcome.tests.get(name, "") for name in datasets},
                "command": outcome.command,
            }
        )
    if rows:
        write_csv(study.run_dir / "search.csv", rows)
        write_csv(study.run_dir / "points.csv", [point_row(point, datasets) for point in points])


def point_row(point: Point, datasets: Sequence[str]) -> dict[str, Any]:
    """A row of points.csv."""
    row: dict[str, Any] = {"point": point.name, "changes": point.changes, "num_complete": point.num_complete}
    row |= summary("val_auc", point.values())
    for name in datasets:
        found = point.differences.get(name, {})
        low, high = found.get("interval") or ("", "")
        row |= summary(f"test_auc_{name}", point.values(name))
        row |= {f"difference_{name}": found.get("difference", ""), f"low_{name}": low, f"high_{name}": high}
    return row


def summary(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Mean, lowest and highest of some values, blank if there are none."""
    numbers = [float(np.mean(values)), min(values), max(values)] if values else ["", "", ""]
    return dict(zip((f"{name}_mean", f"{name}_lowest", f"{name}_highest"), numbers, strict=True))


def caveat_of_search(study: Study, outcomes: Sequence[Outcome]) -> str:
    """What to say of trials that were trained, or else tested, on generated clips; "" if none were."""
    if trained := caveat_of(_generated_sets(study, outcomes)):
        return trained
    tests: dict[str, str] = {}
    for outcome in outcomes:
        for name in outcome.tests.keys() - tests.keys():
            tests[name] = read_caveat(predictions_of(study, outcome, name))
    return "; ".join(f"{name}: {caveat}" for name, caveat in sorted(tests.items()) if caveat)


def _generated_sets(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    """The generated data sets that trials were trained on, by their config.json."""
    found: dict[str, None] = {}
    for outcome in outcomes:
        path = study.folder(outcome.trial) / "config.json"
        if path.is_file():
            found |= dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))["generated_sets"])
    return list(found)
