"""The clips of a data set without metadata: what is prepared, and what could not be."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from loaders.metadata import nfc, read_rows, require_folder, without_suffix
from utils.clip_files import AUDIO_NAMES, LANDMARKS_NAME, VIDEO_NAME
from utils.errors import DatasetError
from utils.pack import walk

_CLIP_FILES = {VIDEO_NAME, LANDMARKS_NAME, *AUDIO_NAMES}


def walk_clips(root: Path) -> dict[PurePosixPath, Path]:
    """Path below `root` (in NFC) -> clip folder, in the order of the paths, which no file system changes.

    A folder counts if it holds any file of a clip. Videos that preprocess.prepare lists in
    `root`/failures*.csv count too: their folders are not there, so that the listing reports them as missing.
    """
    require_folder(root)
    found: dict[PurePosixPath, Path] = {}
    for folder, subfolders, files in walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if not _CLIP_FILES.isdisjoint(files):
            found[PurePosixPath(nfc(folder.relative_to(root).as_posix()))] = folder
    for failures in root.glob("failures*.csv"):
        for line, row in read_rows(failures, ("path", "reason")):
            path = without_suffix(PurePosixPath(row["path"]))
            if path.is_absolute() or ".." in path.parts:
                raise DatasetError(f"{failures}, line {line}: names a path outside the data root: {path}")
            found.setdefault(path, root / path)
    return dict(sorted(found.items()))
