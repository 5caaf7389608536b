"""The forged segments that two models find in the same clips, for test.py --compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import DatasetError
from utils.evaluation.bootstrap import or_reason
from utils.evaluation.localisation import LocatedFiles, localisation_difference
from utils.evaluation.segments import SEGMENTS_NAME, TRUTHS_NAME
from utils.names import parse_json

SHOWN = ("ap_0.5", "ap_0.75", "ap_0.9", "ap_0.95", "ar_100", "score")


def compare_segments(first: Path, second: Path, identities: Mapping[str, str]) -> dict[str, Any]:
    """{stream: metrics of both and their paired difference} of two evaluations, from files next to their
    predictions.csv; {} if one of them has looked for no segments.

    Raises DatasetError if these files are damaged, or know of other segments.
    """
    folders, names = (first.parent, second.parent), (SEGMENTS_NAME, TRUTHS_NAME)
    if not all((folder / name).is_file() for folder in folders for name in names):
        return {}
    found: dict[str, Any] = {}
    try:
        proposals, true = ([parse_json((folder / name).read_bytes()) for folder in folders] for name in names)
        for stream in sorted(true[0].keys() & true[1].keys()):
            first_files, second_files = (
                LocatedFiles.of(sorted(t), [t[n] for n in sorted(t)], [p[n][stream] for n in sorted(t)])
                for t, p in ((of[stream], p) for of, p in zip(true, proposals, strict=True))
            )
            persons, pair = [identities[name] for name in first_files.names], (first_files, second_files)
            found[stream] = or_reason(localisation_difference, pair, persons, f"stream {stream}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{folders[0]}, {folders[1]}: {SEGMENTS_NAME} is damaged ({error!r})") from error
    return found


def segments_table(name: str, located: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: a row for each stream of a data set and metric."""
    lines = []
    for stream, rows in located.items():
        for metric in SHOWN if "reason" not in rows else ():
            row = rows[metric]
            low, high = row["interval"]
            cells = [f"{name}: {stream}", metric, f"{row['a']:.4f}", f"{row['b']:.4f}"]
            cells += [f"{row['difference']:+.4f} [{low:.4f}, {high:.4f}]"]
            lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return []
    return ["", "| forged segments | metric | A | B | A - B |", "|---|---|---|---|---|", *lines]
