"""What preprocess.prepare leaves of a raw tree, with empty files: enough for loaders, which read names."""

from __future__ import annotations

import shutil
from pathlib import Path

from preprocess.sources import read_raw_dataset
from utils.clip_files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME


def write_empty_clip(folder: Path, *, audio_name: str = AUDIO_NAME) -> Path:
    """A clip folder whose three files are empty."""
    folder.mkdir(parents=True)
    for name in (VIDEO_NAME, audio_name, LANDMARKS_NAME):
        (folder / name).touch()
    return folder


def prepare_empty(dataset: str, source: Path, output: Path) -> Path:
    """Clip folders of empty files for all videos that prepare would find, and copies of the metadata."""
    raw = read_raw_dataset(dataset, source)
    for video in raw.videos:
        write_empty_clip(output / video.with_suffix(""))
    for name in raw.metadata:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(raw.root / name, output / name)
    return output
