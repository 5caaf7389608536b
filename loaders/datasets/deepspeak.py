"""DeepSpeak v1, v1.1 and v2: annotations to clips.

`annotations-real.csv` and `annotations-fake.csv` name files without folders, `annotations-split-def.csv` the
part of each person. The zip parts are unpacked into folders of any name (`features/features_mtcnn` in the
published code): a clip folder is found by its name alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from loaders.datasets.metadata import (
    as_id,
    inside,
    new_clip,
    nfc,
    read_rows,
    require_file,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip.packed import packed_clips, walk
from utils.errors import DatasetError
from utils.types import Clip

log = logging.getLogger(__name__)

REAL_CSV, FAKE_CSV, SPLIT_CSV = "annotations-real.csv", "annotations-fake.csv", "annotations-split-def.csv"
FAKE_COLUMNS = ("video-file", "kind", "engine", "identity-source", "identity-target")
KINDS = ("face-swap", "lip-sync", "avatar")
CLONED_VOICES = ("elevenlabs", "playht", "speechify")
GENUINE_VOICES = ("real", "original", "genuine")


class _Row(NamedTuple):
    """What the annotations say about a clip."""

    category: str
    method: str
    identity: str
    source: str  # "" if nobody's
    pair: str
    labels: tuple[int, int | None]
    voice: str  # where it comes from, for the log


def list_deepspeak(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared DeepSpeak tree.

    Raises DatasetError where root, annotations or clips are not as expected, or two clip folders have the
    same name.
    """
    for name in (REAL_CSV, FAKE_CSV, SPLIT_CSV):
        require_file(data_root / name, "of DeepSpeak; all three annotation files are needed")
    split_of = _read_split(data_root / SPLIT_CSV)
    rows: dict[str, _Row] = {}
    num_duplicates = 0
    for where, name, row in (*_read_real(data_root / REAL_CSV), *_read_fake(data_root / FAKE_CSV)):
        if row.identity not in split_of:
            raise DatasetError(f"{where}: identity {row.identity} is not listed in {SPLIT_CSV}")
        if rows.setdefault(name, row) != row:
            raise DatasetError(f"{where}: {name} is already listed with other values")
        num_duplicates += rows[name] is not row
    if num_duplicates:
        log.info("deepspeak: %d rows list a file again with the same values", num_duplicates)
    if unknown := Counter(row.voice for row in rows.values() if row.labels[1] is None):
        voices = ", ".join(f"{voice}: {count}" for voice, count in sorted(unknown.items()))
        log.info(
            "deepspeak: it is unknown whether the voice of %d fakes is cloned (%s)", unknown.total(), voices
        )
    folders = _find_folders(data_root, rows)
    clips = [
        _make_clip(name, folders.get(name, data_root / name), row, split_of) for name, row in rows.items()
    ]
    return select_clips("deepspeak", data_root, clips, config)


def _read_split(path: Path) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for line, row in read_rows(path, ("identity", "split")):
        identity, split = as_id(row["identity"]), row["split"].lower()
        if not identity or split not in {"train", "test"}:
            raise DatasetError(
                f"{path}, line {line}: expected an identity and train or test, got {row['identity']!r} and "
                f"{row['split']!r}"
            )
        if split_of.setdefault(identity, split) != split:
            raise DatasetError(f"{path}, line {line}: identity {identity} is in train and in test")
    if not split_of:
        raise DatasetError(f"{path}: lists no identity")
    return split_of


def _read_real(path: Path) -> Iterator[tuple[str, str, _Row]]:
    """(file and line, name of the clip, values) of each row."""
    for line, row in read_rows(path, ("video-file", "identity")):
        where = f"{path}, line {line}"
        name, identity = _file_name(row["video-file"], where), as_id(row["identity"])
        if not identity:
            raise DatasetError(f"{where}: the row has no identity")
        yield where, name, _Row("real", "real", identity, "", name, (0, 0), "")


def _read_fake(path: Path) -> Iterator[tuple[str, str, _Row]]:
    for line, row in read_rows(path, FAKE_COLUMNS):
        where = f"{path}, line {line}"
        kind = row["kind"].lower().replace("_", "-").replace(" ", "-")
        if kind not in KINDS:
            raise DatasetError(f"{where}: unknown kind {row['kind']!r}, expected one of {', '.join(KINDS)}")
        target, source = as_id(row["identity-target"]), as_id(row["identity-source"])
        if not target:
            raise DatasetError(f"{where}: the row has no identity-target")
        recording, voice = as_id(row.get("recording-target", "")), row.get("audio-config", "")
        yield (
            where,
            _file_name(row["video-file"], where),
            _Row(
                category=kind,
                method=row["engine"] or "unknown",
                identity=target,
                source=source,
                pair=f"{target}-{recording}" if recording else target,
                labels=(1, _audio_label(kind, voice)),  # the picture of every fake is forged
                voice=f"{kind} with audio-config {voice!r}",
            ),
        )


def _file_name(text: str, where: str) -> str:
    return without_suffix(PurePosixPath(inside(text, where).name)).as_posix()


def _audio_label(kind: str, voice: str) -> int | None:
    """1 for a cloned voice, 0 for a genuine one, None where the annotations do not say."""
    voice = voice.lower()
    if any(name in voice for name in CLONED_VOICES):
        return 1
    if voice in GENUINE_VOICES or (kind == "face-swap" and not voice):  # face swaps keep their sound
        return 0
    return None


def _find_folders(root: Path, wanted: Container[str]) -> dict[str, Path]:
    """Name -> the folder of that name, at any depth."""
    found: dict[str, Path] = {}
    for place, subfolders, _ in walk(root):
        for name in sorted([*subfolders, *packed_clips(place)]):
            key = nfc(name)
            if key not in wanted:
                continue
            folder = place / name
            if key in found:
                raise DatasetError(
                    f"{folder} and {found[key]}: two clip folders of one name; the annotations do not say "
                    "which is meant; remove one of them"
                )
            found[key] = folder
        subfolders[:] = sorted(n for n in subfolders if nfc(n) not in wanted and not n.startswith("."))
    return found


def _make_clip(name: str, folder: Path, row: _Row, split_of: dict[str, str]) -> Clip:
    return new_clip(
        "deepspeak",
        name,
        folder,
        row.labels,
        category=row.category,
        method=row.method,
        person=row.identity,
        donors=(row.source,),
        pair=row.pair,
        split=split_of[row.identity],
    )
