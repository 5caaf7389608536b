"""Parity of the localisation metric with the official program of AV-Deepfake1M.

    python -m tests.parity.localisation FIXTURE.json

FIXTURE holds "labels" (file, fake_segments in seconds), "proposals" (file -> [[confidence, start, end], ...],
ends in units of 1 / fps), "fps", the thresholds "ap_iou", "ar_iou" and "ar_n", and "expected" AP and AR of
the official program. Prints both forms and the differences from the official one as JSON; exit status 1 if
one is above the tolerance. Without "expected", the numbers alone. A file without proposals finds nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from utils.errors import FrameworkError
from utils.evaluation.localisation import FORMS, LocatedFiles, Thresholds, localisation_metrics

TOLERANCE = 1e-6


def read_files(content: dict[str, Any]) -> LocatedFiles:
    """The labels and proposals of a fixture's content."""
    names = [entry["file"] for entry in content["labels"]]
    labels = [entry["fake_segments"] for entry in content["labels"]]
    proposals = [content["proposals"].get(name) or [] for name in names]
    return LocatedFiles.of(names, labels, proposals, content["fps"])


def compare(content: dict[str, Any]) -> dict[str, Any]:
    """Both forms of the metric, and how far the official one is from the content's "expected"."""
    at = Thresholds(
        ap_ious=tuple(content["ap_iou"]), ar_ious=tuple(content["ar_iou"]), ar_counts=tuple(content["ar_n"])
    )
    files = read_files(content)
    found = {form: localisation_metrics(files, form, at) for form in FORMS}
    differences = {
        f"{key}@{name}": abs(found["official"][key][name] - value)
        for key, values in content.get("expected", {}).items()
        for name, value in values.items()
    }
    num_empty = len(files.names) - len(set(files.proposal_file.tolist()))
    return {
        "passed": all(difference <= TOLERANCE for difference in differences.values()),
        "tolerance": TOLERANCE,
        "num_compared": len(differences),
        "num_files": len(files.names),
        "num_files_without_proposals": num_empty,
        **found,
        "differences": differences,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity.localisation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fixture", type=Path)
    path = parser.parse_args(arguments).fixture
    try:
        report = compare(json.loads(path.read_text(encoding="utf-8")))
    except (FrameworkError, OSError, ValueError, KeyError, TypeError) as error:
        parser.exit(2, f"{path}: {error!r}\n")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
