"""Paths of folders of frames in lists that were written on another machine: where the folders are here."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import FolderIndex, inside, nfc
from utils.clip.frame_folders import frame_names
from utils.errors import DatasetError, UsageError
from utils.names import brief

SEARCHED_LEVELS = 3  # of folders below the data root, when a place for lost paths is proposed
MAX_SEARCHED = 400  # folders
MAX_PROPOSALS = 8
SEQUENCES = re.compile(r"(?P<target>\d{3})(_(?P<source>\d{3}))?")  # of FaceForensics++


@dataclass(frozen=True)
class ListedFolder:
    """A folder of frames as a list names it, and as it is called here."""

    where: str  # file and line
    listed: str
    path: PurePosixPath  # below the data root


def parse_prefixes(values: Sequence[str]) -> list[tuple[PurePosixPath, PurePosixPath]]:
    """[(OLD, NEW)] of --path_prefix, the longest OLD first. Raises UsageError."""
    pairs = []
    for value in values:
        old, equals, new = value.partition("=")
        if not equals or not old.strip():
            raise UsageError(f"--path_prefix {value}: expected OLD=NEW")
        pairs.append((as_path(old), as_path(new)))
    return sorted(pairs, key=lambda pair: -len(pair[0].parts))


def as_path(text: str) -> PurePosixPath:
    """A path of either system, without "./" before it."""
    return PurePosixPath(nfc(text.strip()).replace("\\", "/"))


def locate(
    listed: str, where: str, prefixes: Sequence[tuple[PurePosixPath, PurePosixPath]], root: Path
) -> ListedFolder:
    """A listed path as one below the data root, whose own name may precede it.

    Raises DatasetError if it leads out of the root.
    """
    path = as_path(listed)
    for old, new in prefixes:
        if path.parts[: len(old.parts)] == old.parts:
            path = new.joinpath(*path.parts[len(old.parts) :])
            break
    if path.is_absolute():
        here = root.absolute().as_posix()
        path = path.relative_to(here if path.is_relative_to(here) else "/")
    if path.parts[:1] == (root.name,) and not (root / root.name).is_dir():
        path = PurePosixPath(*path.parts[1:])
    return ListedFolder(where, listed, inside(path.as_posix(), where))


def require_known_places(
    dataset: str, root: Path, lost: Sequence[ListedFolder], num_listed: int, taken: set[PurePosixPath]
) -> None:
    """Raise DatasetError that says which --path_prefix to give, if the `lost` folders are under another path.

    taken: the folders that were found, which are no place for others.
    """
    folders, proposals = FolderIndex(root), dict[str, str]()
    places = _folders_below(root)
    for entry in {entry.path.parent: entry for entry in lost}.values():  # one of each folder
        old_new = _propose(entry, folders, places, taken)
        if old_new and len(proposals) < MAX_PROPOSALS:
            proposals.setdefault(*old_new)
    if proposals:
        pairs = " ".join(f"{old}={new}" for old, new in proposals.items())
        raise DatasetError(
            f"{dataset}: {len(lost)} of {num_listed} listed folders are not below {root}, e.g. "
            f"{brief(lost[0].listed)} ({lost[0].where}); if their frames lie there under another path, give "
            f"--path_prefix {pairs}"
        )


def _folders_below(root: Path) -> list[PurePosixPath]:
    """Folders down to SEARCHED_LEVELS below the root, without those that hold frames; the root first."""
    found, level = [PurePosixPath()], [PurePosixPath()]
    for _ in range(SEARCHED_LEVELS):
        below = []
        for place in level:
            with os.scandir(root / place) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            below += [place / name for name in names if not frame_names(os.listdir(root / place / name)[:3])]
            if len(found) + len(below) > MAX_SEARCHED:
                return found
        found += below
        level = below
    return found


def _propose(
    entry: ListedFolder, folders: FolderIndex, places: Sequence[PurePosixPath], taken: set[PurePosixPath]
) -> tuple[str, str] | None:
    """(OLD, NEW) with which a lost folder would be found, with the shortest OLD."""
    parts = as_path(entry.listed).parts
    for length in range(1, len(parts)):
        rest, old = PurePosixPath(*parts[length:]), PurePosixPath(*parts[:length]).as_posix()
        fitting = [place for place in places if place / rest not in taken and folders.find(place / rest)]
        if fitting:
            names = [place.as_posix() for place in fitting]
            best = max(names, key=lambda name: difflib.SequenceMatcher(None, old, name).ratio())
            return old, "" if best == "." else best
    return None


def frames_in(folders: FolderIndex, path: PurePosixPath) -> tuple[str, ...]:
    """Names of the frames in a folder below the root; () if there is none."""
    place = folders.find(path)
    return frame_names(os.listdir(place)) if place is not None and place.is_dir() else ()


def pair_groups(names: Iterable[str]) -> dict[str, str]:
    """Sequence of FaceForensics++ -> its pair, which no split tears apart, by the fakes among `names`."""
    found = {}
    for target, source in map(sequences, names):
        if source:
            found[target] = found[source] = "+".join(sorted((target, source)))
    return found


def sequences(name: str) -> tuple[str, str]:
    """(target, source) of a folder of FaceForensics++, source "" for an original; ("", "") of others."""
    match = SEQUENCES.fullmatch(name)
    return (match["target"], match["source"] or "") if match else ("", "")
