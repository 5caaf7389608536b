"""KoDF: metadata or file names to clips.

Three layouts are read: AI-Hub's (Korean folders and tables, parts 1.Training and 2.Validation), that of the
international distribution (`original_videos`, `synthesized_videos`, no table), and that of the published
Beyond-Masking code (`validate_meta_data/real.csv` and `fake.csv`). Names are compared in NFC.

AI-Hub's parts are the split: Training is train, Validation is test (validation clips are drawn from train).
If only one part is there, or a person on screen is in both, the split is drawn by person instead.

No voice in KoDF is forged, so `audio_label` is always 0: lip-synchronised fakes (`audio-driven`) have a real
voice, and many clips are silent, above all those of `fsgan`. preprocess.prepare lists videos without a sound
track as failures; with --allow_silent it gives them a silent wav.

Perturbed clips (`train_탐지방해`, `validate_탐지방해`) are left out and counted in the log: no table says
whom they show, so they could not be kept in the part of their originals.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from loaders.datasets.metadata import (
    FolderIndex,
    as_id,
    inside,
    new_clip,
    no_metadata,
    parse_id,
    read_rows,
    require_file,
)
from loaders.listing import Listing, ListingConfig, select_clips, tally
from utils.clip_type import Clip
from utils.errors import DatasetError, IncompleteError

log = logging.getLogger(__name__)

METHODS = ("dfl", "dffs", "fsgan", "fo", "audio-driven")
PARTS = {"train": "train", "validate": "test"}  # prefix of AI-Hub's folders -> our split
# kind of AI-Hub's tables and folders (real, fake) -> the column of the person, and columns of its own
TABLES = {"원본": ("UUID",), "변조": ("타겟UUID", "타겟영상", "변조모델")}
PUBLISHED_COUNTS = {  # AI-Hub part -> (real, fake)
    "train": (49_419, 139_951),
    "validate": (6_093, 16_894),
}
# <target>_<source>_<method code>_<number>; persons are 20 hexadecimal or six decimal digits
PERSON = r"[0-9a-f]{20}|\d{6}"
FAKE_NAME = re.compile(rf"({PERSON})_({PERSON})_(\d)_(\w+)", re.IGNORECASE)
REAL_NAME = re.compile(rf"({PERSON})_(\w+)", re.IGNORECASE)


def list_kodf(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared KoDF tree.

    Raises DatasetError where root, metadata or names are not as expected, or if there is no real or no fake
    clip.
    """
    released = [
        root
        for root in (data_root, data_root / "features_mtcnn")
        if any((root / "validate_meta_data" / name).is_file() for name in ("real.csv", "fake.csv"))
    ]
    folders = FolderIndex(data_root)
    if released:
        clips = _list_released(released[0])
    elif {"original_videos", "synthesized_videos"} & folders.entries(str(data_root)).keys():
        clips = _list_international(folders)
    else:
        clips = _list_aihub(folders)
    unique = {clip.clip_id: clip for clip in reversed(clips)}
    if len(unique) < len(clips):
        log.info("kodf: %d rows list a clip again; its first row counts", len(clips) - len(unique))
    for label, kind in ((0, "real"), (1, "fake")):
        if not any(clip.label == label for clip in clips):
            raise IncompleteError(f"{data_root}: {len(clips)} clips are listed, but none of them is {kind}")
    return select_clips("kodf", data_root, list(reversed(unique.values())), config)


def _clip(name: str, folder: Path, *, method: str, person: str, sex: str = "", **fields: Any) -> Clip:
    """A clip; `fields` as new_clip takes them."""
    fake, person = method != "real", person.lower()
    # who drove a fake or lent the face, where its name says so
    match = FAKE_NAME.fullmatch(name.rpartition("/")[2])
    donor = match[2].lower() if fake and match and match[1].lower() == person else ""
    return new_clip(
        "kodf",
        name,
        folder,
        (int(fake), 0),
        category=method,
        person=person,
        identity_is="person",
        donors=() if donor == person else (donor,),
        stratum=sex or "unknown",
        **fields,
    )


def _dashed(text: str) -> str:
    return text.lower().replace("_", "-")


def _method(text: str, origin: str) -> str:
    method = _dashed(text.strip())
    if method not in METHODS:
        raise DatasetError(f"{origin}: unknown method {text!r}, expected one of {', '.join(METHODS)}")
    return method


# ---------------------------------------------------------------------------------------------------- AI-Hub


def _list_aihub(folders: FolderIndex) -> list[Clip]:
    found = _find_folders(folders)
    parts = [part for part in PARTS if f"{part}_meta_data" in found]
    if not parts:
        raise no_metadata(
            folders.root,
            "train_meta_data or validate_meta_data (AI-Hub, up to three folders deep)",
            "original_videos and synthesized_videos",
            "validate_meta_data/real.csv",
        )
    clips = [clip for part in parts for kind in TABLES for clip in _list_table(folders, part, kind, found)]
    in_both = set.intersection(*({c.identity for c in clips if c.split == PARTS[part]} for part in parts))
    if len(parts) == 1 or in_both:
        why = f"{len(in_both)} persons are in Training and in Validation"
        if len(parts) == 1:
            why = f"only the part {parts[0]} is there"
        log.warning("kodf: %s: the official split cannot be used, a split is drawn by person", why)
        clips = [replace(clip, split=None) for clip in clips]
    nameless = sum(clip.label == 1 and not FAKE_NAME.fullmatch(_stem(clip.clip_id)) for clip in clips)
    if nameless:
        log.warning("kodf: the names of %d fakes do not say who lent the face", nameless)
    return clips


def _find_folders(folders: FolderIndex) -> dict[str, PurePosixPath]:
    """Name of a folder -> where it is, at most three folders below the root."""
    found: dict[str, PurePosixPath] = {}
    num_perturbed: Counter[str] = Counter()
    level = [PurePosixPath()]
    for _ in range(3):
        level = [below for place in level for below in _walk(folders, place, 1)]
        for place in level:
            found.setdefault(place.name, place)
            if place.name.endswith("_탐지방해"):
                num_perturbed[place.name] += len(_walk(folders, place, 3))
        level = [place for place in level if not place.name.startswith(("train_", "validate_"))]
    if num_perturbed:
        log.info(
            "kodf: %d perturbed clips left out (%s): no table says whom they show",
            *(num_perturbed.total(), ", ".join(num_perturbed)),
        )
    return found


def _list_table(
    folders: FolderIndex, part: str, kind: str, found: dict[str, PurePosixPath]
) -> Iterator[Clip]:
    """The clips of a part's table of one kind."""
    tables_at = found[f"{part}_meta_data"]
    path = _table(folders, tables_at, kind)
    clips_at = found.get(f"{part}_{kind}", tables_at.with_name(f"{part}_{kind}"))
    places: dict[str, list[PurePosixPath]] = defaultdict(list)  # name of a clip -> its folders
    for place in _walk(folders, clips_at, 3):
        places[place.name].append(place)
    person_column, *others = TABLES[kind]
    for line, row in read_rows(path, ("영상ID", person_column, "인물성별", *others)):
        origin = f"{path}, line {line}"
        stem, person = _stem(row["영상ID"], origin), parse_id(row[person_column], origin)
        if not person:
            raise DatasetError(f"{origin}: {person_column} is empty")
        named = stem.partition("_")[0]
        if named.lstrip("0") == person.lstrip("0"):  # a spreadsheet drops leading zeros
            person = named
        method, pair, own = "real", "", places[stem]
        if kind == "변조":
            method = _method(row["변조모델"], origin)
            if original := row["타겟영상"]:
                pair = f"{part}/real/{person}/{_stem(original, origin)}"
            own = [place for place in own if _dashed(place.parts[-3]).startswith(method)]
        # the tables do not say in which folder a clip is (원본1, fsgan2, ...): if possible, its person's
        expected = clips_at / ("원본" if method == "real" else method) / person / stem
        place = min(own, key=lambda place: place.parts[-2] != person, default=expected)
        yield _clip(
            f"{part}/{method}/{person}/{stem}",
            folders.clip_folder(place),
            method=method,
            person=person,
            pair=pair,
            sex=row["인물성별"],
            split=PARTS[part],
        )


def _table(folders: FolderIndex, place: PurePosixPath, kind: str) -> Path:
    folder = folders.clip_folder(place)
    entries = folders.entries(str(folder))
    names = sorted(name for name in entries if name.startswith(kind) and name.endswith(".csv"))
    if len(names) != 1:
        found = ", ".join(names or sorted(entries)) or "nothing"
        raise DatasetError(f"{folder}: expected one {kind}영상_..._메타데이터.csv, found {found}")
    return folder / entries[names[0]]


def _walk(folders: FolderIndex, top: PurePosixPath, depth: int) -> list[PurePosixPath]:
    """All folders exactly `depth` levels below `top`, sorted."""
    level = [top]
    for _ in range(depth):
        level = [
            place / name
            for place in level
            for name in sorted(folders.entries(str(folders.clip_folder(place))))
        ]
    return level


def _stem(name: str, origin: str = "kodf") -> str:
    """The name of a clip without folders and suffix."""
    path = inside(name, origin)
    return path.name[: -len(path.suffix)] if path.suffix.lower() == ".mp4" else path.name


# --------------------------------------------------------------------------- the international distribution


def _list_international(folders: FolderIndex) -> list[Clip]:
    """`original_videos/<person>/<clip>` and `synthesized_videos/<method>/<date>/<target>/<clip>`."""
    clips: list[Clip] = []
    other_code: Counter[str] = Counter()
    for top, depth, pattern, form in (
        ("original_videos", 2, REAL_NAME, "<number>"),
        ("synthesized_videos", 4, FAKE_NAME, "<source person>_<code>_<number>"),
    ):
        for place in _walk(folders, PurePosixPath(top), depth):
            person, stem = place.parts[-2:]
            match = pattern.fullmatch(stem)
            if not match or match[1].lower() != person.lower():
                raise DatasetError(f"{folders.root / place}: expected the name {person}_{form}")
            method = "real"
            if pattern is FAKE_NAME:
                method = _method(place.parts[1], str(folders.root / place))
                other_code[method] += METHODS.index(method) + 1 != int(match[3])
            clips.append(_clip(place.as_posix(), folders.clip_folder(place), method=method, person=person))
    if other_code.total():
        log.warning(
            "kodf: the names of %d clips have another method code than their folder (%s); the folder counts",
            *(other_code.total(), tally(other_code)),
        )
    return clips


# -------------------------------------------------------------------------------------- the published code's


def _list_released(root: Path) -> list[Clip]:
    """The published code's layout, which has the Validation part only and no split by person."""
    folders = FolderIndex(root)
    clips = []
    path = require_file(root / "validate_meta_data" / "real.csv", "the published code's list of real clips")
    for line, row in read_rows(path, ("영상ID",)):
        stem = _stem(row["영상ID"], f"{path}, line {line}")
        person = stem.partition("_")[0]
        places = [PurePosixPath(top, person, stem) for top in ("원본1", "원본2")]
        found = next((place for place in places if folders.find(place)), places[0])
        name = f"validate/real/{person}/{stem}"
        clips.append(_clip(name, folders.clip_folder(found), method="real", person=person))
    path = require_file(root / "validate_meta_data" / "fake.csv", "the published code's list of fakes")
    for line, row in read_rows(path, ("folder", "folder2", "filename")):
        origin = f"{path}, line {line}"
        stem = _stem(row["filename"], origin)
        number = as_id(row["folder2"]) or "0"  # a table read as numbers makes "3.0" of it
        if not number.isdecimal() or len(number) > 9:
            raise DatasetError(f"{origin}: folder2 is {row['folder2']!r}, expected a number or nothing")
        place = inside(f"{row['folder']}/{int(number)}/{stem}", origin)
        if len(place.parts) != 3:
            raise DatasetError(f"{origin}: folder is {row['folder']!r}, expected the name of a folder")
        method = _method(place.parts[0].rstrip("0123456789"), origin)  # folders are fsgan1, fsgan2, ...
        person = stem.partition("_")[0]
        name = f"validate/{method}/{person}/{stem}"
        clips.append(_clip(name, folders.clip_folder(place), method=method, person=person))
    return clips
