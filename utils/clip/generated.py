"""Generated clips: the mark that travels from a generated data set to every verdict of what it trained.

preprocess.demo writes `demo_manifest.json` into its raw set, and preprocess.prepare `generated.json` into the
prepared one. Packs copy that file, loaders read it, and train.py stores the names of such data sets in every
checkpoint ("generated_sets"). Pages, pictures and JSON of these checkpoints then carry the caveat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from utils.files import file_sha256
from utils.names import parse_json

MANIFEST_NAME = "demo_manifest.json"  # at the root of a raw set of preprocess.demo
MARK_NAME = "generated.json"  # at the root of a prepared set or a pack
TRAINED = "trained on generated clips: says nothing about real videos"
TESTED = "tested on generated clips: says nothing about real videos"


def mark() -> bytes:
    """The content of `generated.json`."""
    note = "Some or all clips here are generated: detectors trained on them know nothing of real videos."
    return (json.dumps({"generated_by": "preprocess.demo", "note": note}, indent=1) + "\n").encode()


def caveat_of(generated_sets: Sequence[str] | None, *, is_tested_on: bool = False) -> str:
    """What to say of results of a checkpoint with such `generated_sets` (None: unknown); "" if nothing.

    is_tested_on: the evaluated clips are generated.
    """
    return TRAINED if generated_sets else TESTED if is_tested_on else ""


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
