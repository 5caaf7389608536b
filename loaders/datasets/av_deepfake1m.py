"""AV-Deepfake1M: metadata to clips. Fakes are forged in parts: words are replaced, inserted or deleted.

`train_metadata.json` and `val_metadata.json` list `<speaker>/<video>/<clip>/<kind>.mp4` below train/ and
val/; it is also handed out as folders train_metadata/ and val_metadata/ with a JSON file for each video. The
labels of test/ are not published: as in the papers, the released validation part is the test part here, and
validation is carved from the training part. Speakers do not recur between the parts.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loaders.datasets.metadata import (
    Segments,
    as_segments,
    first_full,
    inside,
    is_empty,
    listed_once,
    new_clip,
    no_metadata,
    read_json_entries,
    read_json_folder,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.files import read_lines
from utils.names import brief

log = logging.getLogger(__name__)

KEYS = ("file", "original", "modify_type", "audio_fake_segments", "visual_fake_segments")
PARTS = {"train": "train", "val": "test"}
# modify_type -> (picture is fake, sound is fake); the data set's own tools spell both-modified with a hyphen
MODIFY_TYPES = {
    "real": (0, 0),
    "visual_modified": (1, 0),
    "audio_modified": (0, 1),
    "both_modified": (1, 1),
}


def list_av_deepfake1m(data_root: Path, config: ListingConfig) -> Listing:
    """All labelled clips of a prepared AV-Deepfake1M tree.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    clips: list[Clip] = []
    oddities: Counter[str] = Counter()
    missing: list[str] = []
    for part in PARTS:

        def read(path: Path, part: str = part) -> Iterator[Clip]:
            entries = read_json_folder(path, KEYS) if path.is_dir() else read_json_entries(path, KEYS)
            rows = ((where, _make_clip(data_root, part, where, entry, oddities)) for where, entry in entries)
            return listed_once(rows)

        paths = [data_root / f"{part}_metadata.json", data_root / f"{part}_metadata"]
        clips += first_full(dict.fromkeys(paths, read))
        if not any(path.exists() for path in paths):
            missing += [paths[0].name, f"{paths[1].name}/"]
    if len(missing) == 2 * len(PARTS):
        raise no_metadata(data_root, *missing)
    if missing:
        log.warning("av_deepfake1m: %s is missing: its clips are not listed", " or ".join(missing))
    for oddity, count in sorted(oddities.items()):
        log.info("av_deepfake1m: %d clips %s", count, oddity)
    hidden = data_root / "test_files.txt"
    if hidden.is_file():
        count = sum(1 for _ in read_lines(hidden))
        log.info("av_deepfake1m: %d clips of test_files.txt are left out: their labels are hidden", count)
    return select_clips("av_deepfake1m", data_root, clips, config)


def _make_clip(root: Path, part: str, where: str, entry: dict[str, Any], oddities: Counter[str]) -> Clip:
    name = _clip_name(entry["file"], part, where)
    kind = str(entry["modify_type"]).replace("-", "_")
    if kind not in MODIFY_TYPES:
        raise DatasetError(
            f"{where}: unknown modify_type {brief(entry['modify_type'])}, expected one of "
            f"{', '.join(MODIFY_TYPES)}"
        )
    labels = MODIFY_TYPES[kind]
    segments: list[Segments | None] = []
    keys = ("visual_fake_segments", "audio_fake_segments")
    for modality, label, key in zip(("picture", "sound"), labels, keys, strict=True):
        spans = as_segments(() if is_empty(entry[key]) else entry[key], where)
        if spans and not label:  # a known fault of the release: the other stream's segment was copied here
            if kind == "real":
                raise DatasetError(f"{where}: modify_type is real, but the {modality} has forged segments")
            oddities[f"have forged segments of the {modality}, although modify_type says it is genuine"] += 1
        elif label and not spans:
            oddities[f"have no segments for their forged {modality}: the whole clip counts as forged"] += 1
        segments.append(spans if spans and label else None)
    speaker, original = name.split("/")[-4], entry["original"]
    # the method is the category: one generator makes the pictures; `audio_model` names the voice's
    return new_clip(
        "av_deepfake1m",
        name,
        Path(f"{root}{os.sep}{name}"),
        labels,
        category=kind,
        person=speaker,
        identity_is="person",
        pair=name if is_empty(original) else _clip_name(original, part, where),
        split=PARTS[part],
        group=speaker,
        segments=(segments[0], segments[1]),
    )


def _clip_name(text: Any, part: str, where: str) -> str:
    """<part>/<speaker>/<video>/<clip>/<kind>, whether or not the metadata names the part."""
    path = inside(text, where)
    if path.parts[0] != part:
        path = part / path
    if len(path.parts) < 5:
        raise DatasetError(f"{where}: expected <speaker>/<video>/<clip>/<kind>.mp4, found {brief(text)}")
    return without_suffix(path).as_posix()
