"""AV-Deepfake1M: metadata to clips. Fakes are forged in parts: words are replaced, inserted or deleted.

`train_metadata.json` and `val_metadata.json` list `<speaker>/<video>/<clip>/<kind>.mp4` below train/ and
val/; it is also handed out as folders train_metadata/ and val_metadata/ with a JSON file for each video. The
labels of test/ are not published: as in the papers, the released validation part is the test part here, and
validation is carved from the training part, by speaker. The official parts share speakers, source videos and
families of clips.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from loaders.datasets.av1m_rows import (
    CORPORA,
    MODIFY_TYPES,
    PARTS,
    read_kind,
    read_parts,
    read_segments,
    report,
)
from loaders.datasets.metadata import new_clip, parts_inside, stem_of
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.names import brief

KNOWN_OVERLAP = (
    "AV-Deepfake1M's official parts share speakers; --split_source identity draws parts that do not"
)


def list_av_deepfake1m(data_root: Path, config: ListingConfig) -> Listing:
    """All labelled clips of a prepared AV-Deepfake1M tree.

    Raises DatasetError where root, metadata or clips are not as expected.
    """
    oddities: Counter[str] = Counter()

    def make_clip(part: str, where: str, entry: dict[str, Any]) -> Clip:
        return _make_clip(data_root, part, where, entry, oddities)

    clips = read_parts("av_deepfake1m", data_root, make_clip)
    report("av_deepfake1m", data_root, oddities, "test_files.txt")
    return select_clips("av_deepfake1m", data_root, clips, config, known_overlap=KNOWN_OVERLAP)


def _make_clip(root: Path, part: str, where: str, entry: dict[str, Any], oddities: Counter[str]) -> Clip:
    names = parts_inside(entry["file"], where)
    if names[0] == part:
        del names[0]  # a list may name the part, or not
    if names and names[0] in CORPORA:
        raise DatasetError(f"{where}: is a clip of AV-Deepfake1M++; use --dataset av_deepfake1m_pp")
    if len(names) < 4:
        found = brief(entry["file"])
        raise DatasetError(f"{where}: expected <speaker>/<video>/<clip>/<kind>.mp4, found {found}")
    speaker, video, take, file = names[-4:]
    name = "/".join((part, *names[:-1], stem_of(file)))
    kind = read_kind(where, entry)
    # the method is the category: one generator makes the pictures; `audio_model` names the voice's
    return new_clip(
        "av_deepfake1m",
        name,
        f"{root}{os.sep}{name}",
        MODIFY_TYPES[kind],
        category=kind,
        person=speaker,
        identity_is="person",
        pair=f"{speaker}/{video}/{take}",  # the same in both parts, unlike the clip's name
        split=PARTS[part],
        group=speaker,
        segments=read_segments(where, entry, kind, oddities),
        source_video=f"{speaker}/{video}",
    )
