"""DeepfakeBench's layout: JSON lists of aligned faces, in folders of frames or in LMDB stores.

    NAME.json                               {NAME: {label: {part: {video: {"label", "frames": [path, ...]}}}}}
    <data set>/.../frames/<video>/001.png   the frames
    <data set>_lmdb/data.mdb                or a store: key = path, value = file

For FaceForensics++, its parts and DeepFakeDetection, the compression (c23, c40, raw) comes between part and
video. The data root is a folder that holds lists and frames, or DeepfakeBench itself, with its lists in
preprocessing/dataset_json and its frames in datasets/rgb or datasets/lmdb. Several lists have all videos in
train, those of the test part too, or a copy of a part as validation: what is in the test part counts as test,
and a validation part that is a copy is taken from train instead. A video is named by its label and its name,
which the four manipulations of a pair share. SCLBD/DeepfakeBench, 8a4a7bf.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from loaders.datasets.frame_paths import (
    ListedFolder,
    as_path,
    locate,
    pair_groups,
    parse_prefixes,
    require_known_places,
    sequences,
)
from loaders.datasets.json_files import read_json
from loaders.datasets.metadata import FolderIndex, listed_once, new_clip, no_metadata
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip.frame_folders import STORE, frame_names
from utils.clip_type import Clip
from utils.errors import DatasetError, UsageError
from utils.names import brief

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
LISTS = ("", "dataset_json", "preprocessing/dataset_json")  # folders below the data root
FRAMES = ("", "rgb", "datasets/rgb", "lmdb", "datasets/lmdb")
OWN_ROOT = re.compile(r"(datasets/)?((rgb|lmdb)/)?")  # of DeepfakeBench, before some paths
COMPRESSIONS = ("c23", "c40", "raw")  # the first that is there is the default
REAL = re.compile(r".*real", re.IGNORECASE)
FAKE = re.compile(r".*fake[ab]?|FF-(DF|F2F|FS|NT|FH)", re.IGNORECASE)
CELEBRITY = re.compile(r"(?P<target>id\d+)(_(?P<source>id\d+))?_\d+")
CELEBRITIES_OVERLAP = (
    "Celeb-DF's official test part shows celebrities of its train part; use it to test across data sets"
)
ACTOR = re.compile(r"(?P<target>\d{2})(_(?P<source>\d{2}))?__.+")


@dataclasses.dataclass(frozen=True)
class _Video:
    where: str
    label_name: str
    label: int
    name: str
    part: str
    folder: ListedFolder
    frames: tuple[str, ...]


def list_deepfakebench(data_root: Path, config: ListingConfig) -> Listing:
    """All videos of one list of a DeepfakeBench tree.

    Raises DatasetError that names list and entry, or says which --path_prefix to give.
    """
    path = _find_list(data_root, config.list_name)
    videos, compressions = _read_list(path, data_root, config)
    videos = _each_in_one_part(videos, path)
    folders = FolderIndex(data_root)
    places = {video.folder.path: _place(data_root, folders, video.folder.path) for video in videos}
    lost = [video.folder for video in videos if places[video.folder.path] is None]
    if lost:
        found = {path for path, place in places.items() if place}
        require_known_places("deepfakebench", data_root, lost, len(videos), found)
    groups = pair_groups(video.name for video in videos if video.label_name.startswith("FF-"))
    clips = []
    for video in videos:
        folder = places[video.folder.path] or data_root / video.folder.path
        clips.append((video.where, _make_clip(video, folder, groups)))
    celebrities = any(video.label_name.startswith("CelebDF") for video in videos)
    return select_clips(
        "deepfakebench",
        data_root,
        list(listed_once(clips)),
        config,
        variants=compressions,
        unlisted=(),
        donor_rule="keep" if celebrities else "drop",
        known_overlap=CELEBRITIES_OVERLAP if celebrities else "",
    )


def _find_list(root: Path, name: str) -> Path:
    """The list that --list_name chooses. Raises DatasetError without any, UsageError if it is unclear."""
    found: dict[str, Path] = {}
    for place in LISTS:
        for path in sorted((root / place).glob("*.json")):
            found.setdefault(path.stem, path)
    found.pop("generated", None)
    if not found:
        raise no_metadata(root, *(f"{place}/NAME.json".lstrip("/") for place in LISTS))
    if name and name not in found:
        raise UsageError(f"--list_name {name}: there are {', '.join(found)}")
    if not name and len(found) > 1:
        raise UsageError(f"{root} has several lists: give --list_name, one of {', '.join(found)}")
    return found[name or next(iter(found))]


def _read_list(path: Path, root: Path, config: ListingConfig) -> tuple[list[_Video], tuple[str, ...]]:
    """The videos of a list in the chosen compression, and the compressions that it has."""
    content = read_json(path, dict)
    (only,) = content.values() if len(content) == 1 else (None,)
    inner = content.get(path.stem, only)
    if not isinstance(inner, dict) or not inner:
        raise DatasetError(
            f"{path}: expected {{{path.stem!r}: {{label: ...}}}}, its keys are {brief(list(content))}"
        )
    entries = list(_entries(path, inner))
    found = {compression for *_, compression, _ in entries if compression}
    compressions = tuple(sorted(found, key=COMPRESSIONS.index))
    chosen = config.variant_of("deepfakebench", compressions)
    prefixes = parse_prefixes(config.path_prefix)
    videos = []
    for label_name, part, name, compression, entry in entries:
        if compression != chosen:
            continue
        where = f"{path}, {label_name}, {part}, {name}"
        paths = [as_path(text) for text in _frame_paths(where, entry)]
        if len(places := {frame.parent for frame in paths}) != 1:
            raise DatasetError(f"{where}: its frames lie in {len(places)} folders, expected one")
        own = OWN_ROOT.sub("", places.pop().as_posix(), count=1)
        folder = locate(own, where, prefixes, root)
        frames = frame_names(frame.name for frame in paths)
        if len(set(frames)) != len(paths):
            raise DatasetError(f"{where}: a frame is listed twice, or is no PNG or JPEG file")
        label = _class_of(label_name, path)
        if _class_of(str(entry.get("label", label_name)), path) != label:
            raise DatasetError(f"{where}: the video's own label is {brief(entry['label'])}")
        videos.append(_Video(where, label_name, label, name, part, folder, frames))
    return videos, compressions


def _entries(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, Any]]:
    """(label name, part, video, compression or "", entry)."""
    for label_name, parts in content.items():
        for part in PARTS:
            videos = _as_dict(parts, f"{path}, {label_name}").get(part) or {}
            videos = _as_dict(videos, f"{path}, {label_name}, {part}")
            levels = {name: videos[name] for name in COMPRESSIONS if name in videos} or {"": videos}
            for compression, named in levels.items():
                where = f"{path}, {label_name}, {part}, {compression}"
                for name, entry in _as_dict(named, where).items():
                    yield label_name, part, name, compression, entry


def _as_dict(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: expected a JSON object, found {brief(value)}")
    return value


def _frame_paths(where: str, entry: object) -> list[str]:
    frames = entry.get("frames") if isinstance(entry, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(name, str) for name in frames):
        raise DatasetError(f"{where}: expected {{'label': ..., 'frames': [path, ...]}}, found {brief(entry)}")
    return frames


def _class_of(label_name: str, path: Path) -> int:
    """0 or 1 by the end of a label's name. Raises DatasetError for an unknown one."""
    if REAL.fullmatch(label_name):
        return 0
    if FAKE.fullmatch(label_name):
        return 1
    raise DatasetError(
        f"{path}: the label {brief(label_name)} does not say whether it is real or fake: rename it to end in "
        "_real or _fake"
    )


def _each_in_one_part(videos: list[_Video], path: Path) -> list[_Video]:
    """Without copies of videos in other parts: test comes first, and a copied validation part is left out."""
    in_part: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for video in videos:
        in_part[video.part].add((video.label_name, video.name))
    if shared := in_part["val"] & (in_part["test"] | in_part["train"]):
        log.warning(
            "deepfakebench: %s: %d of %d validation videos are in another part, too: its validation part is "
            "left out, and one is taken from train",
            *(path, len(shared), len(in_part["val"])),
        )
        videos = [video for video in videos if video.part != "val"]
    if shared := in_part["train"] & in_part["test"]:
        text = "deepfakebench: %s: %d of %d training videos are in the test part, too: they count as test"
        log.warning(text, path, len(shared), len(in_part["train"]))
    return [v for v in videos if v.part != "train" or (v.label_name, v.name) not in in_part["test"]]


def _place(root: Path, folders: FolderIndex, path: PurePosixPath) -> Path | None:
    """The folder of a video, in one of FRAMES or in a store; None if it is not there."""
    for base in FRAMES:
        if place := folders.find(PurePosixPath(base) / path):
            return place
        store = root / base / f"{path.parts[0]}_lmdb"
        if os.path.isfile(store / STORE):  # noqa: PTH113 (once for each video)
            return store / path
    return None


def _make_clip(video: _Video, folder: Path, groups: Mapping[str, str]) -> Clip:
    target, source = _persons(video)
    kind = "clip" if not target else "family" if video.label_name.startswith("FF-") else "person"
    clip = new_clip(
        "deepfakebench",
        f"{video.label_name}/{video.name}",
        folder,
        (video.label, None),
        category=video.label_name if video.label else "real",
        method=video.label_name,
        person=target or f"clip {video.label_name}/{video.name}",
        identity_is=kind,
        donors=(source,),
        group=groups.get(target, ""),
        split=video.part,
    )
    return dataclasses.replace(clip, frames=video.frames)


def _persons(video: _Video) -> tuple[str, str]:
    """(person on screen, donor), as far as the name tells."""
    if video.label_name.startswith("FF-"):
        return sequences(video.name)
    match = CELEBRITY.fullmatch(video.name) or ACTOR.fullmatch(video.name)
    if match is None:
        return "", ""
    prefix = "actor" if match.re is ACTOR else ""
    return prefix + match["target"], prefix + match["source"] if match["source"] else ""
