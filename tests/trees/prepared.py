"""Raw trees -> prepared trees whose clip folders hold empty files: enough for everything that only lists."""

from __future__ import annotations

import shutil
from pathlib import Path

from preprocess.sources import read_raw_dataset
from tests.trees.base import RawTree
from utils.clip_files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME


def empty_clip_folder(folder: Path, audio_name: str = AUDIO_NAME) -> Path:
    """A folder with the three files that the listing looks for."""
    folder.mkdir(parents=True)
    for name in (VIDEO_NAME, audio_name, LANDMARKS_NAME):
        (folder / name).touch()
    return folder


def prepare_empty(tree: RawTree, output: Path) -> Path:
    """What preprocess.prepare would make of a raw tree, without a look into its videos."""
    raw = read_raw_dataset(tree.dataset, tree.source)
    for name in raw.videos:
        empty_clip_folder(output / name.with_suffix(""))
    for name in raw.metadata:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(raw.root / name, output / name)
    return output
