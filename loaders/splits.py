"""Splits whose identities do not overlap, and the files that keep them.

A split file is a CSV with the columns of `SPLIT_COLUMNS`, after a first line "# sha256=..." over the rest of
the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.config import opt
from utils.errors import DatasetError
from utils.files import write_text
from utils.types import Clip

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SPLIT_COLUMNS = ("dataset", "clip_id", "identity", "split", "donor_disjoint")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """loaders/splits.py: who is in train, validation and test."""

    split_file: Path | None = opt(
        None, "reuse this split file (e.g. saved_models/RUN/splits/fakeavceleb.csv)"
    )
    split_source: str = opt(
        "auto",
        "identity = draw identity-disjoint splits; metadata = the data set's own; auto = its own where "
        "every clip has one",
        choices=("auto", "identity", "metadata"),
    )
    split_seed: int = opt(
        42, "seed of the identity split, apart from the training seed so that seeds share test sets"
    )
    val_fraction: float = opt(0.1, "share of the identities for validation")
    test_fraction: float = opt(0.2, "share of the identities for testing")

    def __post_init__(self) -> None:
        if self.split_seed < 0:
            raise ValueError(f"split_seed must be >= 0, got {self.split_seed}")
        if not (
            0 < self.val_fraction and 0 < self.test_fraction and self.val_fraction + self.test_fraction < 1
        ):
            raise ValueError(
                "val_fraction and test_fraction must be > 0 and leave some for training, got "
                f"{self.val_fraction} and "
                f"{self.test_fraction}"
            )


@dataclass(frozen=True)
class Split:
    """The split of every clip of one data set, used or not."""

    dataset: str
    split_of: dict[str, str]  # clip_id -> train, val or test
    identity_of: dict[str, str]
    donor_disjoint: set[str]  # val and test clips whose donor does not appear in training either

    def select(self, clips: Sequence[Clip], split: str) -> list[Clip]:
        """The clips of one split, in listing order."""
        return [clip for clip in clips if self.split_of.get(clip.clip_id) == split]


def make_split(dataset: str, clips: Sequence[Clip], config: SplitConfig) -> Split:
    """The split that `config` asks for, for all listed clips. Raises DatasetError where identities would
    overlap.
    """
    if config.split_file is not None:
        split = read_split(config.split_file, dataset)
        unknown = [clip.clip_id for clip in clips if clip.clip_id not in split.split_of]
        if unknown:
            raise DatasetError(
                f"{config.split_file}: says nothing about {len(unknown)} clips of {dataset}, e.g. "
                f"{unknown[0]}"
            )
        require_disjoint(split)
        return split
    has_own = all(clip.split is not None for clip in clips)
    if config.split_source == "metadata" and not has_own:
        raise DatasetError(f"{dataset}: its metadata gives no split; use --split_source identity")
    if config.split_source == "metadata" or (config.split_source == "auto" and has_own):
        split_of = {clip.clip_id: str(clip.split) for clip in clips}
    else:
        of_identity = _split_identities(clips, config)
        split_of = {clip.clip_id: of_identity[clip.identity] for clip in clips}
    split = Split(dataset, split_of, {c.clip_id: c.identity for c in clips}, _donor_disjoint(clips, split_of))
    require_disjoint(split)
    return split


def _split_identities(clips: Sequence[Clip], config: SplitConfig) -> dict[str, str]:
    """identity -> split: shuffled by seed within each stratum; what a stratum cannot give in whole persons is
    carried over to the next one, so that the totals hold."""
    strata: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        strata[clip.stratum].add(clip.identity)
    rng = np.random.default_rng(config.split_seed)
    of_identity: dict[str, str] = {}
    due = {"val": 0.0, "test": 0.0}
    for _, members in sorted(strata.items()):
        order = [str(identity) for identity in rng.permutation(sorted(members - of_identity.keys()))]
        for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
            due[split] += fraction * len(members)
            count = min(int(due[split] + 0.5), len(order))
            due[split] -= count
            of_identity |= dict.fromkeys(order[:count], split)
            order = order[count:]
        of_identity |= dict.fromkeys(order, "train")
    for split in SPLITS:
        if split not in of_identity.values():
            raise DatasetError(
                f"{len(of_identity)} identities are too few for a {split} split: use a larger "
                f"--{split}_fraction or "
                "more data"
                if split != "train"
                else "the fractions leave no identity for training"
            )
    return of_identity


def _donor_disjoint(clips: Sequence[Clip], split_of: dict[str, str]) -> set[str]:
    trained_on = {
        person
        for clip in clips
        if split_of[clip.clip_id] == "train"
        for person in (clip.identity, *clip.source_ids)
    }
    held_out = [clip for clip in clips if split_of[clip.clip_id] != "train"]
    return {clip.clip_id for clip in held_out if trained_on.isdisjoint(clip.source_ids)}


def require_disjoint(split: Split) -> None:
    """Raise DatasetError if a person stands in two splits."""
    seen: dict[str, str] = {}
    for clip_id, name in split.split_of.items():
        identity = split.identity_of[clip_id]
        if seen.setdefault(identity, name) != name:
            raise DatasetError(
                f"{split.dataset}: {identity} is in {seen[identity]} and in {name} (e.g. {clip_id}); "
                "--split_source identity draws splits that share nobody"
            )


def _split_text(split: Split) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(SPLIT_COLUMNS)
    for clip_id, name in sorted(split.split_of.items()):
        disjoint = int(clip_id in split.donor_disjoint)
        writer.writerow((split.dataset, clip_id, split.identity_of[clip_id], name, disjoint))
    return buffer.getvalue()


def split_checksum(split: Split) -> str:
    """The checksum that stands in the split's file."""
    return hashlib.sha256(_split_text(split).encode()).hexdigest()


def write_split(path: Path, split: Split) -> None:
    """Write a split file atomically."""
    text = f"# sha256={split_checksum(split)}\n{_split_text(split)}"
    write_text(path, text)


def read_split(path: Path, dataset: str) -> Split:
    """Read a split file. Raises DatasetError if it is missing, was changed, or is about another data set."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such split file")
    head, _, text = path.read_text(encoding="utf-8").partition("\n")
    if head != f"# sha256={hashlib.sha256(text.encode()).hexdigest()}":
        raise DatasetError(
            f"{path}: the checksum in its first line does not fit its content; it was changed by hand"
        )
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or tuple(rows[0]) != SPLIT_COLUMNS:
        raise DatasetError(f"{path}: expected the columns {', '.join(SPLIT_COLUMNS)} and at least one row")
    if others := {row["dataset"] for row in rows} - {dataset}:
        raise DatasetError(f"{path}: is a split of {', '.join(sorted(others))}, not of {dataset}")
    if wrong := {row["split"] for row in rows} - set(SPLITS):
        raise DatasetError(f"{path}: unknown split {', '.join(sorted(wrong))}")
    return Split(
        dataset,
        {row["clip_id"]: row["split"] for row in rows},
        {row["clip_id"]: row["identity"] for row in rows},
        {row["clip_id"] for row in rows if row["donor_disjoint"] == "1"},
    )
