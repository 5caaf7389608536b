"""What a raw data set looks like: which files of it are videos, and which metadata belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.errors import DatasetError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """Globs are relative to the root, with `**` for any depth."""

    videos: tuple[str, ...]
    metadata: tuple[str, ...] = ()  # copied to OUTPUT; each must be there
    root_names: tuple[str, ...] = ()  # folders that may lie between --source and the root


SOURCES = {
    "fakeavceleb": RawDataset(
        videos=(
            "RealVideo-RealAudio/**/*.mp4",
            "RealVideo-FakeAudio/**/*.mp4",
            "FakeVideo-RealAudio/**/*.mp4",
            "FakeVideo-FakeAudio/**/*.mp4",
        ),
        metadata=("meta_data.csv",),
        root_names=("FakeAVCeleb_v1.2", "FakeAVCeleb"),
    ),
}


def find_root(dataset: str, source: Path) -> Path:
    """The data set's root: `source` itself, or a folder of the data set's own name in it.

    Raises DatasetError if `source` does not exist or a metadata file is missing.
    """
    raw = SOURCES[dataset]
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; --source is where the raw {dataset} lies")
    roots = [source, *(source / name for name in raw.root_names)]
    for root in roots:
        if all((root / name).is_file() for name in raw.metadata) and (raw.metadata or root.is_dir()):
            return root
    raise DatasetError(
        f"{source}: {' and '.join(raw.metadata)} of {dataset} is neither there nor in"
        f" {' or '.join(raw.root_names)}; --source must be the folder that the data set was unpacked to"
    )


def find_videos(dataset: str, root: Path) -> list[Path]:
    """All videos of the data set below its root, relative to it, sorted. Raises DatasetError if none."""
    raw = SOURCES[dataset]
    videos = sorted({path.relative_to(root) for glob in raw.videos for path in root.glob(glob)})
    if not videos:
        raise DatasetError(f"{root}: no video there; {dataset} has {', '.join(raw.videos)}")
    return videos
