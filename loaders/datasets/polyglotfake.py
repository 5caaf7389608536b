"""PolyGlotFake: clips of seven languages, made to speak each of the others. Sound and picture are forged.

Read from the repository's `json_file/`: `<language>.json` lists real clips (`filename`, `source`: what they
were cut from), `to_<language>.json` fakes (`name`, `raw_video_name`, `tts_technique`, `sync_tech`). Clips are
found by their file names, `<language>_<n>` and `<language>_<n>_to_<language>_<voice>`. Persons are not named:
a clip and its fakes count as one, and a drawn split keeps together what was cut from one recording. There is
no official split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from loaders.datasets.json_files import read_json
from loaders.datasets.metadata import (
    find_by_name,
    inside,
    is_empty,
    listed_once,
    new_clip,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError, IncompleteError
from utils.files import walk_tree
from utils.names import brief

LISTS = re.compile(r"(to_)?([a-z]{2})\.json")  # all_real_video.json and all_fake_video.json repeat them


def list_polyglotfake(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared PolyGlotFake tree.

    Raises DatasetError where root, lists or clips are not as expected.
    """
    reals, fakes = _find_lists(data_root)
    rows = [row for path in reals for row in _read_reals(data_root, path)]
    sources = {clip.folder.name: clip.source_video.partition("/")[2] for _, clip in rows}
    rows += [row for path in fakes for row in _read_fakes(data_root, path, sources)]
    clips = {clip.folder.name: clip for clip in listed_once(rows)}
    folders = find_by_name(data_root, clips)
    listed = [replace(clip, place=str(folders.get(name, clip.place))) for name, clip in clips.items()]
    return select_clips("polyglotfake", data_root, listed, config)


def _find_lists(root: Path) -> tuple[list[Path], list[Path]]:
    """The lists of real and of fake clips, wherever json_file/ was put."""
    found: dict[str, list[Path]] = {"": [], "to_": []}
    for place, _, names in walk_tree(root, links="follow"):
        for name in names:
            if match := LISTS.fullmatch(name):
                found[match[1] or ""].append(Path(place, name))
    if not found[""] or not found["to_"]:
        missing = "to_<language>.json" if found[""] else "<language>.json"
        raise IncompleteError(f"{root}: no list {missing}; copy json_file/ of the repository there")
    return found[""], found["to_"]


def _read_rows(path: Path, *required: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, entry) of a list, which stands under "videos" or "video"."""
    content = read_json(path, dict)
    entries = content.get("videos", content.get("video"))
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: expected a list under videos or video, found {brief(entries)}")
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or not entry.keys() >= set(required):
            keys = ", ".join(required)
            raise DatasetError(f"{where}: expected an object with {keys}, found {brief(entry)}")
        yield where, entry


def _read_reals(root: Path, path: Path) -> Iterator[tuple[str, Clip]]:
    for where, row in _read_rows(path, "filename", "source"):
        name = _stem(row["filename"], where)
        source = name if is_empty(row["source"]) else str(row["source"]).rpartition("URL:")[2].strip()
        yield where, _make_clip(root, name, name, source, (0, 0), "real", "")


def _read_fakes(root: Path, path: Path, sources: Mapping[str, str]) -> Iterator[tuple[str, Clip]]:
    for where, row in _read_rows(path, "name", "raw_video_name", "tts_technique", "sync_tech"):
        name, original = _stem(row["name"], where), _stem(row["raw_video_name"], where)
        if original not in sources:
            raise DatasetError(f"{where}: raw_video_name {brief(original)} is in no list of real clips")
        method = f"{row['tts_technique']}+{row['sync_tech']}".lower()
        yield where, _make_clip(root, name, original, sources[original], (1, 1), path.stem, method)


def _stem(text: Any, where: str) -> str:
    return without_suffix(PurePosixPath(inside(text, where).name)).as_posix()


def _make_clip(
    root: Path, name: str, original: str, source: str, labels: tuple[int, int], category: str, method: str
) -> Clip:
    return new_clip(
        "polyglotfake",
        name,
        root / name,
        labels,
        category=category,
        method=method,
        person=original,
        identity_is="family",
        stratum=original.partition("_")[0],  # its language
        group=source,
        source_video=source,
    )
