"""DFDC, the full Deepfake Detection Challenge: each train part has a metadata.json, the others a labels.csv.

Not published: who is seen, and whether the picture or the sound of a fake is forged. Train parts group
actors, so a drawn split keeps each part whole; in a part, a fake and its original count as one person.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import (
    FolderIndex,
    inside,
    new_clip,
    nfc,
    no_metadata,
    parse_label,
    read_json,
    read_rows,
    require_file,
)
from loaders.groups import joined
from loaders.listing import Listing, ListingConfig, select_clips
from utils.errors import DatasetError
from utils.names import brief
from utils.types import Clip

log = logging.getLogger(__name__)

PUBLISHED_COUNTS = {  # split -> real, fake
    "train": (19_154, 100_000),
    "val": (2_000, 2_000),
    "test": (2_500, 2_500),
}
# where a part's metadata may lie below the data root: archives are unpacked with and without a folder
TRAIN_METADATA = (
    "dfdc_train_part_*/metadata.json",
    "*/dfdc_train_part_*/metadata.json",
    "train/*/dfdc_train_part_*/metadata.json",
)
LABELLED_FOLDERS = {"validation": "val", "test": "test"}


def list_dfdc(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared DFDC tree; parts and folders that are not there are left out.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    folders = FolderIndex(data_root)
    clips = list(_train_clips(data_root, folders))
    for name, split in LABELLED_FOLDERS.items():
        if (data_root / name).is_dir():
            clips += _labelled_clips(data_root, name, split, folders)
    if not clips:
        labels = (f"{name}/labels.csv" for name in LABELLED_FOLDERS)
        raise no_metadata(data_root, "dfdc_train_part_*/metadata.json (also below train/)", *labels)
    return select_clips("dfdc", data_root, clips, config)


def _train_clips(data_root: Path, folders: FolderIndex) -> Iterator[Clip]:
    files = sorted({path for pattern in TRAIN_METADATA for path in data_root.glob(pattern)})
    rows: list[tuple[PurePosixPath, int, str]] = []  # path, label, name of the original
    for file in files:
        part = PurePosixPath(nfc(file.parent.relative_to(data_root).as_posix()))
        for name, fields in sorted(read_json(file, dict).items()):
            origin = f"{file}, {brief(name)}"
            if not isinstance(fields, dict) or "label" not in fields:
                raise DatasetError(f"{origin}: expected an object with a label, found {brief(fields)}")
            if fields.get("split", "train") != "train":
                raise DatasetError(f"{origin}: split is {brief(fields['split'])}, expected 'train'")
            label = parse_label(fields["label"], origin)
            original = fields.get("original") if label == 1 else name
            if not isinstance(original, str):
                raise DatasetError(f"{origin}: a fake needs the name of its original, got {brief(original)}")
            rows.append((part / inside(name, file), label, original))
    part_of = {path.name: path.parent.as_posix() for path, _, _ in rows}
    # a part holds the originals of its fakes; where a mirror has moved one, the two parts stay together
    links = [(path.parent.as_posix(), part_of.get(original, "")) for path, _, original in rows]
    group_of = joined((part, other or part) for part, other in links)
    if moved := sum(bool(other) and part != other for part, other in links):
        log.warning("dfdc: %d fakes lie in another part than their original; both parts stay together", moved)
    for path, label, original in rows:
        yield _make_clip(folders, path, label, "train", original, group_of[path.parent.as_posix()])


def _labelled_clips(data_root: Path, name: str, split: str, folders: FolderIndex) -> Iterator[Clip]:
    file = require_file(data_root / name / "labels.csv", f"the labels of DFDC's {name} folder")
    for line, row in read_rows(file, ("filename", "label")):
        path = name / inside(row["filename"], f"{file}, line {line}")
        label = parse_label(row["label"], f"{file}, line {line}")
        yield _make_clip(folders, path, label, split, path.name, name)


def _make_clip(
    folders: FolderIndex, path: PurePosixPath, label: int, split: str, original: str, group: str
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
        split=split,
        group=group,
    )
