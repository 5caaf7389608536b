"""What preprocess.prepare would write, with empty files: enough for tests that read names only."""

from __future__ import annotations

import shutil
from pathlib import Path

from preprocess.work.batch import InputConfig, find_jobs
from tests.trees.base import RawTree
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME


def touch_clip(folder: Path, audio_name: str = AUDIO_NAME) -> Path:
    """A clip folder with empty files."""
    folder.mkdir(parents=True)
    for name in (VIDEO_NAME, audio_name, LANDMARKS_NAME):
        (folder / name).touch()
    return folder


def prepare_empty(tree: RawTree, output: Path, *only: str) -> Path:
    """Clip folders of a raw tree, where prepare puts them, and its metadata."""
    batch = find_jobs(InputConfig(dataset=tree.dataset, source=tree.source, output=output, only=only))
    for job in batch.jobs:
        touch_clip(job.folder)
    for name in batch.metadata:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(batch.raw.path / name, output / name)
    return output
