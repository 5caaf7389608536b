"""Split files: a CSV with the columns of `SPLIT_COLUMNS`, after a line "# sha256=..." over the rest.

Between them stand the rules of the split and, if it is one, the published protocol.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from loaders.listing import Listing
from loaders.splits.drawing import SPLITS, Split, SplitConfig, draw_split, require_disjoint
from loaders.splits.published import METADATA_PROTOCOLS, Published
from utils.clip_type import Clip
from utils.errors import DatasetError, UsageError
from utils.evaluation.seen import seen_in_training
from utils.files import read_text, write_text

log = logging.getLogger(__name__)

PROTOCOL_WORD = "# protocol="  # begins the line of a published one, above the table
SPLIT_COLUMNS = (
    "dataset",
    "clip_id",
    "identity",
    "source_ids",  # ";" between them
    "group",
    "split",  # empty: in no part, for the reason given
    "donor_disjoint",
    "reason",
)


def make_split(listing: Listing, config: SplitConfig, *, check: bool = True) -> Split:
    """The split of a data set: from its split file if one is given, else as the other flags ask.

    Raises DatasetError if parts share a person (unless `check` is False: the audit reports all of them), or
    if the file does not list a clip.
    """
    if not config.split_file:
        return draw_split(listing, config, check=check)
    clips = listing.all_clips
    path, split = _file_of(config.split_file, listing.dataset)
    if unknown := [c.clip_id for c in clips if c.clip_id not in split.split_of | split.dropped]:
        raise DatasetError(
            f"{path}: does not list {len(unknown)} clips of {listing.dataset}, e.g. {unknown[0]}; use the "
            "split file of this version of the data set"
        )
    if check:
        require_disjoint(split)
    return split


def split_of_run(
    listing: Listing,
    config: SplitConfig,
    checkpoint: Path,
    checksums: Mapping[str, str],
    datasets: Sequence[str],
    *,
    all_clips: bool,
) -> Split:
    """The split that `checkpoint` was trained with, from `splits/` next to it; else the one of the flags.

    checksums: of the training splits, by data set. datasets: all that are evaluated. Raises UsageError if
    the training split is missing or replaced: test clips could be training clips. `all_clips` ignores splits.
    """
    trained = checksums.get(listing.dataset)
    if trained and not config.split_file:
        own_file = checkpoint.parent / "splits" / f"{listing.dataset}.csv"
        if not own_file.is_file():
            raise UsageError(
                f"{own_file} is missing: say --split_file, the split that {checkpoint} was trained with"
            )
        if config.protocol in METADATA_PROTOCOLS:
            return _other_test(listing, config, own_file, trained)
        if config != SplitConfig() and set(datasets) <= checksums.keys():
            raise UsageError(
                f"{checkpoint} was trained on {listing.dataset}, and is tested on that run's split"
            )
        config = SplitConfig(split_file=(own_file,))
    split = make_split(listing, config)
    if trained and not all_clips and split_checksum(split) != trained:
        files = " ".join(map(str, config.split_file))
        raise UsageError(f"{files}: is not the split that {checkpoint} was trained with")
    return split


def _other_test(listing: Listing, config: SplitConfig, own_file: Path, trained: str) -> Split:
    """The split of a protocol whose test the run of `own_file` has not seen, else UsageError."""
    split, own = make_split(listing, config), read_split(own_file)
    if split_checksum(own) != trained:
        raise UsageError(f"{own_file}: is not the split that the checkpoint was trained with")
    tested = [clip_id for clip_id, part in split.split_of.items() if part == "test"]
    if seen := [clip_id for clip_id in tested if own.split_of.get(clip_id) in ("train", "val")]:
        raise UsageError(
            f"--protocol {config.protocol}: {len(seen)} of its {len(tested)} test clips were trained on, "
            f"or validated with, e.g. {seen[0]}"
        )
    return split


def seen_by_run(
    split: Split, clips: Sequence[Clip], checkpoint: Path, checksums: Mapping[str, str]
) -> dict[str, int | None] | None:
    """`seen_in_training` of clips that are evaluated with `split`; None if the checkpoint is of no run.

    checksums: of the training splits, by data set.
    """
    if not checksums:
        return None
    trained, ids = checksums.get(split.dataset), [clip.clip_id for clip in clips]
    if not trained or split_checksum(split) == trained:
        return seen_in_training(split.split_of if trained else {}, ids)
    own_file = checkpoint.parent / "splits" / f"{split.dataset}.csv"  # --split all with another --split_file
    own = read_split(own_file) if own_file.is_file() else None
    return seen_in_training(own.split_of if own and split_checksum(own) == trained else None, ids)


def _file_of(paths: Sequence[Path], dataset: str) -> tuple[Path, Split]:
    splits = [(path, read_split(path)) for path in paths]
    of_dataset = [(path, split) for path, split in splits if split.dataset == dataset]
    if len(of_dataset) != 1:
        about = ", ".join(f"{path} is about {split.dataset}" for path, split in splits)
        raise UsageError(f"--split_file: {dataset} needs exactly one file, but {about}")
    return of_dataset[0]


def _split_text(split: Split) -> str:
    buffer = io.StringIO()
    # what decides whether the split is disjoint belongs to it
    protocol = f"{PROTOCOL_WORD}{split.published.as_word()}\n" if split.published else ""
    buffer.write(f"# donor_rule={split.donor_rule} known_overlap={split.known_overlap}\n{protocol}")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(SPLIT_COLUMNS)
    writer.writerows(
        (
            split.dataset,
            clip_id,
            split.identity_of[clip_id],
            ";".join(split.sources_of.get(clip_id, ())),
            split.group_of.get(clip_id, ""),
            split.split_of.get(clip_id, ""),
            int(clip_id in split.donor_disjoint),
            split.dropped.get(clip_id, ""),
        )
        for clip_id in sorted(split.split_of.keys() | split.dropped.keys())
    )
    return buffer.getvalue()


def split_checksum(split: Split) -> str:
    """The checksum in the first line of the split's file."""
    return hashlib.sha256(_split_text(split).encode()).hexdigest()


def write_split(folder: Path, split: Split) -> None:
    """Write FOLDER/<dataset>.csv atomically, and the protocol's own files to FOLDER/<dataset>/."""
    text = f"# sha256={split_checksum(split)}\n{_split_text(split)}"
    write_text(folder / f"{split.dataset}.csv", text)
    for name, content in split.protocol_texts.items():
        write_text(folder / split.dataset / name, content)


def read_split(path: Path) -> Split:
    """The split in a split file. Raises DatasetError if it is missing or was changed."""
    head, _, text = read_text(path).partition("\n")
    if head != f"# sha256={hashlib.sha256(text.encode()).hexdigest()}":
        raise DatasetError(
            f"{path}: the checksum in its first line does not fit its content: it was changed by hand; use "
            "the original file, or draw a new split"
        )
    rules, _, table = text.partition("\n")
    published = None
    if table.startswith(PROTOCOL_WORD):
        word, _, table = table.partition("\n")
        published = Published.from_word(word.removeprefix(PROTOCOL_WORD))
    reader = csv.DictReader(io.StringIO(table))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DatasetError(f"{path}: is not a readable CSV ({error})") from error
    whole = all(row.keys() == set(SPLIT_COLUMNS) and None not in row.values() for row in rows)
    if not rows or tuple(rows[0]) != SPLIT_COLUMNS or not whole or not rules.startswith("# donor_rule="):
        raise DatasetError(f"{path}: expected the columns {', '.join(SPLIT_COLUMNS)} and at least one row")
    if len(datasets := {row["dataset"] for row in rows}) != 1:
        raise DatasetError(f"{path}: lists several data sets: {', '.join(sorted(datasets))}")
    if wrong := {row["split"] for row in rows} - {*SPLITS, ""}:
        raise DatasetError(f"{path}: unknown split {', '.join(sorted(wrong))}")
    rule, _, overlap = rules.removeprefix("# donor_rule=").partition(" known_overlap=")
    return Split(
        dataset=rows[0]["dataset"],
        split_of={row["clip_id"]: row["split"] for row in rows if row["split"]},
        identity_of={row["clip_id"]: row["identity"] for row in rows},
        donor_disjoint={row["clip_id"] for row in rows if row["donor_disjoint"] == "1"},
        sources_of={r["clip_id"]: tuple(r["source_ids"].split(";")) for r in rows if r["source_ids"]},
        group_of={row["clip_id"]: row["group"] for row in rows if row["group"]},
        dropped={row["clip_id"]: row["reason"] for row in rows if not row["split"]},
        donor_rule=rule,
        known_overlap=overlap,
        published=published,
    )
