"""Your own data: a table, two folders, or text lists.

manifest.csv    columns path and label, and any of OPTIONAL; one row per video, paths relative to the root;
                an index column, which pandas adds, is ignored
train.txt, val.txt, test.txt, or train_real.txt, train_fake.txt and so on (the lists of "Exposing the
                Deception"): lines `label,path` or `label,path,frames`; prefixes of another machine are
                dropped
real/, fake/    without a table: each clip folder in them is a clip

Labels are 1, true or fake; 0, false or real. Empty cells are unknown, except what follows from the rest: a
real clip has a real picture and real sound, and a fake with a real picture has fake sound.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import (
    LABELS,
    FolderIndex,
    Segments,
    as_segments,
    inside,
    is_index,
    listed_once,
    new_clip,
    nfc,
    no_metadata,
    parse_id,
    parse_label,
    read_rows,
    separator_hint,
    walk_clips,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import EMOTIONS, Clip
from utils.errors import DatasetError
from utils.files import read_lines
from utils.names import brief

log = logging.getLogger(__name__)

TABLE = "manifest.csv"
REQUIRED = ("path", "label")
OPTIONAL = (
    *("video_label", "audio_label", "identity", "source_id", "target_id", "method", "category", "split"),
    *("video_fake_segments", "audio_fake_segments", "emotion"),
)
PARTS = ("train", "val", "test")
# (video_label, audio_label) -> category
CATEGORIES: dict[tuple[int | None, int | None], str] = {
    (1, 0): "fake-video",
    (0, 1): "fake-audio",
    (1, 1): "fake-video-audio",
}


@dataclass(frozen=True, kw_only=True)
class _Entry:
    where: str  # file and line
    path: PurePosixPath  # of the clip folder, relative to the root
    values: dict[str, str]  # column -> text, "" for an empty cell


def list_manifest(data_root: Path, config: ListingConfig) -> Listing:
    """All clips that a table, text lists or two folders in `data_root` name.

    Raises DatasetError that says file, line, what was expected and what was found.
    """
    names = [f"{part}{kind}.txt" for part in PARTS for kind in ("", "_real", "_fake")]
    lists = [data_root / name for name in names if (data_root / name).is_file()]
    folders = FolderIndex(data_root)
    if (data_root / TABLE).is_file():
        entries = list(_read_table(data_root / TABLE))
    elif lists:
        entries = [entry for path in lists for entry in _read_list(path, folders)]
    else:
        entries = _read_folders(data_root)
    clips = list(listed_once((entry.where, _make_clip(folders, entry)) for entry in entries))
    without = [entry.where for entry in entries if not entry.values.get("split")]
    if 0 < len(without) < len(entries):
        raise DatasetError(
            f"{without[0]}: no split, although other clips have one; fill in the column for all clips or for "
            "none"
        )
    nameless = sum(not (entry.values.get("identity") or entry.values.get("target_id")) for entry in entries)
    if nameless:
        log.warning(
            "manifest: %d of %d clips have no identity: each counts as a person of its own, so clips of one "
            "person may be in several splits",
            *(nameless, len(entries)),
        )
    return select_clips("manifest", data_root, clips, config)


def _read_table(path: Path) -> Iterator[_Entry]:
    for line, row in read_rows(path, REQUIRED):
        where = f"{path}, line {line}"
        if unknown := {name for name in row.keys() - {*REQUIRED, *OPTIONAL} if not is_index(name)}:
            raise DatasetError(
                f"{path}, line 1: unknown column {', '.join(map(repr, sorted(unknown)))}; known are "
                f"{', '.join((*REQUIRED, *OPTIONAL))}"
            )
        if row.get("split") and row["split"] not in PARTS:
            raise DatasetError(f"{where}: split is {row['split']!r}, expected {', '.join(PARTS)}")
        yield _Entry(where=where, path=without_suffix(inside(row["path"], where)), values=row)


def _read_list(path: Path, folders: FolderIndex) -> Iterator[_Entry]:
    """Lines `label,path[,frames]`; the file's name says the part and perhaps the class."""
    part, _, kind = path.stem.partition("_")
    lines: list[tuple[str, str, PurePosixPath]] = []
    for where, line in read_lines(path):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) not in (2, 3) or not fields[1]:
            found = f"{line!r}{separator_hint(line)}"
            raise DatasetError(f"{where}: expected label,path or label,path,frames, got {found}")
        if kind and parse_label(fields[0], where) != LABELS[kind]:
            raise DatasetError(f"{where}: label {fields[0]} in a list of {kind} videos")
        # a path may come from another machine, with its root
        name = without_suffix(PurePosixPath(nfc(fields[1]).replace("\\", "/").lstrip("/")))
        lines.append((where, fields[0], inside(name.as_posix(), where)))
    prefix = _foreign_prefix([name for _, _, name in lines], folders)
    if prefix:
        log.info("manifest: %s: its paths are read without %s", path, "/".join(prefix))
    for where, label, name in lines:
        own = PurePosixPath(*name.parts[len(prefix) :]) if name.parts[: len(prefix)] == prefix else name
        yield _Entry(where=where, path=own, values={"label": label, "split": part})


def _foreign_prefix(names: list[PurePosixPath], folders: FolderIndex) -> tuple[str, ...]:
    """The leading folders to drop from all paths of a list so that one of them is found below the root.

    As few as possible; () if no prefix helps.
    """
    for length in range(max((len(name.parts) for name in names), default=0)):
        for name in names:
            if len(name.parts) > length and folders.find(PurePosixPath(*name.parts[length:])) is not None:
                return name.parts[:length]
    return ()


def _read_folders(root: Path) -> list[_Entry]:
    if not ((root / "real").is_dir() and (root / "fake").is_dir()):
        raise no_metadata(root, TABLE, *(f"{part}.txt" for part in PARTS), "real/ and fake/")
    entries: list[_Entry] = []
    for label in ("real", "fake"):
        clips = walk_clips(root / label)
        if not clips:
            raise DatasetError(f"{root / label}: no clip folder in it; make them with preprocess.prepare")
        for path, folder in clips.items():
            entries.append(_Entry(where=str(folder), path=label / path, values={"label": label}))
    return entries


def _read_segments(entry: _Entry, column: str) -> Segments | None:
    """((0.5, 1.2), (3, 4)) in seconds for "0.5-1.2;3-4", None for an empty cell."""
    text = entry.values.get(column, "")
    if not text:
        return None
    spans = [span.split("-") for span in text.rstrip("; ").split(";")]
    try:
        return as_segments(spans, f"{entry.where}, {column}")
    except DatasetError as error:
        raise DatasetError(f"{error}; write them as 0.5-1.2;3-4") from error


def _part_labels(entry: _Entry, label: int) -> tuple[int | None, int | None]:
    """(video_label, audio_label) as the row says or implies."""
    parts: list[int | None] = []
    for modality in ("video", "audio"):
        text, column = entry.values.get(f"{modality}_label", ""), f"{modality}_fake_segments"
        part = parse_label(text, entry.where, f"{modality}_label") if text else None
        if entry.values.get(column):
            if part == 0 or label == 0:
                raise DatasetError(
                    f"{entry.where}: {column} is filled in, but the {modality} is labelled real"
                )
            part = 1
        parts.append(part)
    if (label == 0 and 1 in parts) or (label == 1 and parts == [0, 0]):
        raise DatasetError(
            f"{entry.where}: label {label} contradicts video_label {parts[0]} and audio_label {parts[1]}; a "
            "clip is fake if its picture or its sound is"
        )
    if label == 0:
        return 0, 0
    if 0 in parts and None in parts:
        parts[parts.index(None)] = 1
    return parts[0], parts[1]


def _make_clip(folders: FolderIndex, entry: _Entry) -> Clip:
    values, name = entry.values, entry.path.as_posix()
    label = parse_label(values["label"], entry.where)
    labels = _part_labels(entry, label)
    method = values.get("method") or ("unknown" if label else "real")
    if label == 0 and method != "real":
        raise DatasetError(f"{entry.where}: a real clip has the method {method!r}; leave it empty")
    default = CATEGORIES.get(labels, "fake") if label else "real"
    emotion = values.get("emotion", "").lower() or None
    if emotion not in (None, *EMOTIONS):
        raise DatasetError(
            f"{entry.where}: emotion is {brief(values['emotion'])}, expected {', '.join(EMOTIONS)}"
        )
    target = parse_id(values.get("target_id", ""), entry.where)
    person = parse_id(values.get("identity", ""), entry.where) or target
    return new_clip(
        "manifest",
        name,
        folders.clip_folder(entry.path),
        labels,
        category=values.get("category") or default,
        method=method,
        person=person or f"clip {name}",
        identity_is="person" if person else "clip",
        target=target,
        donors=[parse_id(name, entry.where) for name in values.get("source_id", "").split(";")],
        split=values.get("split") or None,
        segments=(_read_segments(entry, "video_fake_segments"), _read_segments(entry, "audio_fake_segments")),
        emotion=emotion,
    )
