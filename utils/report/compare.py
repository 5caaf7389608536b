"""Two models on the same clips, from the predictions.csv of their evaluations.

    python test.py --compare runA/predictions.csv runB/predictions.csv
    python test.py --compare runA/ runB/

A folder means the predictions.csv in it or, after an evaluation on several data sets, those in subfolders.
Prints comparison.json; with --output_dir, writes it there together with a table, comparison.md. Intervals are
over persons, or what stands for them where they are not named; DeLong's test is given over clips and over
persons, McNemar's over clips.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.config import opt, parse_command
from utils.errors import DatasetError, UsageError
from utils.evaluation.bootstrap import (
    CONFIDENCE,
    NUM_RESAMPLES,
    NoStatisticError,
    PersonResamples,
    bootstrap_metrics,
)
from utils.evaluation.metrics import Floats, Rows, against_the_reals, area_under_roc, require_both_classes
from utils.evaluation.significance import delong_test, holm, mcnemar_test
from utils.evaluation.units import UNKNOWN, caveat, is_kind, join_kinds, noun
from utils.files import require_writable, write_text
from utils.names import brief, parse_json
from utils.report.compare_segments import compare_segments, segments_table
from utils.run.progress import configure_logging

log = logging.getLogger("test")
NAME = "predictions.csv"
MAX_TEXT = 4096  # letters of an id or a name; an array makes each value of a column as long as the longest
TEXT_COLUMNS = ("identity", "category", "method", "label")  # two runs must agree on these


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """test.py --compare: the scores of two runs on the same clips."""

    compare: tuple[Path, ...] = opt(dataclasses.MISSING, "predictions.csv of two runs, or their folders")
    compare_thresholds: tuple[float, ...] = opt(
        (0.5, 0.5), "P(fake) above which each run calls a clip fake, for McNemar's test"
    )
    output_dir: Path | None = opt(
        None, "where comparison.json and comparison.md are written (default: not written)"
    )

    def __post_init__(self) -> None:
        if len(self.compare) != 2:
            raise ValueError(f"compare takes the predictions of two runs, got {len(self.compare)}")
        if len(self.compare_thresholds) != 2 or not all(0 < p < 1 for p in self.compare_thresholds):
            raise ValueError("compare_thresholds must be two probabilities between 0 and 1")


@dataclass(frozen=True)
class Predictions:
    """A predictions.csv, sorted by clip id."""

    clip_ids: npt.NDArray[np.str_]  # (n,)
    text: dict[str, npt.NDArray[np.str_]]  # (n,) for each of TEXT_COLUMNS
    labels: npt.NDArray[np.int64]  # (n,) 1 = fake
    logits: Floats  # (n,)
    kinds: npt.NDArray[np.str_]  # (n,) what the identity is (see utils/evaluation/units.py)


def read_predictions(path: Path) -> Predictions:
    """Read a predictions.csv. Raises DatasetError with path and line if it is not valid."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; test.py writes it next to test_metrics.json")
    rows: dict[str, tuple[dict[str, str], float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            wanted = {"clip_id", "logit", *TEXT_COLUMNS}
            if missing := wanted - set(reader.fieldnames or ()):
                raise DatasetError(f"{path}: has no column {', '.join(sorted(missing))}; is it a {NAME}?")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if any(row[name] is None for name in wanted):
                    raise DatasetError(f"{where}: has fewer values than the header")
                if max(len(row[name]) for name in wanted) > MAX_TEXT:
                    raise DatasetError(f"{where}: a value is longer than {MAX_TEXT} letters")
                if row["label"] not in {"0", "1"}:
                    raise DatasetError(f"{where}: label is {row['label']!r}, expected 0 or 1")
                try:
                    logit = float(row["logit"])
                except ValueError:
                    logit = math.nan
                if not math.isfinite(logit):
                    raise DatasetError(f"{where}: logit is {row['logit']!r}, expected a number")
                if not is_kind(row.setdefault("identity_is", UNKNOWN)):
                    raise DatasetError(f"{where}: identity_is is {brief(row['identity_is'])}")
                if row["clip_id"] in rows:
                    raise DatasetError(f"{where}: {row['clip_id']} occurs twice")
                rows[row["clip_id"]] = (row, logit)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{path}: is not a UTF-8 CSV file ({error})") from error
    if not rows:
        raise DatasetError(f"{path}: has no clips")
    clip_ids = sorted(rows)
    text = {name: np.array([rows[clip_id][0][name] for clip_id in clip_ids]) for name in TEXT_COLUMNS}
    labels = (text["label"] == "1").astype(np.int64)
    logits = np.array([rows[clip_id][1] for clip_id in clip_ids])
    kinds = np.array([rows[clip_id][0]["identity_is"] for clip_id in clip_ids])
    return Predictions(clip_ids=np.array(clip_ids), text=text, labels=labels, logits=logits, kinds=kinds)


def require_same_clips(a: Predictions, b: Predictions, paths: Sequence[Path]) -> None:
    """Raise DatasetError unless both have the same clips, with the same labels, persons and kinds."""
    only_a, only_b = np.setdiff1d(a.clip_ids, b.clip_ids), np.setdiff1d(b.clip_ids, a.clip_ids)
    if len(only_a) or len(only_b):
        raise DatasetError(
            f"{paths[0]} and {paths[1]} do not have the same clips: {len(only_a)} are only in the first, "
            f"{len(only_b)} only in the second, e.g. {[*only_a, *only_b][0]}"
        )
    for name in TEXT_COLUMNS:
        differ = np.flatnonzero(a.text[name] != b.text[name])
        if len(differ):
            first = differ[0]
            raise DatasetError(
                f"{paths[0]} and {paths[1]} differ in the {name} of {len(differ)} clips, e.g. of "
                f"{a.clip_ids[first]}: {a.text[name][first]} and {b.text[name][first]}"
            )


def find_predictions(path: Path) -> dict[str, Path]:
    """{data set: predictions.csv} of an evaluation; the name is "" if it is on one data set."""
    if not path.is_dir():
        return {"": path}
    if (path / NAME).is_file():
        return {"": path / NAME}
    found = {file.parent.name: file for file in sorted(path.glob(f"*/{NAME}"))}
    if not found:
        raise DatasetError(f"{path}: no {NAME} in it or in its subfolders")
    return found


def read_caveat(predictions: Path) -> str:
    """The caveat of the test_metrics.json next to a predictions.csv; "" without one."""
    text = ""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        text = parse_json((predictions.parent / "test_metrics.json").read_bytes())["caveat"]
    return text if isinstance(text, str) else ""


def compare_rows(
    a: Predictions, b: Predictions, rows: Rows, thresholds: Sequence[float], what: str
) -> dict[str, Any]:
    """Two models on the clips `rows`: AUCs with intervals, their paired difference, p-values of the tests.

    A result that the data do not allow is {"reason": why}. Raises DatasetError if a class is missing.
    """
    labels, persons = a.labels[rows], a.text["identity"][rows]
    require_both_classes(labels, what)
    logits = (a.logits[rows], b.logits[rows])
    auc_a, auc_b = (area_under_roc(labels, score) for score in logits)
    result: dict[str, Any] = {
        "num_real": int((labels == 0).sum()),
        "num_fake": int((labels == 1).sum()),
        "clustered_by": join_kinds(set(np.where(a.kinds == UNKNOWN, b.kinds, a.kinds)[rows])),
        "num_persons": len(set(persons)),
        "auc_a": auc_a,
        "auc_b": auc_b,
        "difference": auc_a - auc_b,
    }
    try:
        resamples = PersonResamples(labels, persons, what)
        draws = [bootstrap_metrics(labels, score, resamples)["auc"] for score in logits]
        values = {"auc_a": draws[0], "auc_b": draws[1], "difference": draws[0] - draws[1]}
        result["intervals"] = {name: list(resamples.interval(value)) for name, value in values.items()}
    except NoStatisticError as error:
        result["intervals"] = {"reason": str(error)}
    for name, units in (("delong", None), ("delong_persons", persons)):
        try:
            test = delong_test(labels, *logits, what, persons=units)
            result[name] = {"p_value": test.p_value, "standard_error": test.standard_error}
        except NoStatisticError as error:
            result[name] = {"reason": str(error)}
    bounds = [math.log(threshold / (1 - threshold)) for threshold in thresholds]
    right = [(score > bound) == (labels == 1) for score, bound in zip(logits, bounds, strict=True)]
    result |= {"accuracy_a": float(right[0].mean()), "accuracy_b": float(right[1].mean())}
    result["mcnemar"] = dataclasses.asdict(mcnemar_test(*right))
    return result


def adjust(family: Sequence[Mapping[str, Any]]) -> None:
    """Add "p_holm", Holm's adjustment over a family of results, to each test that has a p-value."""
    for name in ("delong", "delong_persons", "mcnemar"):
        tests = [row[name] for row in family if "p_value" in row[name]]
        for test, p_value in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
            test["p_holm"] = p_value


def compare_runs(paths: Sequence[Path], thresholds: Sequence[float]) -> dict[str, Any]:
    """Compare two evaluations on each data set: overall, and per category and method against the same reals.

    Holm's families are: all data sets; all categories of all data sets; all methods of all data sets.
    """
    files = [find_predictions(path) for path in paths]
    if files[0].keys() != files[1].keys():
        names = [", ".join(found) or "one data set" for found in files]
        raise DatasetError(f"{paths[0]} has {names[0]}, {paths[1]} has {names[1]}")
    datasets: dict[str, Any] = {}
    for folder, file in files[0].items():
        pair = (file, files[1][folder])
        a, b = (read_predictions(path) for path in pair)
        require_same_clips(a, b, pair)
        # clip ids begin with the data set's name
        name = folder or "+".join(sorted({clip_id.split("/")[0] for clip_id in a.clip_ids}))
        caveat = "; ".join(dict.fromkeys(filter(None, map(read_caveat, pair))))
        overall = compare_rows(a, b, np.arange(len(a.labels)), thresholds, str(file))
        result: dict[str, Any] = {"caveat": caveat, "overall": overall}
        for key in ("category", "method"):
            result[f"per_{key}"] = {
                kind: compare_rows(a, b, rows, thresholds, f"{key} {kind}")
                for kind, rows in against_the_reals(a.text[key], a.labels).items()
            }
        if located := compare_segments(*pair, dict(zip(a.clip_ids, a.text["identity"], strict=True))):
            result["localisation"] = located
        datasets[name] = result
    adjust([result["overall"] for result in datasets.values()])
    for key in ("per_category", "per_method"):
        adjust([row for result in datasets.values() for row in result[key].values()])
    return {
        "a": str(paths[0]),
        "b": str(paths[1]),
        "thresholds": list(thresholds),
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "datasets": datasets,
    }


def paired_difference(pairs: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """Mean AUC difference, second minus first, of pairs of runs that were scored on the same clips.

    pairs: the predictions.csv of each, e.g. two configurations with one seed. The interval is over persons
    for the mean of these runs: all of them see the same resamples. Where the data allow none, "reason" says
    why. Raises DatasetError if the clips differ or a class is missing.
    """
    runs = [(read_predictions(first), read_predictions(second)) for first, second in pairs]
    reference, what = runs[0][0], f"{pairs[0][0]} and {len(pairs)} pairs"
    for paths, both in zip(pairs, runs, strict=True):
        for path, run in zip(paths, both, strict=True):
            require_same_clips(reference, run, (pairs[0][0], path))
    labels, persons = reference.labels, reference.text["identity"]
    require_both_classes(labels, what)
    differences = [
        area_under_roc(labels, second.logits) - area_under_roc(labels, first.logits) for first, second in runs
    ]
    result: dict[str, Any] = {
        "num_runs": len(runs),
        "clustered_by": join_kinds(set(reference.kinds)),
        "num_persons": len(set(persons)),
        "difference": float(np.mean(differences)),
    }
    try:
        resamples = PersonResamples(labels, persons, what)
        aucs = [[bootstrap_metrics(labels, run.logits, resamples)["auc"] for run in both] for both in runs]
        draws = np.mean([second - first for first, second in aucs], axis=0)
        result["interval"] = list(resamples.interval(draws))
    except NoStatisticError as error:
        result["reason"] = str(error)
    return result


def as_table(comparison: Mapping[str, Any]) -> str:
    """The comparison as a Markdown table, one row per data set, category and method."""

    def interval(row: Mapping[str, Any], name: str) -> str:
        bounds = row["intervals"].get(name)
        shown = f"{row[name]:+.4f}" if name == "difference" else f"{row[name]:.4f}"
        return f"{shown} [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else f"{shown} [-]"

    def p_value(test: Mapping[str, Any]) -> str:
        return f"{test['p_value']:.3g} ({test['p_holm']:.3g})" if "p_value" in test else "-"

    kinds = join_kinds(result["overall"]["clustered_by"] for result in comparison["datasets"].values())
    units = noun(kinds)
    columns = ["clips", "real", "fake", "AUC A", "AUC B", "A - B", f"DeLong, {units}", "DeLong, clips"]
    columns += ["accuracy A", "accuracy B", "McNemar"]
    lines = [f"A: {comparison['a']}", "", f"B: {comparison['b']}", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, result in comparison["datasets"].items():
        groups = {name: result["overall"]}
        groups |= {f"{name}: {key}": row for key, row in result["per_category"].items()}
        groups |= {f"{name}: method {key}": row for key, row in result["per_method"].items()}
        for title, row in groups.items():
            cells = [title.replace("|", "\\|"), str(row["num_real"]), str(row["num_fake"])]
            cells += [interval(row, key) for key in ("auc_a", "auc_b", "difference")]
            cells += [p_value(row["delong_persons"]), p_value(row["delong"])]
            cells += [f"{row['accuracy_a']:.4f}", f"{row['accuracy_b']:.4f}", p_value(row["mcnemar"])]
            lines.append("| " + " | ".join(cells) + " |")
    for name, result in comparison["datasets"].items():
        lines += segments_table(name, result.get("localisation", {}))
    for name, result in comparison["datasets"].items():
        lines += ["", f"{name}: {result['caveat']}"] if result["caveat"] else []
    lines += [
        "",
        f"In brackets: {100 * comparison['confidence']:.0f} % intervals from {comparison['num_resamples']} "
        f"resamples of the {units}, the same for A and B. p-values are two-sided; in parentheses after Holm's"
        " correction over the data sets, all categories, or all methods. DeLong over clips and McNemar treat "
        f"clips as independent; DeLong over {units} does not. A dash: not possible with these data, for the "
        f"reason in comparison.json. Accuracy and McNemar at P(fake) > {comparison['thresholds'][0]} (A) "
        f"and > {comparison['thresholds'][1]} (B). {caveat(kinds)}".strip(),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """`test.py --compare`."""
    config = parse_command(CompareConfig, __doc__ or "", argv)
    configure_logging()
    if config.output_dir and config.output_dir.exists() and not config.output_dir.is_dir():
        raise UsageError(f"--output_dir {config.output_dir} is a file")
    if config.output_dir:
        require_writable(config.output_dir)
    comparison = compare_runs(config.compare, config.compare_thresholds)
    text, table = json.dumps(comparison, indent=1) + "\n", as_table(comparison)
    if config.output_dir:
        write_text(config.output_dir / "comparison.json", text)
        write_text(config.output_dir / "comparison.md", table)
    for line in table.splitlines():
        log.info(line)
    sys.stdout.write(text)
    return 0
