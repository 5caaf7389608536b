"""config.json of a run: reading it, and comparing it with the flags of a run that goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UsageError
from utils.names import brief, parse_json

Sections = Mapping[str, Mapping[str, Any]]


def read_run_config(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a config.json, not yet checked against fields. Raises UsageError if it is none."""
    if not path.is_file():
        raise UsageError(f"{path}: no such configuration; is --run_dir a run, or --config a config.json?")
    try:
        sections = parse_json(path.read_bytes())["config"]
        return {name: dict(section) for name, section in sections.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: is not a config.json of a run ({error!r})") from error


def require_known(saved: Sections, groups: Mapping[str, type], path: Path | None) -> None:
    """Raise UsageError if a section has a value that none of its dataclass's fields takes."""
    for name, section in saved.items():
        known = {field.name for field in dataclasses.fields(groups[name])} if name in groups else set()
        if unknown := section.keys() - known:
            raise UsageError(f"{path}: unknown {name} value {', '.join(map(brief, sorted(unknown)))}")


def require_same(saved: Sections, now: Sections, may_differ: set[str]) -> None:
    """Raise UsageError that names the fields in which a resumed run would differ from what it was."""
    changed = [
        f"--{name} was {brief(saved.get(section, {}).get(name))}, is {brief(value)}"
        for section, values in now.items()
        for name, value in values.items()
        if name not in may_differ and saved.get(section, {}).get(name) != value
    ]
    if changed:
        raise UsageError(
            "a resumed run keeps its configuration; start a new --run_dir, or drop: " + "; ".join(changed)
        )
