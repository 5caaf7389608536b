"""The clips of a data set without metadata: what is prepared, and what could not be."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import inside, nfc, read_rows, require_folder, without_suffix
from utils.clip.files import AUDIO_NAMES, LANDMARKS_NAME, VIDEO_NAME
from utils.clip.packed import walk
from utils.errors import DatasetError

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
            if folder == root:
                raise DatasetError(f"{root}: holds a clip's files itself; a clip lies in a folder of its own")
            found[PurePosixPath(nfc(folder.relative_to(root).as_posix()))] = folder
    for failures in root.glob("failures*.csv"):
        for line, row in read_rows(failures, ("path", "reason")):
            path = without_suffix(inside(row["path"], f"{failures}, line {line}"))
            found.setdefault(path, root / path)
    return dict(sorted(found.items()))
