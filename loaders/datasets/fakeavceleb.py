"""FakeAVCeleb v1.2: metadata to clips.

Reads the original `meta_data.csv` (nine header names, ten values a row: the column `path` holds the file name
and the unnamed tenth the folder) with whatever names tools give to these two columns, and
`FakeAVCeleb_metadata_corrected.csv` of the published Beyond-Masking code (`type` = split, `file_path`,
`video_label`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import (
    FolderIndex,
    first_full,
    inside,
    new_clip,
    no_metadata,
    parse_label,
    read_rows,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError

log = logging.getLogger(__name__)

ORIGINAL_METADATA = "meta_data.csv"
CORRECTED_METADATA = "FakeAVCeleb_metadata_corrected.csv"
# type -> (letter in the column `category`, picture is fake, sound is fake)
CATEGORIES = {
    "RealVideo-RealAudio": ("A", 0, 0),
    "RealVideo-FakeAudio": ("B", 0, 1),
    "FakeVideo-RealAudio": ("C", 1, 0),
    "FakeVideo-FakeAudio": ("D", 1, 1),
}
PUBLISHED_COUNTS = {  # of release 1.2
    "RealVideo-RealAudio": 500,
    "RealVideo-FakeAudio": 500,
    "FakeVideo-RealAudio": 9_709,
    "FakeVideo-FakeAudio": 10_835,
}
# the columns with fixed names; those of file name and folder are found by their values
COLUMNS = ("source", "target1", "method", "category", "type", "race", "gender")
METHODS = {"real", "rtvc", "wav2lip", "faceswap", "fsgan", "faceswap-wav2lip", "fsgan-wav2lip"}
RELEASED_CLIPS = "landmark_features/features_mediapipe"  # where clip folders lie in the published code
IDENTITY = re.compile(r"id\d{5}")


def list_fakeavceleb(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared FakeAVCeleb tree.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    tables = {data_root / CORRECTED_METADATA: _read_corrected, data_root / ORIGINAL_METADATA: _read_original}
    if not any(path.is_file() for path in tables):
        raise no_metadata(data_root, ORIGINAL_METADATA, CORRECTED_METADATA)
    released = data_root / RELEASED_CLIPS
    folders = FolderIndex(released if released.is_dir() else data_root)
    clips: dict[str, Clip] = {}
    num_duplicates = 0
    for path, fields in first_full(tables):
        clip = _make_clip(folders, path, fields)
        num_duplicates += clip.clip_id in clips
        clips.setdefault(clip.clip_id, clip)
    if num_duplicates:
        log.info("fakeavceleb: %d rows list a file again; its first row counts", num_duplicates)
    # the graph of donors is dense: without its edges between the parts, half of the fakes would be lost
    return select_clips("fakeavceleb", data_root, list(clips.values()), config, donor_rule="keep")


def _read_original(path: Path) -> Iterator[tuple[PurePosixPath, dict[str, str]]]:
    for line, row in read_rows(path, COLUMNS, unnamed_last=True):
        where, kind = f"{path}, line {line}", row["type"]
        if kind not in CATEGORIES:
            raise DatasetError(f"{where}: unknown type {kind!r}, expected one of {', '.join(CATEGORIES)}")
        if row["category"] != CATEGORIES[kind][0]:
            raise DatasetError(f"{where}: category {row['category']!r} does not fit type {kind!r}")
        if row["method"] not in METHODS:
            known = ", ".join(sorted(METHODS))
            raise DatasetError(f"{where}: unknown method {row['method']!r}, expected one of {known}")
        if not row["source"]:
            raise DatasetError(f"{where}: source is empty, expected an id such as id00076")
        yield _clip_path(row, where), row | {"split": ""}


def _clip_path(row: dict[str, str], where: str) -> PurePosixPath:
    """<type>/<race>/<gender>/<id>/<name>.mp4, by the values: tools rename the columns of name and folder."""
    kind, fixed = row["type"], {*COLUMNS, "target2"}
    others = [row[column].replace("\\", "/") for column in row if column not in fixed]
    names = [value for value in others if value.lower().endswith(".mp4")]
    folders = [value for value in others if kind in value.split("/") and value not in names]
    whole = [name for name in names if kind in name.split("/")]
    if not whole and not (names and folders):
        found = ", ".join(map(repr, others)) or "nothing"
        raise DatasetError(
            f"{where}: expected a file name .mp4 and a folder with {kind} in it, found {found}"
        )
    parts = PurePosixPath(whole[0] if whole else f"{folders[0]}/{names[0]}").parts
    return inside("/".join(parts[parts.index(kind) :]), where)


def _read_corrected(path: Path) -> Iterator[tuple[PurePosixPath, dict[str, str]]]:
    for line, row in read_rows(path, ("type", "file_path", "video_label")):
        where, clip_path = f"{path}, line {line}", PurePosixPath(row["file_path"].replace("\\", "/"))
        category = next((part for part in clip_path.parts if part in CATEGORIES), None)
        if category is None or clip_path.suffix.lower() != ".mp4":
            raise DatasetError(
                f"{where}: {row['file_path']!r} is not <category>/<race>/<gender>/<id>/<name>.mp4"
            )
        if row["type"] not in {"train", "val", "test"}:
            raise DatasetError(f"{where}: type is {row['type']!r}, expected train, val or test in this file")
        if parse_label(row["video_label"], where, "video_label") != CATEGORIES[category][1]:
            raise DatasetError(f"{where}: video_label {row['video_label']!r} does not fit {category}")
        clip_path = inside("/".join(clip_path.parts[clip_path.parts.index(category) :]), where)
        race, gender, source = (*clip_path.parts[1:-1], "", "", "")[:3]
        donor = next((match for match in IDENTITY.findall(clip_path.stem) if match != source), "")
        method = "real" if category == "RealVideo-RealAudio" else "unknown"
        known = {"source": source, "race": race, "gender": gender, "target1": donor, "method": method}
        yield clip_path, known | row | {"type": category, "split": row["type"]}


def _make_clip(folders: FolderIndex, path: PurePosixPath, fields: dict[str, str]) -> Clip:
    category = fields["type"]
    _, video_label, audio_label = CATEGORIES[category]
    name = path.with_suffix("").as_posix()
    # some copies sanitise "Asian (East)" to "Asian-East"
    spellings = (name, name.replace(" (", "-").replace(")", ""))
    found = (folders.find(PurePosixPath(spelling)) for spelling in spellings)
    folder = next(filter(None, found), folders.root / name)
    # target1 and target2 hold donors' ids, but also "-" and bare indices
    donors = {fields[name] for name in ("target1", "target2") if IDENTITY.fullmatch(fields.get(name, ""))}
    return new_clip(
        "fakeavceleb",
        name,
        folder,
        (video_label, audio_label),
        category=category,
        method=fields["method"],
        person=fields["source"],
        identity_is="person",
        donors=sorted(donors),
        stratum=f"{fields['race']}/{fields['gender']}",
        split=fields["split"] or None,
    )
