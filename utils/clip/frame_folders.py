"""Folders of frames as clips: PNG or JPEG crops of faces that other tools made, read as they are.

A folder holds the frames of one video, in the order of the numbers in their names. It may also lie in an LMDB
store, a folder with `data.mdb`, whose keys are the paths of the frames and whose values are the files
(DeepfakeBench). There is no sound, no landmark, and no frame rate.
"""

from __future__ import annotations

import functools
import io
import os
import re
import threading
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.clip.files import CROP_SIZE
from utils.errors import ClipError
from utils.names import brief

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")
FRAME_RATE = Fraction(25)  # stands in for the unknown one: times of such clips have no meaning
MAX_SIDE = 8192  # pixels
STORE = "data.mdb"
NUMBER = re.compile(r"\d+")


def frame_names(names: Iterable[str]) -> tuple[str, ...]:
    """The frames among the names in a folder, by their numbers."""
    return tuple(sorted((name for name in names if is_frame(name)), key=_number))


def is_frame(name: str) -> bool:
    """Whether a file is called like a frame."""
    return name.lower().endswith(FRAME_SUFFIXES) and not name.startswith(".")


def _number(name: str) -> tuple[tuple[int, ...], str]:
    return tuple(map(int, NUMBER.findall(name))), name


def find_store(folder: Path) -> Path | None:
    """The LMDB store that a folder of frames would lie in."""
    return _store_above(os.fspath(folder.parent))


@functools.cache
def _store_above(place: str) -> Path | None:
    places = (Path(place), *Path(place).parents)
    return next((folder for folder in places if (folder / STORE).is_file()), None)


class FolderCrop:
    """The frames of a folder as a crop (see utils/clip/frames.py), scaled to CROP_SIZE x CROP_SIZE."""

    fps = FRAME_RATE
    is_equalized = False

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names, self.num_frames = folder, names, len(names)

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(n, CROP_SIZE, CROP_SIZE, 3) uint8 RGB. Raises ClipError that names a frame which is damaged."""
        names = [self.names[index] for index in indices.tolist()]
        return np.stack([_decode(self.folder / name, read_frame(self.folder, name)) for name in names])


def read_frame(folder: Path, name: str) -> bytes:
    """The file of a frame. Raises ClipError if it is not there."""
    store = find_store(folder)
    try:
        if store is None:
            return (folder / name).read_bytes()
        with _environment(os.fspath(store)).begin(buffers=True) as transaction:
            for key in _keys(folder.relative_to(store), name):
                if (value := transaction.get(key)) is not None:
                    return bytes(value)
    except OSError as error:
        raise ClipError(folder / name, f"cannot be read ({error.strerror or brief(str(error))})") from error
    raise ClipError(folder / name, f"is not in {store}")


def frame_sizes(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Name -> bytes of the frames that are there."""
    store = find_store(folder)
    found: dict[str, int] = {}
    try:
        if store is None:
            for name in names:
                try:
                    found[name] = (folder / name).stat().st_size
                except (FileNotFoundError, NotADirectoryError):
                    continue
            return found
        with _environment(os.fspath(store)).begin(buffers=True) as transaction:
            for name in names:
                values = (transaction.get(key) for key in _keys(folder.relative_to(store), name))
                if (value := next((value for value in values if value is not None), None)) is not None:
                    found[name] = len(value)
    except OSError as error:
        raise ClipError(folder, f"cannot be read ({error.strerror or brief(str(error))})") from error
    return found


def _keys(folder: Path, name: str) -> list[bytes]:
    """The keys that a frame of a store may have: made on Windows, on Linux, or with slashes throughout."""
    parts = (*folder.parts, name)
    mixed = f"{parts[0]}\\{'/'.join(parts[1:])}"
    return [key.encode() for key in ("\\".join(parts), mixed, "/".join(parts))]


_stores: dict[str, Any] = {}  # path -> its open environment
_opening = threading.Lock()


def _environment(store: str) -> Any:
    """The open store. Raises OSError."""
    import lmdb

    with _opening:
        if store not in _stores:
            try:
                _stores[store] = lmdb.open(store, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise OSError(f"not a readable LMDB store: {error}") from error
        return _stores[store]


def _close_stores() -> None:
    while _stores:
        _stores.popitem()[1].close()


os.register_at_fork(before=_close_stores)  # a store of a parent can neither be used nor opened again


def _decode(path: Path, content: bytes) -> npt.NDArray[np.uint8]:
    """(CROP_SIZE, CROP_SIZE, 3) uint8 RGB of a PNG or JPEG file. Raises ClipError."""
    import cv2
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as header:
            size = header.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(path, "is not a PNG or JPEG file; make the frame again") from error
    if max(size) > MAX_SIDE:
        raise ClipError(path, f"has {size[0]} x {size[1]} pixels, more than {MAX_SIDE} on a side")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape[1::-1] not in (size, size[::-1]):
        raise ClipError(path, "is a damaged PNG or JPEG file; make the frame again")
    if image.shape[:2] != (CROP_SIZE, CROP_SIZE):
        image = cv2.resize(image, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
