"""DFDC, the full Deepfake Detection Challenge: each train part has a metadata.json, the others a labels.csv.

Any folder with such a metadata.json is a train part, Kaggle's sample `train_sample_videos` too. Not
published: who is seen, and whether the picture or the sound of a fake is forged. Train parts group actors, so
a drawn split keeps each part whole; in a part, a fake and its original count as one person (a family). The
other folders do not name originals: each of their clips counts alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from loaders.datasets.json_files import read_json
from loaders.datasets.metadata import (
    FolderIndex,
    inside,
    is_empty,
    listed_once,
    new_clip,
    nfc,
    no_metadata,
    parse_label,
    read_rows,
    require_file,
)
from loaders.groups import joined
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.files import walk_tree
from utils.names import brief

log = logging.getLogger(__name__)

PUBLISHED_COUNTS = {  # split -> real, fake
    "train": (19_154, 100_000),
    "val": (2_000, 2_000),
    "test": (2_500, 2_500),
}
METADATA = "metadata.json"
MAX_DEPTH = (
    2  # folders from the data root, or from its train/, to a part: archives are unpacked into one or not
)
PART_NAMES = re.compile(r"dfdc_train_part_.*|train_sample_videos")
LABELLED_FOLDERS = {"validation": "val", "test": "test"}


def list_dfdc(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared DFDC tree; parts and folders that are not there are left out.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    folders = FolderIndex(data_root)
    rows = list(_train_clips(data_root, folders))
    for name, split in LABELLED_FOLDERS.items():
        if (data_root / name).is_dir():
            rows += _labelled_clips(data_root, name, split, folders)
    clips = list(listed_once(rows))
    if not clips:
        labels = (f"{name}/labels.csv" for name in LABELLED_FOLDERS)
        raise no_metadata(data_root, "dfdc_train_part_*/metadata.json (also below train/)", *labels)
    return select_clips("dfdc", data_root, clips, config)


def _part_files(data_root: Path) -> list[Path]:
    """The metadata.json of each train part."""
    found = []
    for place, subfolders, files in walk_tree(data_root, links="follow"):
        folder = Path(place)
        if METADATA in files:
            found.append(folder / METADATA)
        parts = folder.relative_to(data_root).parts
        if not parts:
            subfolders[:] = [name for name in subfolders if name not in LABELLED_FOLDERS]
        elif len(parts) == MAX_DEPTH + (parts[0] == "train") or METADATA in files:
            subfolders.clear()
    return sorted(found)


def _read_part(file: Path) -> dict[str, dict[str, Any]]:
    """Name of a video -> its label, split and original."""
    entries = read_json(file, dict)
    for name, fields in sorted(entries.items()):
        if not isinstance(fields, dict) or "label" not in fields:
            if PART_NAMES.fullmatch(file.parent.name) is None:
                log.warning("dfdc: %s is not read: it gives no label to %s", file, brief(name))
                return {}
            origin = f"{file}, {brief(name)}"
            raise DatasetError(f"{origin}: expected an object with a label, found {brief(fields)}")
    return dict(sorted(entries.items()))


def _train_clips(data_root: Path, folders: FolderIndex) -> Iterator[tuple[str, Clip]]:
    """(file and name, clip) of each entry of the train parts."""
    # origin, path and its parent, label, name of the original
    rows: list[tuple[str, PurePosixPath, str, int, str]] = []
    for file in _part_files(data_root):
        part = PurePosixPath(nfc(file.parent.relative_to(data_root).as_posix()))
        for name, fields in _read_part(file).items():
            origin = f"{file}, {brief(name)}"
            if fields.get("split", "train") != "train":
                raise DatasetError(f"{origin}: split is {brief(fields['split'])}, expected 'train'")
            label = parse_label(fields["label"], origin)
            original = fields.get("original") if label == 1 else name
            if not isinstance(original, str) or is_empty(original):
                raise DatasetError(f"{origin}: a fake needs the name of its original, got {brief(original)}")
            path = part / inside(name, origin)
            rows.append((origin, path, path.parent.as_posix(), label, original))
    part_of = {path.name: parent for _, path, parent, _, _ in rows}
    # a part holds the originals of its fakes; where a mirror has moved one, the two parts stay together
    links = [(parent, part_of.get(original, "")) for _, _, parent, _, original in rows]
    group_of = joined((part, other or part) for part, other in links)
    if moved := sum(bool(other) and part != other for part, other in links):
        log.warning("dfdc: %d fakes lie in another part than their original; both parts stay together", moved)
    if len(set(group_of.values())) == 1:
        log.warning("dfdc: one train part alone: validation is carved by original; an actor may be in both")
        group_of = dict.fromkeys(group_of, "")
    for origin, path, parent, label, original in rows:
        yield origin, _make_clip(folders, path, label, "train", original, group_of[parent], "family")


def _labelled_clips(
    data_root: Path, name: str, split: str, folders: FolderIndex
) -> Iterator[tuple[str, Clip]]:
    file = require_file(data_root / name / "labels.csv", f"the labels of DFDC's {name} folder")
    for line, row in read_rows(file, ("filename", "label")):
        where = f"{file}, line {line}"
        path = name / inside(row["filename"], where)
        label = parse_label(row["label"], where)
        yield where, _make_clip(folders, path, label, split, path.name, name, "clip")


def _make_clip(
    folders: FolderIndex,
    path: PurePosixPath,
    label: int,
    split: str,
    original: str,
    group: str,
    identity_is: str,
) -> Clip:
    path = path.with_suffix("")
    return new_clip(
        "dfdc",
        path,
        folders.clip_folder(path),
        (None, None) if label else (0, 0),
        category="fake" if label else "real",
        method="unknown",
        person=PurePosixPath(original).stem,  # unknown: the original clip stands for the person
        identity_is=identity_is,
        split=split,
        group=group,
    )
