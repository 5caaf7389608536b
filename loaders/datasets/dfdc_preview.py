"""DFDC preview: one dataset.json lists all clips; swapped faces, genuine voices.

It has an official train and test part; validation is carved from train. The layout of the published
Beyond-Masking code (`dfdc_preview_set/dataset.json` next to `dfdc_preview_set_features/`) is read, too.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from loaders.datasets.json_files import read_json
from loaders.datasets.metadata import (
    FolderIndex,
    as_id,
    inside,
    is_empty,
    listed_once,
    new_clip,
    no_metadata,
    parse_label,
)
from loaders.groups import joined
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.names import brief

log = logging.getLogger(__name__)

METADATA = "dataset.json"
# metadata and clip folders below the data root: ours, and the published code's
LAYOUTS = (
    (METADATA, "."),
    (f"dfdc_preview_set/{METADATA}", "dfdc_preview_set_features"),
    (f"dfdc_preview_set/{METADATA}", "dfdc_preview_set"),
)
REALS = "original_videos"


class _Row(NamedTuple):
    """An entry of dataset.json."""

    path: PurePosixPath
    label: int
    part: str  # train or test
    target: str
    donor: str  # "" of a real clip


def list_dfdc_preview(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared DFDC preview tree.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    found = [(data_root / file, data_root / clips) for file, clips in LAYOUTS if (data_root / file).is_file()]
    if not found:
        raise no_metadata(data_root, METADATA, f"dfdc_preview_set/{METADATA}")
    file, clip_root = next((pair for pair in found if pair[1].is_dir()), found[0])
    rows = [_read_row(file, key, fields) for key, fields in sorted(read_json(file, dict).items())]
    group_of, donor_rule = _groups(rows)
    folders = FolderIndex(clip_root)
    clips = list(listed_once((f"{file}, {row.path}", _make_clip(folders, row, group_of)) for row in rows))
    return select_clips("dfdc_preview", data_root, clips, config, donor_rule=donor_rule)


def _read_row(file: Path, key: str, fields: Any) -> _Row:
    origin = f"{file}, {brief(key)}"
    needed = ("label", "set", "target_id", "swapped_id")
    if not isinstance(fields, dict) or not fields.keys() >= {"label", "set"}:
        raise DatasetError(f"{origin}: expected an object with {', '.join(needed)}, found {brief(fields)}")
    path = inside(key, file)
    if len(path.parts) < 2:
        raise DatasetError(f"{origin}: expected {REALS}/<id>/<clip>.mp4 or <method>/.../<clip>.mp4")
    label = parse_label(fields["label"], origin)
    part = str(fields["set"]).lower()
    if part not in {"train", "test"}:
        raise DatasetError(f"{origin}: set is {brief(fields['set'])}, expected train or test")
    if (path.parts[0] == REALS) == (label == 1):
        raise DatasetError(
            f"{origin}: label {brief(fields['label'])} does not fit the folder {path.parts[0]}"
        )
    # a real clip's person is also its folder: original_videos/<id>/<id>_<scene>_<n>.mp4
    target, donor = (_person(fields.get(name)) for name in ("target_id", "swapped_id"))
    if label == 0:
        target, donor = target or path.parts[1], ""
    if not target or (label == 1 and not donor):
        raise DatasetError(f"{origin}: has no {'swapped_id' if target else 'target_id'}")
    return _Row(path, label, part, target, donor)


def _person(value: Any) -> str:
    return "" if is_empty(value) else as_id(str(value))


def _groups(rows: list[_Row]) -> tuple[dict[tuple[str, str], str], str]:
    """(set, person) -> group of persons swapped with each other within the set, and the donor rule.

    Where most persons are connected, such a group cannot be split: then nobody is grouped, and fakes with a
    donor in another part are kept (results on donor-disjoint clips are reported separately).
    """
    links: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        links[row.part].append((row.target, row.donor or row.target))
    groups: dict[tuple[str, str], str] = {}
    for part, pairs in links.items():
        group_of = joined(pairs)
        largest = max(Counter(group_of.values()).values())
        if 2 < len(group_of) < 2 * largest:
            log.warning(
                "dfdc_preview: %d of the %d persons of its %s set are linked by swaps: validation is carved "
                "by the person on screen alone",
                *(largest, len(group_of), part),
            )
            return {}, "keep"
        groups |= {(part, person): group for person, group in group_of.items()}
    return groups, "drop"


def _make_clip(folders: FolderIndex, row: _Row, group_of: dict[tuple[str, str], str]) -> Clip:
    path, fake = row.path.with_suffix(""), row.label
    # <donor>_<target>_<scene>_<n> and <target>_<scene>_<n> show the same person in the same scene
    name = path.name.removeprefix(f"{row.donor}_") if fake else path.name
    return new_clip(
        "dfdc_preview",
        path,
        folders.clip_folder(path),
        (fake, 0),
        category="fake" if fake else "real",
        method=path.parts[0],
        person=row.target,
        identity_is="person",
        donors=(row.donor,),
        pair=name.rpartition("_")[0] or name,
        split=row.part,
        group=group_of.get((row.part, row.target), ""),
    )
