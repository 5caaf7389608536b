"""What raw data sets look like: which of their files are videos, where their sound lies, which metadata they
have.

A data set may come in several layouts (releases, distributions, mirrors): the first one that fits is used.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from utils.errors import DatasetError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True, kw_only=True)
class RawLayout:
    """Globs are relative to the root and in Unicode form NFC; `**` stands for any number of folders."""

    videos: tuple[str, ...]
    metadata: tuple[str, ...] = ()  # globs of files that are copied to OUTPUT; each must match one
    optional_metadata: tuple[str, ...] = ()  # the same, but they may be absent
    root_names: tuple[str, ...] = ()  # folders that may lie between --source and the root
    # video -> where the sound of a silent video may lie, best first
    side_sounds: Callable[[PurePosixPath], tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """What a root holds. Paths are relative to it, as they are spelled on disk."""

    root: Path
    videos: list[Path]
    sounds: dict[Path, Path]  # video -> its sound in a file of its own
    metadata: list[Path]


def _dfdc(needed: str) -> RawLayout:
    """DFDC with the metadata `needed` and whichever other of its parts are there."""
    parts = tuple(f"{above}dfdc_train_part_*/" for above in ("", "*/", "train/*/"))
    metadata = (*(f"{part}metadata.json" for part in parts), "validation/labels.csv", "test/labels.csv")
    return RawLayout(
        videos=(*(f"{part}*.mp4" for part in parts), "validation/*.mp4", "test/*.mp4"),
        metadata=(needed,),
        optional_metadata=metadata,
        root_names=("DFDC", "dfdc"),
    )


def _beside_avi(video: PurePosixPath) -> tuple[str, ...]:
    """DeepfakeTIMIT's wav files are called like the video or like the sentence, <sentence>-video-<donor>."""
    sentence = video.stem.split("-video-")[0]
    return tuple(video.with_name(f"{stem}.wav").as_posix() for stem in (video.stem, sentence))


SOURCES: dict[str, tuple[RawLayout, ...]] = {
    "celebdf": (
        RawLayout(
            videos=tuple(
                f"{folder}/**/*.mp4"
                for folder in ("Celeb-real", "YouTube-real", "Youtube-real", "Celeb-synthesis")
            ),
            metadata=("List_of_testing_videos.txt",),
            root_names=("Celeb-DF-v2", "Celeb-DF-v1", "Celeb-DF"),
        ),
    ),
    "deepfaketimit": (
        RawLayout(
            videos=(
                "higher_quality/*/*.avi",
                "lower_quality/*/*.avi",
                "low_quality/*/*.avi",
                *(f"real/*/*{suffix}" for suffix in VIDEO_SUFFIXES),
            ),
            root_names=("DeepfakeTIMIT",),
            side_sounds=_beside_avi,
        ),
    ),
    "dfdc": tuple(
        map(_dfdc, ("**/dfdc_train_part_*/metadata.json", "validation/labels.csv", "test/labels.csv"))
    ),
    "dfdc_preview": (
        RawLayout(
            videos=("original_videos/**/*.mp4", "method_*/**/*.mp4"),
            metadata=("dataset.json",),
            root_names=("dfdc_preview_set",),
        ),
    ),
    "fakeavceleb": (
        RawLayout(
            videos=(
                "RealVideo-RealAudio/**/*.mp4",
                "RealVideo-FakeAudio/**/*.mp4",
                "FakeVideo-RealAudio/**/*.mp4",
                "FakeVideo-FakeAudio/**/*.mp4",
            ),
            metadata=("meta_data.csv",),
            root_names=("FakeAVCeleb_v1.2", "FakeAVCeleb"),
        ),
    ),
    "ravdess": (
        RawLayout(videos=("**/Actor_*/01-*.mp4",), root_names=("RAVDESS",)),
        RawLayout(videos=("video/01-*.mp4",), root_names=("RAVDESS",)),  # 2D3MF's
    ),
}


def read_raw_dataset(dataset: str, source: Path) -> RawDataset:
    """Find a data set's files below `source`, or below a folder of its own name in it.

    Raises DatasetError if `source` does not exist, no layout fits, or there is no video.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; --source is where the raw {dataset} lies")
    without_videos: list[str] = []
    for layout in SOURCES[dataset]:
        for root in (source, *(source / name for name in layout.root_names)):
            if not root.is_dir() or not all(_matches(root, glob) for glob in layout.metadata):
                continue
            files = {nfc(path): path for path in _files_below(root)}
            is_video = any_of(layout.videos)
            videos = sorted(path for name, path in files.items() if is_video(name))
            if not videos:
                without_videos.append(f"{root} has no video; {dataset} has {', '.join(layout.videos)}")
                continue
            is_metadata = any_of(layout.metadata + layout.optional_metadata)
            return RawDataset(
                root=root,
                videos=videos,
                sounds=_side_sounds(layout, videos, files),
                metadata=sorted(path for name, path in files.items() if is_metadata(name)),
            )
    if without_videos:
        raise DatasetError("; ".join(without_videos))
    wanted = " or ".join(" and ".join(layout.metadata or layout.videos) for layout in SOURCES[dataset])
    names = sorted({name for layout in SOURCES[dataset] for name in layout.root_names})
    raise DatasetError(
        f"{source}: {wanted} of {dataset} is neither there nor in {' or '.join(names)}; --source must be the "
        "folder that the data set was unpacked to"
    )


def nfc(path: Path) -> str:
    """A path with "/" between its parts, in Unicode form NFC."""
    return unicodedata.normalize("NFC", path.as_posix())


@cache
def _files_below(root: Path) -> list[Path]:
    """All files below `root`, relative to it; links to folders are followed."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        found += [relative / name for name in files]
    return found


def _matches(root: Path, glob: str) -> bool:
    if not set(glob) & set("*?["):
        return (root / glob).is_file() or (root / unicodedata.normalize("NFD", glob)).is_file()
    is_match = any_of((glob,))
    return any(is_match(nfc(path)) for path in _files_below(root))


def any_of(globs: tuple[str, ...]) -> Callable[[str], object]:
    """A test whether a relative path matches one of the globs; case counts."""
    if not globs:
        return lambda name: False
    patterns = []
    for glob in globs:
        pattern = ""
        for part in re.split(r"(\*\*/|\*|\?)", glob):
            pattern += {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
        patterns.append(pattern)
    return re.compile("|".join(patterns)).fullmatch


def _side_sounds(layout: RawLayout, videos: list[Path], files: dict[str, Path]) -> dict[Path, Path]:
    if layout.side_sounds is None:
        return {}
    sounds = {}
    for video in videos:
        candidates = layout.side_sounds(PurePosixPath(nfc(video)))
        place = next((files[name] for name in candidates if name in files), None)
        if place is not None:
            sounds[video] = place
    return sounds
