"""IDForge v1: lists of paths without a header, `<type>/<person>/<source video>/<shot>.mp4`.

`train.csv`, `val.csv` and `test.csv` (in `IDForge_v1/` or in the root; the clips in `main/` or in the root).
The type says what was done: face and lip change the picture, tts and rvc the sound; audiomismatch is the
genuine sound of another recording, so whether the sound counts as forged is left open. Texts that do not fit
(textgen, textmismatch) are a forgery that no audio-visual detector can see: results are told by type. One
file name may be in several types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from loaders.datasets.metadata import FolderIndex, inside, listed_once, new_clip, no_metadata, without_suffix
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.files import read_lines
from utils.names import brief

PARTS = ("train", "val", "test")
# type -> labels of picture and sound; the repository's table of forgeries
TYPES: dict[str, tuple[int, int | None]] = {
    "pristine": (0, 0),
    "face_audiomismatch_textmismatch": (1, None),
    "face_rvc_textmismatch": (1, 1),
    "face_tts": (1, 1),
    "face_tts_textgen": (1, 1),
    "lip_audiomismatch_textmismatch": (1, None),
    "lip_rvc_textmismatch": (1, 1),
    "lip_tts_textgen": (1, 1),
    "rvc_textmismatch": (0, 1),
    "tts_textgen": (0, 1),
    "tts_textmismatch": (0, 1),
}
SHOT = re.compile(r"id\d+_scene_\d+")  # begins a file's name; methods and numbers of takes follow


def list_idforge(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared IDForge v1 tree; the reference set is not part of it.

    Raises DatasetError where root, lists or clips are not as expected.
    """
    clips = list(listed_once(_read_lists(data_root)))
    return select_clips("idforge", data_root, clips, config)


def _read_lists(root: Path) -> Iterator[tuple[str, Clip]]:
    lists = {root / folder / f"{part}.csv": part for part in PARTS for folder in ("", "IDForge_v1")}
    there = {path: part for path, part in lists.items() if path.exists()}
    if not there:
        raise no_metadata(root, *(path.relative_to(root).as_posix() for path in lists))
    folders = FolderIndex(root / "main" if (root / "main").is_dir() else root)
    for path, part in there.items():
        for where, line in read_lines(path):
            yield where, _make_clip(folders, part, where, line)


def _make_clip(folders: FolderIndex, part: str, where: str, line: str) -> Clip:
    path = without_suffix(inside(line.strip("\",'"), where))
    if path.parts[0] == "main":
        path = path.relative_to("main")
    if len(path.parts) != 4 or path.parts[0] not in TYPES:
        raise DatasetError(
            f"{where}: expected <type>/<person>/<source video>/<shot>.mp4 with a type of {', '.join(TYPES)}, "
            f"found {brief(line)}"
        )
    kind, person, video, name = path.parts
    shot = SHOT.match(name)
    return new_clip(
        "idforge",
        path,
        folders.clip_folder(path),
        TYPES[kind],
        category=kind,
        person=person,
        identity_is="person",
        pair=f"{person}/{video}/{shot[0] if shot else name}",
        split=part,
        source_video=f"{person}/{video}",
    )
