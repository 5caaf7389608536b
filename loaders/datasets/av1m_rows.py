"""Rows of the metadata of AV-Deepfake1M and AV-Deepfake1M++: labels, forged segments, families.

A family is the folder of a clip: a real clip and the fakes made from it lie together. The key `original` is
not read: of a real row it is the path in an upstream data set (VoxCeleb2: `id00012/21Uxsk56VDQ/00001.mp4`,
absolute, or `dev/mp4/...`), of a fake, and of a part of a real clip (`_p1`), a clip of the same folder.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loaders.datasets.json_files import read_json_entries, read_json_folder
from loaders.datasets.metadata import (
    Segments,
    as_segments,
    first_full,
    is_empty,
    listed_once,
    no_metadata,
)
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.files import read_lines
from utils.names import brief

log = logging.getLogger(__name__)

KEYS = ("file", "modify_type", "audio_fake_segments", "visual_fake_segments")
PARTS = {"train": "train", "val": "test"}  # the test part's labels are not published: val is tested
# modify_type -> (picture is fake, sound is fake); the data set's own tools spell both-modified with a hyphen
MODIFY_TYPES = {
    "real": (0, 0),
    "visual_modified": (1, 0),
    "audio_modified": (0, 1),
    "both_modified": (1, 1),
}
# source corpora of AV-Deepfake1M++ -> names in a path below them and with them
CORPORA = {"vox_celeb_2": 5, "lrs3": 4, "silent_videos": 3}
MakeClip = Callable[[str, str, dict[str, Any]], Clip]  # part, file and entry, the entry's values -> clip


def read_parts(dataset: str, data_root: Path, make_clip: MakeClip) -> list[Clip]:
    """The clips of `{train,val}_metadata.json`, or of folders of that name with a JSON file for each video.

    Raises DatasetError if neither is there, or for an entry that is not as expected.
    """
    clips: list[Clip] = []
    missing: list[str] = []
    for part in PARTS:

        def read(path: Path, part: str = part) -> Iterator[Clip]:
            entries = read_json_folder(path, KEYS) if path.is_dir() else read_json_entries(path, KEYS)
            return listed_once((where, make_clip(part, where, entry)) for where, entry in entries)

        paths = [data_root / f"{part}_metadata.json", data_root / f"{part}_metadata"]
        clips += first_full(dict.fromkeys(paths, read))
        if not any(path.exists() for path in paths):
            missing += [paths[0].name, f"{paths[1].name}/"]
    if len(missing) == 2 * len(PARTS):
        raise no_metadata(data_root, *missing)
    if missing:
        log.warning("%s: %s is missing: its clips are not listed", dataset, " or ".join(missing))
    return clips


def read_kind(where: str, entry: dict[str, Any]) -> str:
    """The modify_type of an entry, spelled as in MODIFY_TYPES; DatasetError for another."""
    kind = str(entry["modify_type"]).replace("-", "_")
    if kind not in MODIFY_TYPES:
        raise DatasetError(
            f"{where}: unknown modify_type {brief(entry['modify_type'])}, expected one of "
            f"{', '.join(MODIFY_TYPES)}"
        )
    return kind


def read_segments(
    where: str, entry: dict[str, Any], kind: str, oddities: Counter[str]
) -> tuple[Segments | None, Segments | None]:
    """Forged segments of picture and sound, None where a modality is genuine or forged as a whole.

    Counts the known faults of the release in `oddities`; DatasetError if a real clip has segments.
    """
    found: list[Segments | None] = []
    keys = ("visual_fake_segments", "audio_fake_segments")
    for modality, label, key in zip(("picture", "sound"), MODIFY_TYPES[kind], keys, strict=True):
        spans = as_segments(() if is_empty(entry[key]) else entry[key], where)
        if spans and not label:  # a known fault of the release: the other stream's segment was copied here
            if kind == "real":
                raise DatasetError(f"{where}: modify_type is real, but the {modality} has forged segments")
            oddities[f"have forged segments of the {modality}, although modify_type says it is genuine"] += 1
        elif label and not spans:
            oddities[f"have no segments for their forged {modality}: the whole clip counts as forged"] += 1
        found.append(spans if spans and label else None)
    return found[0], found[1]


def report(dataset: str, data_root: Path, oddities: Counter[str], *hidden: str) -> None:
    """Log the known faults of the release, and how many clips the lists `hidden` name, without labels."""
    for oddity, count in sorted(oddities.items()):
        log.info("%s: %d clips %s", dataset, count, oddity)
    for name in hidden:
        if (data_root / name).is_file():
            count = sum(1 for _ in read_lines(data_root / name))
            log.info("%s: %d clips of %s are left out: their labels are hidden", dataset, count, name)
