"""One video or clip folder as a job, and how its files get to their place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from utils.clip.files import AUDIO_NAMES, INFO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.clip.packed import FEATURES
from utils.errors import ClipError
from utils.files import PARTIAL_SUFFIX, sync
from utils.names import is_litter

PARTIAL_NAME = ".partial"
CLIP_FILES = (VIDEO_NAME, *AUDIO_NAMES, LANDMARKS_NAME, INFO_NAME)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video or clip folder."""

    name: str  # path relative to the root, with "/": the same on every machine
    source: Path
    folder: Path  # the clip folder
    sound: Path | None = None  # separate file with the video's sound
    problem: str = ""  # why it cannot even be begun; it counts as failed
    scratch: Path = Path()  # empty folder of the worker on the same file system, removed after the job
    within: Path | None = None  # the raw root, if links must not lead out of it

    @property
    def effort(self) -> float:
        """Cost of a frame relative to the usual one; see preprocess/work/limits.py."""
        return 1.0

    @property
    def local_source(self) -> Path | None:
        """The video, or None if it must be downloaded first."""
        return self.source

    def require_within(self) -> None:
        """Raise ClipError if a link leads the video or its sound out of `within`."""
        if self.within is not None:
            for path in filter(None, (self.source, self.sound)):
                require_within(self.within / path, self.within)  # an absolute path stays what it is

    def install(self, name: str) -> None:
        """Move one finished file from the scratch folder to the clip folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sync(self.scratch / name)
        (self.scratch / name).replace(self.folder / name)
        sync(self.folder)

    def install_folder(self) -> None:
        """Make the scratch folder the clip folder, in place of an older one."""
        for path in [*self.scratch.iterdir(), self.scratch]:
            sync(path)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self.remove_folder()
            try:
                self.scratch.rename(self.folder)
                break
            except OSError as error:
                # a worker on a node that was believed dead was faster: its clip has the same bytes
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        sync(self.folder.parent)

    def remove_folder(self) -> None:
        """Remove an older clip folder by renaming it first, so that nobody ever sees half of it.

        Raises ClipError if it is not a clip folder.
        """
        if os.path.lexists(self.folder):
            require_clip_folder(self.folder)
            old = self.scratch.with_name(f"{self.scratch.name}_old")
            self.folder.rename(old)
            shutil.rmtree(old)


def require_within(path: Path, root: Path) -> None:
    """Raise ClipError if links lead from a path below `root` out of it.

    A data set from a stranger may hold links to files that are not theirs to give.
    """
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if real != real_root and not real.startswith(f"{real_root.rstrip(os.sep)}{os.sep}"):
        raise ClipError(path, f"a link leads out of {root}, to {real}; --allow_links accepts such files")


def require_clip_folder(folder: Path) -> None:
    """Raise ClipError if the folder holds a file that no command here writes: it may be the only copy."""
    if folder.is_symlink() or not folder.is_dir():
        raise ClipError(folder, f"{folder} already exists but is not a clip folder; move it away")
    derived = folder / FEATURES
    names = [path.name if path.is_file() else f"{path.name}/" for path in folder.iterdir() if path != derived]
    if derived.is_dir():
        names += [f"{FEATURES}{path.name}" for path in derived.iterdir()]
    require_clip_names(folder, names)


def require_clip_names(folder: PurePath, names: Iterable[str]) -> None:
    """Raise ClipError if one of the names in a folder is not that of a clip's file."""
    for name in sorted(names):
        # from the clip's other files, and goes with them
        is_derived = name.startswith(FEATURES) and name.endswith((".npy", ".json", PARTIAL_SUFFIX))
        if name not in CLIP_FILES and not is_derived and not is_litter(name.rstrip("/")):
            raise ClipError(
                str(folder),
                f"{folder} holds {name}, which does not belong to a clip; move it away, or choose another "
                "--output",
            )
