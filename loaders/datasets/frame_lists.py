"""Folders of frames that text lists name: those of the published code of Exposing the Deception.

train_real.txt, train_fake.txt, val_real.txt, ..., test_fake.txt in the data root, with lines
`label,path,frames`: label 0 = real, 1 = fake; the path of a folder of PNG or JPEG crops, although it may end
in ".mp4"; the number of frames, which may be missing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from loaders.datasets.frame_paths import (
    ListedFolder,
    frames_in,
    locate,
    pair_groups,
    parse_prefixes,
    require_known_places,
    sequences,
)
from loaders.datasets.metadata import (
    LABELS,
    FolderIndex,
    listed_once,
    new_clip,
    no_metadata,
    parse_label,
    separator_hint,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.files import read_lines
from utils.run.progress import map_files

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
NAMES = {f"{part}_{kind}.txt": (part, kind) for part in PARTS for kind in ("real", "fake")}


@dataclasses.dataclass(frozen=True)
class _Line:
    folder: ListedFolder
    part: str
    label: int
    num_frames: int | None  # as the list says


def list_frame_lists(data_root: Path, config: ListingConfig) -> Listing:
    """All folders of frames that the lists in `data_root` name.

    Raises DatasetError that says file and line, or which --path_prefix to give.
    """
    lists = [data_root / name for name in NAMES if (data_root / name).is_file()]
    if not lists:
        raise no_metadata(data_root, *NAMES)
    prefixes = parse_prefixes(config.path_prefix)
    lines = [line for path in lists for line in _read_list(path, prefixes, data_root)]
    folders = FolderIndex(data_root)
    names = list(map_files(lambda line: frames_in(folders, line.folder.path), lines, "frame_lists: frames"))
    lost = [line.folder for line, found in zip(lines, names, strict=True) if not found]
    if lost:
        taken = {line.folder.path for line, found in zip(lines, names, strict=True) if found}
        require_known_places("frame_lists", data_root, lost, len(lines), taken)
    _compare_counts(lines, names)
    groups = pair_groups(_name(line) for line in lines)
    clips = [
        (line.folder.where, _make_clip(line, folders, found, groups))
        for line, found in zip(lines, names, strict=True)
    ]
    listed = list(listed_once(clips))
    return select_clips("frame_lists", data_root, listed, config, unlisted=_unlisted(lines, folders))


def _read_list(
    path: Path, prefixes: list[tuple[PurePosixPath, PurePosixPath]], root: Path
) -> Iterator[_Line]:
    part, kind = NAMES[path.name]
    for where, text in read_lines(path):
        fields = [field.strip() for field in text.split(",")]
        if len(fields) not in (2, 3) or not fields[1]:
            raise DatasetError(f"{where}: expected label,path,frames, got {text!r}{separator_hint(text)}")
        label = parse_label(fields[0], where)
        if label != LABELS[kind]:
            raise DatasetError(f"{where}: label {fields[0]} in a list of {kind} videos")
        number = fields[2] if len(fields) == 3 else ""
        if number and not number.isdecimal():
            raise DatasetError(f"{where}: expected a number of frames, got {fields[2]!r}")
        folder = locate(fields[1], where, prefixes, root)
        yield _Line(folder, part, label, int(number) if number else None)


def _compare_counts(lines: list[_Line], names: list[tuple[str, ...]]) -> None:
    """Log how many frames are listed and there, and warn of folders with fewer than listed."""
    frames: Counter[str] = Counter()
    fewer = []
    for line, found in zip(lines, names, strict=True):
        frames[f"{line.part} {'fake' if line.label else 'real'}"] += len(found)
        if found and line.num_frames is not None and len(found) < line.num_frames:
            fewer.append(f"{line.folder.where}: {line.num_frames} frames are listed, {len(found)} are there")
    log.info("frame_lists: frames: %s", ", ".join(f"{part} {count:,}" for part, count in frames.items()))
    if fewer:
        log.warning("frame_lists: %d folders have fewer frames than listed, e.g. %s", len(fewer), fewer[0])


def _unlisted(lines: list[_Line], folders: FolderIndex) -> list[str]:
    """Folders of frames next to listed ones that no list names."""
    listed = {line.folder.path for line in lines}
    found = []
    for parent in sorted({path.parent for path in listed}):
        place = folders.find(parent)
        names = folders.entries(str(place)) if place else ()
        others = [parent / name for name in names if parent / name not in listed]
        found += [path.as_posix() for path in others if frames_in(folders, path)]
    return found


def _name(line: _Line) -> str:
    return line.folder.path.name.removesuffix(".mp4")


def _make_clip(line: _Line, folders: FolderIndex, frames: tuple[str, ...], groups: Mapping[str, str]) -> Clip:
    path = line.folder.path
    target, source = sequences(_name(line))
    method = "fake"
    if "manipulated_sequences" in path.parts[:-1]:
        method = path.parts[path.parts.index("manipulated_sequences") + 1]
    clip = new_clip(
        "frame_lists",
        path,
        folders.clip_folder(path),
        (line.label, None),
        category=method if line.label else "real",
        person=target or f"clip {path}",
        identity_is="family" if target else "clip",
        donors=(source,),
        group=groups.get(target, ""),
        split=line.part,
    )
    return dataclasses.replace(clip, frames=frames)
