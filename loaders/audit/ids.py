"""Leaks between published lists of clips, from their names and metadata alone: no media is needed.

    python -m loaders.audit --ids_only train.csv val.csv test.csv --dataset fakeavceleb
    python -m loaders.audit --ids_only METADATA --dataset av_deepfake1m
    python -m loaders.audit --ids_only train.csv test.csv --dataset NAME --write_disjoint DIR

A list has a clip a line, or a column with it (clip_id, path, file, ...). Its part is its column "split", or
the word in its file name (train, val, test, ...). A folder stands for the data set's own lists and split. Who
is seen is taken from the columns identity and source_ids, from the data set's metadata in --data_root, or
from the names (FakeAVCeleb, AV-Deepfake1M and ++, IDForge, Celeb-DF, FaceForensics++).

Prints what the parts share (persons on screen, persons in any role, source videos, clip families, clips) and
writes it to ids_audit.json in --output_dir. Exit status: 0 if they share nothing, else 1. --write_disjoint
draws other parts of the same clips that share no person, by the flags of train.py (--split_seed,
--val_fraction, --test_fraction, --fold, --donors), and writes a split file, the lists and their checksums.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders import DATASETS
from loaders.listing import Listing, MetadataConfig
from loaders.splits.drawing import SPLITS, Split, SplitConfig, draw_split
from loaders.splits.files import write_split
from loaders.splits.lists import ClipNames, Row, read_list, top_folders
from loaders.splits.overlap import (
    NAME_RULES,
    Named,
    any_shared,
    lines_of,
    named_by_clip,
    named_by_name,
    overlaps,
)
from utils.clip_type import Clip
from utils.config import opt, parse_groups
from utils.errors import DatasetError, UsageError
from utils.files import file_sha256, names_sha256, require_writable, write_text
from utils.run.progress import configure_logging

log = logging.getLogger("audit")
PART_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
PART_WORDS |= {"dev": "val", "test": "test", "testing": "test"}
SUMS = "SHA256SUMS"


@dataclass(frozen=True, kw_only=True)
class IdsConfig:
    """loaders/audit/ids.py: which lists are compared."""

    ids_only: tuple[Path, ...] = opt(dataclasses.MISSING, "lists of clips, or the folder of the set's own")
    dataset: str = opt(dataclasses.MISSING, "data set", choices=sorted(DATASETS))
    data_root: Path | None = opt(
        None, "folder with the data set's own metadata, in which names are looked up"
    )
    write_disjoint: Path | None = opt(None, "folder for parts of the same clips that share no person")
    output_dir: Path = opt(Path("audit"), "where ids_audit.json is written")


@dataclass(frozen=True)
class Listed:
    """A clip of a list."""

    written: str  # its name there
    known: Named
    clip: Clip | None = None  # of the data set's metadata


def read_parts(config: IdsConfig, listing: Listing | None) -> dict[str, list[Listed]]:
    """Part -> its clips. listing: the data set's metadata, if it is there.

    Raises DatasetError if nothing tells who is seen, or a name is not in the metadata.
    """
    parts: dict[str, list[Listed]] = defaultdict(list)
    names = ClipNames(config.dataset, listing.clips) if listing is not None else None
    folders = top_folders(listing.clips) if listing is not None else []
    for path in config.ids_only:
        if path.is_dir():
            for clip in DATASETS[config.dataset](path, MetadataConfig()).clips:
                if clip.split:
                    parts[clip.split].append(Listed(clip.clip_id, named_by_clip(clip), clip))
            if not parts:
                raise DatasetError(f"{path}: {config.dataset}'s own metadata names no split")
            continue
        rows = read_list(path)
        own_parts = _parts_of(path, rows)
        for part in dict.fromkeys(own_parts):
            of_part = [row for row, name in zip(rows, own_parts, strict=True) if name == part]
            parts[part] += _look_up(of_part, config.dataset, names, folders)
    if len(parts) < 2:
        raise DatasetError(f"{', '.join(map(str, config.ids_only))}: one part only; name the lists of two")
    if not any(clip.known.person or clip.known.family for clips in parts.values() for clip in clips):
        raise DatasetError(
            f"nothing tells who is seen: names do for {', '.join(NAME_RULES)}; give --data_root with the "
            "metadata, or lists with a column identity"
        )
    order = {part: place for place, part in enumerate(SPLITS)}
    return dict(sorted(parts.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def _parts_of(path: Path, rows: Sequence[Row]) -> list[str]:
    """The part of each row: of its column, or of the file's name."""
    for column in ("split", "type"):  # FakeAVCeleb's own table has its category in the latter
        values = [PART_WORDS.get(row.values.get(column, "").lower(), "") for row in rows]
        if any(values):
            return [value or "none" for value in values]
    for word in re.split(r"[^A-Za-z0-9]+", path.stem):
        if word.lower() in PART_WORDS:
            return [PART_WORDS[word.lower()]] * len(rows)
    return [path.stem] * len(rows)


def _look_up(
    rows: Sequence[Row], dataset: str, names: ClipNames | None, folders: Sequence[str]
) -> list[Listed]:
    if names is None:
        return [Listed(row.name, _by_columns(row, named_by_name(dataset, row.name))) for row in rows]
    clips = names.find_below([row.name for row in rows], folders)
    found = []
    for row, clip in zip(rows, clips, strict=True):
        if clip is None:
            num = sum(clip is None for clip in clips)
            raise DatasetError(f"{row.where}: {row.name} and {num - 1} more are not in {dataset}'s metadata")
        found.append(Listed(row.name, named_by_clip(clip), clip))
    return found


def _by_columns(row: Row, known: Named) -> Named:
    """What the columns of a list say, before what the name does."""
    person = row.values.get("identity", "")
    if not person:
        return known
    donors = re.split(r"[;\s]+", row.values.get("source_ids", "") or row.values.get("source_id", ""))
    short = [name.rpartition("/")[2] for name in (person, *donors) if name]
    return dataclasses.replace(known, person=short[0], donors=tuple(short[1:]))


def by_id(dataset: str, parts: Mapping[str, Sequence[Listed]]) -> dict[str, Listed]:
    """Clip id -> the first line that lists it, with a Clip in any case."""
    found: dict[str, Listed] = {}
    for listed in (listed for of_part in parts.values() for listed in of_part):
        clip = listed.clip or _as_clip(dataset, listed.known)
        found.setdefault(clip.clip_id, dataclasses.replace(listed, clip=clip))
    return found


def draw_disjoint(dataset: str, listed: Mapping[str, Listed], config: SplitConfig) -> Split:
    """Parts of all listed clips (by id) that share no person.

    Where the person is not known, the family or the clip itself is kept together. Fakes with a donor in
    another part are left out unless --donors keep.
    """
    if config.split_file or config.protocol != "none" or config.hold_out_method:
        raise UsageError("--write_disjoint draws by person: no --split_file, --protocol or --hold_out_method")
    clips = [one.clip for one in listed.values() if one.clip is not None]
    if unnamed := sum(clip.identity_is != "person" for clip in clips):
        log.warning("%d of %d clips name no person: they are kept together by family", unnamed, len(clips))
    config = dataclasses.replace(config, split_source="identity")
    return draw_split(Listing(dataset, clips, donor_rule="drop"), config)


def _as_clip(dataset: str, known: Named) -> Clip:
    """A clip of which nothing but its name is known: no labels, which drawing does not need."""
    person, family = f"{dataset}/{known.person}", f"{dataset}/{known.family or known.name}"
    return Clip(
        clip_id=f"{dataset}/{known.name}",
        place=known.name,
        label=0,
        video_label=None,
        audio_label=None,
        category="unknown",
        method="unknown",
        identity=person if known.person else family,
        source_ids=tuple(f"{dataset}/{donor}" for donor in known.donors),
        target_id=person if known.person else family,
        pair_key=family,
        stratum="",
        dataset=dataset,
        identity_is="person" if known.person else "family" if known.family else "clip",
    )


def write_disjoint(folder: Path, split: Split, listed: Mapping[str, Listed], others: Sequence[str]) -> None:
    """Write the split file, train.txt, val.txt and test.txt with the names as they were, and SHA256SUMS.

    others: ids of the data set's other clips, which the split file then says to be in no part.
    """
    whole = dataclasses.replace(
        split,
        dropped=dict.fromkeys(others, "not in the lists") | split.dropped,
        identity_of=dict.fromkeys(others, "") | split.identity_of,
    )
    write_split(folder, whole)
    files = [folder / f"{split.dataset}.csv"]
    for part in SPLITS:
        names = sorted(listed[clip_id].written for clip_id, name in split.split_of.items() if name == part)
        files.append(folder / f"{part}.txt")
        write_text(files[-1], "".join(f"{name}\n" for name in names))
    write_text(folder / SUMS, "".join(f"{file_sha256(file)}  {file.name}\n" for file in files))


def audit_ids(config: IdsConfig, split_config: SplitConfig) -> dict[str, Any]:
    """What the parts share, and the alternative if it is asked for; the content of ids_audit.json."""
    listing = None
    if config.data_root is not None:
        listing = DATASETS[config.dataset](config.data_root, MetadataConfig())
    parts = read_parts(config, listing)
    found = overlaps({part: [listed.known for listed in clips] for part, clips in parts.items()})
    files = [path for path in config.ids_only if path.is_file()]
    result: dict[str, Any] = {
        "dataset": config.dataset,
        "lists": {str(path): file_sha256(path) for path in files},
        "parts": {
            part: {"num_clips": len(clips), "ids_sha256": names_sha256(clip.known.name for clip in clips)}
            for part, clips in parts.items()
        },
        "overlaps": found,
        "command": shlex.join(["python", "-m", "loaders.audit", *sys.argv[1:]]),
    }
    if config.write_disjoint is not None:
        listed = by_id(config.dataset, parts)
        split = draw_disjoint(config.dataset, listed, split_config)
        others = [clip.clip_id for clip in listing.clips if clip.clip_id not in listed] if listing else []
        write_disjoint(config.write_disjoint, split, listed, others)
        drawn: dict[str, list[Named]] = {part: [] for part in SPLITS}
        for clip_id, part in split.split_of.items():
            drawn[part].append(listed[clip_id].known)
        result["disjoint"] = {
            "parts": {part: {"num_clips": len(clips)} for part, clips in drawn.items()},
            "num_left_out": len(split.dropped),
            "split_seed": split_config.split_seed,
            "overlaps": overlaps(drawn),
        }
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m loaders.audit --ids_only`."""
    config, split_config = parse_groups(__doc__, IdsConfig, SplitConfig, argv=argv)
    configure_logging()
    for folder in filter(None, (config.output_dir, config.write_disjoint)):
        require_writable(folder)
    result = audit_ids(config, split_config)
    write_text(config.output_dir / "ids_audit.json", json.dumps(result, indent=1) + "\n")
    for part, about in result["parts"].items():
        log.info("%s: %d clips, ids sha256 %s", part, about["num_clips"], about["ids_sha256"])
    for line in lines_of(result["overlaps"]):
        log.info("%s", line)
    if drawn := result.get("disjoint"):
        sizes = ", ".join(f"{part} {about['num_clips']}" for part, about in drawn["parts"].items())
        log.info("disjoint parts: %s, %d left out; %s", sizes, drawn["num_left_out"], config.write_disjoint)
        for line in lines_of(drawn["overlaps"]):
            log.info("    %s", line)
    is_shared = any_shared(result["overlaps"])
    found = "the parts share clips, persons or videos" if is_shared else "nothing is shared"
    log.info("%s: %s; written to %s", config.dataset, found, config.output_dir)
    return 1 if is_shared else 0
