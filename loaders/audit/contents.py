"""Checksums of the files that no clip.json describes, as in folders that other tools prepared.

Only files that could be equal are read: of one size, then with one beginning, in several splits.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.clip.files import VIDEO_NAME, find_audio
from utils.clip.frame_folders import frame_sizes, read_frame
from utils.clip.packed import FRAMES_NAME, Member, find_member
from utils.clip.sound import read_waveform
from utils.clip_type import Clip
from utils.errors import ClipError
from utils.files import file_sha256
from utils.run.progress import map_files

BEGINNING = 1 << 16  # bytes
SILENCE = 1e-5  # -100 dB; all silent sounds of one length are equal


@dataclass(frozen=True)
class _File:
    clip_id: str
    kind: str
    path: Path
    member: Member | None  # in a pack
    size: int
    is_known: bool  # its checksum is in clip.json
    frames: tuple[str, ...] | None = None  # `path` is a folder of frames

    def beginning(self) -> bytes:
        if self.frames:
            return hashlib.sha256(read_frame(self.path, self.frames[0])).digest()
        with self.member.open() if self.member else self.path.open("rb") as file:
            return hashlib.sha256(file.read(BEGINNING)).digest()

    def checksum(self) -> str:
        """Hex sha256; "" for silence."""
        if self.frames:
            digest = hashlib.sha256()
            for name in self.frames:
                digest.update(read_frame(self.path, name))
            return digest.hexdigest()
        if self.kind == "sound" and _is_silent(self.path):
            return ""
        return file_sha256(self.member.open() if self.member else self.path)


def unknown_checksums(
    clips: Sequence[Clip],
    split_of: Mapping[str, str],
    known: Mapping[str, Mapping[str, str]],
) -> Iterator[tuple[str, str, str]]:
    """(clip id, kind of file, sha256) of files that are in none of `known` and may be in several splits.

    known: clip id -> the checksums in its clip.json by kind ("picture", "sound").
    """
    if all("picture" in checksums for checksums in known.values()):
        return
    found = map_files(
        lambda clip: _files(clip, "picture" in known[clip.clip_id]), list(clips), "sizes of files"
    )
    files = [file for of_clip in found for file in of_clip]
    files = _in_several(files, [file.size for file in files], split_of)
    files = _in_several(files, list(map_files(_File.beginning, files, "beginnings of files")), split_of)
    files = [file for file in files if not file.is_known]
    digests = map_files(_File.checksum, files, "checksums of files")
    for file, digest in zip(files, digests, strict=True):
        if digest:
            yield file.clip_id, file.kind, digest


def _in_several(files: list[_File], keys: Sequence[Hashable], split_of: Mapping[str, str]) -> list[_File]:
    """The files of one kind and key that are in several splits, if one of them has no known checksum."""
    groups: dict[Hashable, list[_File]] = defaultdict(list)
    for file, key in zip(files, keys, strict=True):
        groups[file.kind, file.size, key].append(file)
    return [
        file
        for group in groups.values()
        if len({split_of[file.clip_id] for file in group}) > 1 and not all(file.is_known for file in group)
        for file in group
    ]


def _files(clip: Clip, is_known: bool) -> list[_File]:
    """The picture and the sound of a clip, as far as they are there and not empty."""
    clip_id, folder = clip.clip_id, clip.folder
    if clip.frames is not None:
        size = sum(frame_sizes(folder, clip.frames).values())
        return [_File(clip_id, "picture", folder, None, size, is_known, clip.frames)]
    found = []
    places: tuple[tuple[str, Callable[[], Path]], ...] = (
        ("picture", lambda: folder / VIDEO_NAME),
        ("sound", lambda: find_audio(folder)),
    )
    for kind, place in places:
        try:
            path = place()
            member = find_member(path)
            if member is None and kind == "picture":
                member = find_member(path.with_name(FRAMES_NAME))  # packed as decoded frames
            size = member.size if member else path.stat().st_size
            if not (member or path.is_file()):
                continue
        except (ClipError, OSError):  # it is not there: whoever needs it will say so
            continue
        if size:
            found.append(_File(clip_id, kind, path, member, size, is_known))
    return found


def _is_silent(path: Path) -> bool:
    try:
        waveform = read_waveform(path, 16_000)
    except ClipError:  # no sound, but equal bytes are equal
        return False
    return not len(waveform) or bool(np.abs(waveform).max() <= SILENCE)
