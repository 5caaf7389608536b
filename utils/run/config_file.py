"""config.json of a run: reading it, and comparing it with the flags of a run that goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.config import Sections
from utils.errors import UsageError
from utils.names import brief, parse_json

# what may differ between a run and its resumption
RESUMABLE = {"epochs", "patience", "num_workers", "device", "run_dir", "data_root", "decision_fpr"}
RESUMABLE |= {"prefetch_factor", "checkpoint_activations", "compile", "save_every_steps", "keep_checkpoints"}
RESUMABLE |= {"max_bad_clips", "loader_timeout_s"}


def read_run_config(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a config.json, not yet checked against fields. Raises UsageError for another file."""
    if not path.is_file():
        raise UsageError(f"{path}: no such configuration; is --run_dir a run, or --config a config.json?")
    try:
        sections = parse_json(path.read_bytes())["config"]
        return {name: dict(section) for name, section in sections.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: is not a config.json of a run ({error!r})") from error


def require_known(saved: Sections, groups: Mapping[str, type], path: Path | None) -> None:
    """Raise UsageError if a section has a value that no flag takes; "train" also holds the loop's."""
    for name, section in saved.items():
        kinds = [groups[key] for key in (name, *(("loop",) if name == "train" else ())) if key in groups]
        known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
        if unknown := section.keys() - known:
            raise UsageError(f"{path}: unknown {name} value {', '.join(map(brief, sorted(unknown)))}")


def require_same(saved: Sections, now: Sections) -> None:
    """Raise UsageError that names the fields in which a resumed run would differ from what it was."""
    changed = [
        f"--{name} was {brief(saved.get(section, {}).get(name))}, is {brief(value)}"
        for section, values in now.items()
        for name, value in values.items()
        if name not in RESUMABLE and saved.get(section, {}).get(name) != value
    ]
    if changed:
        raise UsageError(
            "a resumed run keeps its configuration; start a new --run_dir, or drop: " + "; ".join(changed)
        )
