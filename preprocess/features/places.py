"""The prepared clips that features are made of, in folders or below a URL.

A clip below a URL is fetched into a temporary folder, only the files that the backbone reads, and its
features are uploaded next to it, .json first: rows that are there are whole.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.backbones.backbone import Backbone
from preprocess.work.batch import Batch, find_folders
from preprocess.work.jobs import CLIP_FILES, Job
from preprocess.work.stores import StoredJob, open_store
from utils.clip.features import FeatureInfo, read_info, write_features
from utils.clip.files import AUDIO_NAMES, INFO_NAME, LANDMARKS_NAME, VIDEO_NAME, read_info_values
from utils.errors import ClipError, DatasetError

SUFFIXES = (".json", ".npy")  # of a clip's features, in the order in which they are written


@dataclass(frozen=True, kw_only=True)
class StoredClip(StoredJob):
    """A prepared clip below a URL, whose features go to the same place."""

    files: tuple[str, ...]  # that lie there, features left out


def find_clips(data_root: str) -> Batch:
    """The clip folders below a path or URL, as Jobs or StoredClips. Raises DatasetError if there is none."""
    store = open_store(data_root)
    if (folder := store.local_path()) is not None:
        return find_folders(folder)
    found: dict[Path, list[str]] = {}
    for path in store.files():
        if path.name in CLIP_FILES:
            found.setdefault(path.parent, []).append(path.name)
    if not found:
        raise DatasetError(f"{store}: no clip folder in it; make some with preprocess.prepare")
    jobs = [
        StoredClip(
            name=folder.as_posix(),
            source=folder,
            folder=folder,
            raw=store,
            prepared=store,
            files=tuple(sorted(files)),
        )
        for folder, files in sorted(found.items())
    ]
    return Batch(jobs=jobs, output=store)


def folder_jobs(folders: Iterable[Path]) -> list[Job]:
    """Clip folders of this machine as jobs that are called by their paths."""
    return [Job(name=str(folder), source=folder, folder=folder) for folder in folders]


@contextlib.contextmanager
def opened(job: Job, backbone: Backbone, name: str, like: FeatureInfo) -> Iterator[Path | None]:
    """The clip's folder on this machine, with what `backbone` reads and the older features "features/NAME".

    None if these lie at a URL and were made as `like`, from the files that clip.json lists: then nothing
    large is fetched. Raises StoreError if the store does not answer.
    """
    if not isinstance(job, StoredClip):
        yield job.folder
        return
    with tempfile.TemporaryDirectory(dir=job.scratch) as temporary:
        folder, older = Path(temporary), [f"{name}{suffix}" for suffix in SUFFIXES]
        has_older = all(job.prepared.size(job.folder / file) is not None for file in older)
        _fetch(job, [file for file in (INFO_NAME,) if file in job.files], folder)
        if has_older:
            _fetch(job, older[:1], folder)
            if _is_made(folder, name, like):
                yield None
                return
            _fetch(job, older[1:], folder)
        wanted = [VIDEO_NAME, LANDMARKS_NAME] if backbone.sees else []
        wanted += AUDIO_NAMES if backbone.hears else []
        _fetch(job, [file for file in wanted if file in job.files], folder)
        yield folder


def _fetch(job: StoredClip, names: Iterable[str], folder: Path) -> None:
    for name in names:
        job.prepared.fetch(job.folder / name, (folder / name).parent)


def _is_made(folder: Path, name: str, like: FeatureInfo) -> bool:
    with contextlib.suppress(ClipError):
        info, known = read_info(folder, name), read_info_values(folder).get("files", {})
        sources = {info.source: info.source_sha256, **info.more_sources}
        return info.recipe() == like.recipe() and sources.items() <= known.items()
    return False


def install_features(job: Job, name: str, rows: npt.NDArray[np.float32], info: FeatureInfo) -> None:
    """Write `rows` (S, D) as "features/NAME" of the clip. Raises StoreError if the store does not answer."""
    if not isinstance(job, StoredClip):
        write_features(job.folder, name, rows, info)
        return
    with tempfile.TemporaryDirectory(dir=job.scratch) as folder:
        write_features(Path(folder), name, rows, info)
        job.prepared.remove(job.folder / f"{name}.npy")  # older ones; as write_features does
        for file in (f"{name}{suffix}" for suffix in SUFFIXES):
            job.prepared.write(job.folder / file, Path(folder, file).read_bytes(), job.scratch)
