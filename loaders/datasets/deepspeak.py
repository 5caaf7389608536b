"""DeepSpeak v1, v1.1 and v2: annotations to clips.

`annotations-real.csv` and `annotations-fake.csv` name files without folders, `annotations-split-def.csv` the
part of each person. The zip parts are unpacked into folders of any name (`features/features_mtcnn` in the
published code): a clip folder is found by its name alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import (
    as_id,
    find_by_name,
    inside,
    new_clip,
    parse_id,
    read_rows,
    require_file,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips, tally
from utils.clip_type import Clip
from utils.errors import DatasetError

log = logging.getLogger(__name__)

REAL_CSV, FAKE_CSV, SPLIT_CSV = "annotations-real.csv", "annotations-fake.csv", "annotations-split-def.csv"
FAKE_COLUMNS = ("video-file", "kind", "engine", "identity-source", "identity-target")
KINDS = ("face-swap", "lip-sync", "avatar")
CLONED_VOICES = ("elevenlabs", "playht", "speechify")
GENUINE_VOICES = ("real", "original", "genuine")


def list_deepspeak(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared DeepSpeak tree.

    Raises DatasetError where root, annotations or clips are not as expected, or two clip folders have the
    same name.
    """
    for name in (REAL_CSV, FAKE_CSV, SPLIT_CSV):
        require_file(data_root / name, "of DeepSpeak; all three annotation files are needed")
    split_of = _read_split(data_root / SPLIT_CSV)
    clips: dict[str, Clip] = {}
    unknown: Counter[str] = Counter()
    num_duplicates = 0
    for where, clip, voice in (*_read_real(data_root, split_of), *_read_fake(data_root, split_of)):
        name = clip.folder.name
        if clip.split is None:
            person = clip.identity.removeprefix("deepspeak/")
            raise DatasetError(f"{where}: identity {person} is not listed in {SPLIT_CSV}")
        if clips.setdefault(name, clip) != clip:
            raise DatasetError(f"{where}: {name} is already listed with other values")
        if clips[name] is not clip:
            num_duplicates += 1
        elif clip.audio_label is None:
            unknown[f"{clip.category} with audio-config {voice!r}:"] += 1
    if num_duplicates:
        log.info("deepspeak: %d rows list a file again with the same values", num_duplicates)
    if unknown:
        log.info(
            "deepspeak: it is unknown whether the voice of %d fakes is cloned (%s)",
            *(unknown.total(), tally(unknown)),
        )
    folders = find_by_name(data_root, clips)
    listed = [replace(clip, place=str(folders.get(name, clip.place))) for name, clip in clips.items()]
    return select_clips("deepspeak", data_root, listed, config)


def _read_split(path: Path) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for line, row in read_rows(path, ("identity", "split")):
        identity = parse_id(row["identity"], f"{path}, line {line}")
        split = row["split"].lower()
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


def _read_real(root: Path, split_of: dict[str, str]) -> Iterator[tuple[str, Clip, str]]:
    """(file and line, clip, its audio-config) of each row; the clip's folder is not found yet."""
    for line, row in read_rows(root / REAL_CSV, ("video-file", "identity")):
        where = f"{root / REAL_CSV}, line {line}"
        name, person = _file_name(row["video-file"], where), parse_id(row["identity"], where)
        if not person:
            raise DatasetError(f"{where}: the row has no identity")
        split = split_of.get(person)
        clip = new_clip(
            *("deepspeak", name, root / name, (0, 0)),
            category="real",
            person=person,
            identity_is="person",
            pair=name,
            split=split,
        )
        yield where, clip, ""


def _read_fake(root: Path, split_of: dict[str, str]) -> Iterator[tuple[str, Clip, str]]:
    for line, row in read_rows(root / FAKE_CSV, FAKE_COLUMNS):
        where = f"{root / FAKE_CSV}, line {line}"
        kind = row["kind"].lower().replace("_", "-").replace(" ", "-")
        if kind not in KINDS:
            raise DatasetError(f"{where}: unknown kind {row['kind']!r}, expected one of {', '.join(KINDS)}")
        name, target = _file_name(row["video-file"], where), parse_id(row["identity-target"], where)
        if not target:
            raise DatasetError(f"{where}: the row has no identity-target")
        recording, voice = as_id(row.get("recording-target", "")), row.get("audio-config", "")
        clip = new_clip(
            "deepspeak",
            name,
            root / name,
            (1, _audio_label(kind, voice)),  # the picture of every fake is forged
            category=kind,
            method=row["engine"] or "unknown",
            person=target,
            identity_is="person",
            donors=(parse_id(row["identity-source"], where),),
            pair=f"{target}-{recording}" if recording else target,
            split=split_of.get(target),
        )
        yield where, clip, voice


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
