"""Generated clips: the mark that travels from a generated data set to every verdict of what it trained.

preprocess.demo writes `demo_manifest.json` into its raw set, and preprocess.prepare `generated.json` into the
prepared one. Packs copy that file, loaders read it, and train.py stores the names of such data sets in every
checkpoint ("generated_sets"). Pages, pictures and JSON of these checkpoints, and of audits and evaluations on
such clips, then carry the caveat.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.files import file_sha256
from utils.names import parse_json

MANIFEST_NAME = "demo_manifest.json"  # at the root of a raw set of preprocess.demo
MARK_NAME = "generated.json"  # at the root of a prepared set or a pack
TRAINED = "trained on generated clips: says nothing about real videos"


def mark() -> bytes:
    """The content of `generated.json`."""
    note = "Some or all clips here are generated: detectors trained on them know nothing of real videos."
    return (json.dumps({"generated_by": "preprocess.demo", "note": note}, indent=1) + "\n").encode()


def caveat_of(generated_sets: Sequence[str] | None, num_generated: int = 0, num_clips: int = 0) -> str:
    """What to say of results of a checkpoint with such `generated_sets` (None: unknown); "" if nothing.

    num_generated: how many of the evaluated clips are generated.
    """
    return TRAINED if generated_sets else caveat_of_clips("tested", num_generated, num_clips)


def caveat_of_clips(done: str, num_generated: int, num_clips: int) -> str:
    """What to say of what was `done` with clips, some of them generated; "" if none is."""
    if not num_generated:
        return ""
    if num_generated == num_clips:
        return f"{done} on generated clips: says nothing about real videos"
    return (
        f"{done} on {num_clips} clips, {num_generated} of them generated: these say nothing about real videos"
    )


def finder() -> Callable[[Path], bool]:
    """A function that says whether what lies in a folder is of a generated set, raw or prepared.

    That is so if the folder or one above it is marked, as its path is written or where links lead. Each
    folder is looked at once.
    """

    @functools.cache
    def look(folder: Path) -> bool:
        if any((folder / name).is_file() for name in (MARK_NAME, MANIFEST_NAME)):
            return True
        if folder.is_symlink() and look(folder.resolve()):
            return True
        return folder.parent != folder and look(folder.parent)

    return lambda folder: look(folder.absolute())


def is_demo_video(video: Path) -> bool:
    """Whether a raw video is, byte for byte, one of the demo set that it lies in."""
    video = video.absolute()
    for folder in video.parents:
        manifest = folder / MANIFEST_NAME
        if manifest.is_file():
            try:
                known = parse_json(manifest.read_bytes())["files"].get(video.relative_to(folder).as_posix())
                return bool(known == file_sha256(video))
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                return False
    return False
