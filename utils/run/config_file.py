"""config.json of a run: its environment, reading it, and comparing it with the flags of a resumed run."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from utils.config import Sections
from utils.errors import UsageError
from utils.names import brief, parse_json

# what may differ between a run and its resumption
RESUMABLE = {"epochs", "patience", "num_workers", "device", "run_dir", "data_root", "decision_fpr"}
RESUMABLE |= {"prefetch_factor", "checkpoint_activations", "compile", "save_every_steps", "keep_checkpoints"}
RESUMABLE |= {"max_bad_clips", "loader_timeout_s"}
PACKAGES: tuple[str, ...] = ("torch", "torchvision", "torchaudio", "numpy", "opencv-contrib-python")
PACKAGES += ("opencv-python-headless", "av", "mediapipe", "ai-edge-litert", "scikit-learn")


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


def _commit() -> str:
    """The project's commit; "unknown" where there is no git, or the project is not its own checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown (not a git checkout)"
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, cwd=root).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (git could not be asked)"


def describe_environment(device: torch.device) -> dict[str, object]:
    """Commit, versions and hardware of a run. No host or user name."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else platform.processor() or "cpu"
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": versions,
        "device": name,
        "cpu_threads": torch.get_num_threads(),
    }
