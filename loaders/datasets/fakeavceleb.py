"""FakeAVCeleb v1.2: metadata to clips.

Reads the original `meta_data.csv` (nine header names, ten values a row: the column `path` holds the file name
and the unnamed tenth the folder), its renamed form (`filename` or `vid` + `path`), and
`FakeAVCeleb_metadata_corrected.csv` of the published Beyond-Masking code (`type` = split, `file_path`,
`video_label`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import FolderIndex, inside, new_clip, no_metadata, read_rows
from loaders.listing import Listing, ListingConfig, select_clips
from utils.errors import DatasetError
from utils.types import Clip

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
METHODS = {"real", "rtvc", "wav2lip", "faceswap", "fsgan", "faceswap-wav2lip", "fsgan-wav2lip"}
RELEASED_CLIPS = "landmark_features/features_mediapipe"  # where clip folders lie in the published code
IDENTITY = re.compile(r"id\d{5}")


def list_fakeavceleb(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared FakeAVCeleb tree.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    corrected, original = data_root / CORRECTED_METADATA, data_root / ORIGINAL_METADATA
    if corrected.is_file():
        records = _read_corrected(corrected)
    elif original.is_file():
        records = _read_original(original)
    else:
        raise no_metadata(data_root, ORIGINAL_METADATA, CORRECTED_METADATA)
    released = data_root / RELEASED_CLIPS
    folders = FolderIndex(released if released.is_dir() else data_root)
    clips: dict[str, Clip] = {}
    num_duplicates = 0
    for path, fields in records:
        clip = _make_clip(folders, path, fields)
        num_duplicates += clip.clip_id in clips
        clips.setdefault(clip.clip_id, clip)
    if num_duplicates:
        log.info("fakeavceleb: %d rows list a file again; its first row counts", num_duplicates)
    # the graph of donors is dense: without its edges between the parts, half of the fakes would be lost
    return select_clips("fakeavceleb", data_root, list(clips.values()), config, donor_rule="keep")


def _read_original(path: Path) -> Iterator[tuple[PurePosixPath, dict[str, str]]]:
    columns = ("source", "target1", "method", "category", "type", "race", "gender", "path")
    for line, row in read_rows(path, columns):
        where, kind = f"{path}, line {line}", row["type"]
        name = row.get("filename") or row.get("vid") or row["path"]
        folder = row.get("", row.get("Unnamed: 9", "")) or row["path"]
        if not name.endswith(".mp4") or folder == name:
            raise DatasetError(f"{where}: expected a file name and a folder, got {name!r} and {folder!r}")
        if kind not in CATEGORIES:
            raise DatasetError(f"{where}: unknown type {kind!r}, expected one of {', '.join(CATEGORIES)}")
        if row["category"] != CATEGORIES[kind][0]:
            raise DatasetError(f"{where}: category {row['category']!r} does not fit type {kind!r}")
        if row["method"] not in METHODS:
            known = ", ".join(sorted(METHODS))
            raise DatasetError(f"{where}: unknown method {row['method']!r}, expected one of {known}")
        parts = PurePosixPath(folder, name).parts
        if kind not in parts:
            raise DatasetError(f"{where}: folder {folder!r} does not contain {kind}")
        yield PurePosixPath(*parts[parts.index(kind) :]), row | {"split": ""}


def _read_corrected(path: Path) -> Iterator[tuple[PurePosixPath, dict[str, str]]]:
    for line, row in read_rows(path, ("type", "file_path", "video_label")):
        where, clip_path = f"{path}, line {line}", PurePosixPath(row["file_path"])
        category = next((part for part in clip_path.parts if part in CATEGORIES), None)
        if category is None or clip_path.suffix != ".mp4":
            raise DatasetError(
                f"{where}: {row['file_path']!r} is not <category>/<race>/<gender>/<id>/<name>.mp4"
            )
        if row["type"] not in {"train", "val", "test"}:
            raise DatasetError(f"{where}: type is {row['type']!r}, expected train, val or test in this file")
        if row["video_label"] not in {"0", "1"} or int(row["video_label"]) != CATEGORIES[category][1]:
            raise DatasetError(f"{where}: video_label {row['video_label']!r} does not fit {category}")
        clip_path = PurePosixPath(*clip_path.parts[clip_path.parts.index(category) :])
        race, gender, source = (*clip_path.parts[1:-1], "", "", "")[:3]
        donor = next((match for match in IDENTITY.findall(clip_path.stem) if match != source), "")
        method = "real" if category == "RealVideo-RealAudio" else "unknown"
        known = {"source": source, "race": race, "gender": gender, "target1": donor, "method": method}
        yield clip_path, known | row | {"type": category, "split": row["type"]}


def _make_clip(folders: FolderIndex, path: PurePosixPath, fields: dict[str, str]) -> Clip:
    inside(path.as_posix(), "the metadata")
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
        donors=sorted(donors),
        stratum=f"{fields['race']}/{fields['gender']}",
        split=fields["split"] or None,
    )
