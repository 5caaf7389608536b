"""result_card.json: what a number is of, so that others can confirm it.

    python -m utils.report --card saved_models/RUN
    python -m utils.report --card runA/result_card.json runB/result_card.json

test.py writes it next to test_metrics.json: model, weights' sha256, data set, protocol, checksum of the set
of clip ids, metrics with intervals, numbers of clips and persons, whether leading silence was trimmed,
command and commit. --card prints a row of a Markdown table for each result, for a README or an issue.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config import opt, parse_command
from utils.errors import DatasetError, UsageError
from utils.evaluation.seen import sentence_of_seen
from utils.evaluation.units import counted
from utils.files import write_text
from utils.names import one_line, parse_json

NAME = "result_card.json"
METRICS = {
    "auc": "AUC",
    "ap": "AP",
    "eer": "EER",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
    "accuracy": "accuracy",
}
SHORT = 12  # letters of a checksum in a table


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """python -m utils.report"""

    card: tuple[Path, ...] = opt(dataclasses.MISSING, f"{NAME} of evaluations, or the folders that hold them")


def result_card(result: Mapping[str, Any]) -> dict[str, Any]:
    """The card of the content of test_metrics.json of one data set."""
    overall, run, intervals = result["overall"], result["run"], result.get("intervals", {})
    bounds = intervals.get("overall", intervals)  # of emotions, they are not of "overall"
    protocol = result.get("protocol") or {}
    return {
        "model": " ".join(filter(None, (run.get("model"), run.get("preset")))) or run["name"],
        "run": run["name"],
        # of a detector that is known by its scores alone, they are the file of these
        "weights_sha256": None if run.get("is_score_file") else run["checkpoint_sha256"],
        "scores_sha256": run["checkpoint_sha256"] if run.get("is_score_file") else None,
        "dataset": result["dataset"],
        "split": result["split"],
        "split_checksum": result["split_checksum"],
        "protocol": protocol.get("name"),
        "protocol_ids_sha256": protocol.get("ids_sha256"),
        "protocol_misfits": protocol.get("misfits"),
        "ids_sha256": result["ids_sha256"],
        "num_real": overall["num_real"],
        "num_fake": overall["num_fake"],
        "num_persons": intervals.get("num_persons"),
        "clustered_by": intervals.get("clustered_by"),
        "metrics": {
            name: {"value": overall[name], "interval": bounds.get(name)}
            for name in METRICS
            if overall.get(name) is not None
        },
        "trimmed": result["trimmed"],
        "label_rule": result["data"]["label_rule"],
        "coverage": result["coverage"]["share"] if "coverage" in result else 1.0,
        "notes": [
            *filter(None, (result["caveat"], sentence_of_seen(result["seen_in_training"]))),
            *result.get("landmark_warnings", ()),
        ],
        "command": result["command"],
        "commit": result["environment"]["commit"],
    }


def write_cards(folder: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write NAME with the cards of some evaluations (contents of test_metrics.json)."""
    cards = [result_card(result) for result in results]
    write_text(folder / NAME, json.dumps({"cards": cards}, indent=1) + "\n")


def read_cards(path: Path) -> list[dict[str, Any]]:
    """The cards in a file, or in the NAME of a folder. Raises UsageError or DatasetError."""
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{file}: no such file; test.py writes it next to test_metrics.json")
    try:
        return [dict(card) for card in parse_json(file.read_bytes())["cards"]]
    except (ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{file}: is not a {NAME} ({error!r})") from error


def as_table(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table with a row for each card. Raises KeyError, TypeError or ValueError."""
    shown = [name for name in METRICS if any(name in card["metrics"] for card in cards)]
    heads = ["model", "data set", "protocol", "clips", *(METRICS[name] for name in shown)]
    heads += ["trimmed", "weights", "ids", "commit", "command", "notes"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for card in cards:
        clips = f"{int(card['num_real']):,} real, {int(card['num_fake']):,} fake"
        if card["num_persons"] is not None:
            clips += f"; {counted(int(card['num_persons']), card['clustered_by'])}"
        weights = card["weights_sha256"]
        cells = [card["model"], card["dataset"], _protocol(card), clips]
        cells += [_metric(card["metrics"].get(name)) for name in shown]
        cells += [card["trimmed"], f"`{weights[:SHORT]}`" if weights else "not known"]
        cells += [f"`{card['ids_sha256'][:SHORT]}`", f"`{card['commit']}`", f"`{card['command']}`"]
        coverage = float(card["coverage"])
        notes = [*card["notes"], *([f"{coverage:.1%} of the clips have a score"] if coverage < 1 else [])]
        cells.append("; ".join(notes))
        lines.append("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |")
    return lines


def _protocol(card: Mapping[str, Any]) -> str:
    rule = "" if card["label_rule"] == "any" else f", label rule {card['label_rule']}"
    if card["protocol"] is None:
        return f"{card['split']}, split `{card['split_checksum'][:SHORT]}`{rule}"
    state = "not as published" if card["protocol_misfits"] else "figures as published"
    return f"{card['protocol']} `{card['protocol_ids_sha256'][:SHORT]}` ({state}), {card['split']}{rule}"


def _metric(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    bounds = found["interval"]
    interval = f" [{float(bounds[0]):.4f}, {float(bounds[1]):.4f}]" if bounds else ""
    return f"{float(found['value']):.4f}{interval}"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m utils.report`."""
    config = parse_command(CardConfig, __doc__, argv)
    cards = [card for path in config.card for card in read_cards(path)]
    try:
        lines = as_table(cards)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        names = ", ".join(map(str, config.card))
        raise DatasetError(
            f"{names}: a card lacks something, or has it in another form ({error!r})"
        ) from error
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
