"""Which networks find faces and their 478 landmarks: `--landmark_backend`, one interface for all.

- solutions: Face Mesh with the irises and full-range Face Detection of mediapipe 0.10.21, the last release
  with `mediapipe.solutions`; it wants NumPy 1 and Python 3.12 at most.
- mesh: the same networks, run by LiteRT without mediapipe (lite.py).
- landmarker: Face Landmarker's network, which replaced Face Mesh in current MediaPipe, and the same
  full-range detector, by LiteRT, too: twice the time of Face Mesh, and landmarks that differ by 1 to 2 %.
- auto: the first of these that is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from preprocess.faces.fast_graphs import FastDetection, FastMesh
from preprocess.faces.lite import LiteDetection, LiteMesh
from preprocess.faces.model_files import MODEL_FILES, find_model
from preprocess.faces.solutions import (
    Box,
    Image,
    Landmarks,
    SolutionDetection,
    SolutionMesh,
    use_solutions,
)
from utils.config import opt
from utils.errors import UsageError, require_packages
from utils.files import file_sha256

log = logging.getLogger(__name__)

Config = TypeVar("Config", bound=Any)

BACKENDS = ("auto", "solutions", "mesh", "landmarker")
# of mediapipe's wheel, below the package
_SOLUTIONS_FILES = (
    "modules/face_detection/face_detection_full_range_sparse.tflite",
    "modules/face_detection/face_detection_short_range.tflite",
    "modules/face_landmark/face_landmark_with_attention.tflite",
)


class FaceMesh(Protocol):
    """Landmarks of one face, followed from image to image."""

    takes_alpha: bool  # whether images may have a fourth channel, and are then turned in less time

    def __call__(self, image: Image) -> Landmarks | None:
        """(H, W, 3) -> (478, 2) float32, x and y as shares of width and height; None without a face."""
        ...

    def forget(self) -> None:
        """Search the whole next image."""
        ...


class Detection(Protocol):
    """Faces of single images."""

    def __call__(self, image: Image) -> list[Box]: ...


def backend_flag() -> Any:
    """The field of a config that chooses the backend."""
    return opt(
        "auto",
        "what finds faces: MediaPipe's solutions; mesh, the same networks without mediapipe; landmarker, "
        "current MediaPipe's network; auto: the first that is installed",
        choices=BACKENDS,
    )


def with_backend(config: Config) -> Config:
    """A config that names its backend instead of "auto", so that all workers and nodes use the same."""
    return dataclasses.replace(config, landmark_backend=resolve_backend(config.landmark_backend))


@functools.cache
def resolve_backend(backend: str) -> str:
    """The backend that "auto" stands for, or the one that is asked for.

    Raises UsageError with the command that installs it if this environment lacks the backend.
    """
    if backend == "solutions" or (backend == "auto" and has_solutions()):
        if not has_solutions():
            raise UsageError(
                "--landmark_backend solutions needs mediapipe.solutions: pip install mediapipe==0.10.21"
            )
        return "solutions"
    require_packages({"ai_edge_litert": "ai-edge-litert"}, f"--landmark_backend {backend}")
    if backend == "auto":
        try:
            return resolve_backend("mesh")
        except UsageError as error:
            found = resolve_backend("landmarker")
            log.warning("faces are found by landmarker, whose landmarks differ by 1 to 2 %%: %s", error)
            return found
    for model in MODEL_FILES[backend]:
        find_model(model)
    return backend


def resolve_like(backend: str, trained: Collection[str]) -> str:
    """`resolve_backend`, but "auto" is the one backend of the training clips if this environment has it."""
    if backend == "auto" and len(trained) == 1 and (own := next(iter(trained))) in BACKENDS:
        with contextlib.suppress(UsageError):
            return resolve_backend(own)
    return resolve_backend(backend)


def has_solutions() -> bool:
    """Whether a mediapipe with `solutions` is installed."""
    return _mediapipe_folder() is not None


def _mediapipe_folder() -> Path | None:
    """Where a mediapipe with `solutions` is installed."""
    spec = importlib.util.find_spec("mediapipe")
    folders = () if spec is None else spec.submodule_search_locations or ()
    return next((Path(folder) for folder in folders if (Path(folder) / "python/solutions").is_dir()), None)


@functools.cache
def model_checksums(backend: str) -> dict[str, str]:
    """File name -> sha256 of the networks of a backend."""
    if (name := resolve_backend(backend)) in MODEL_FILES:
        return {model.name: model.sha256 for model in MODEL_FILES[name]}
    folder = _mediapipe_folder()
    assert folder is not None  # it was found above
    return {Path(file).name: file_sha256(folder / file) for file in _SOLUTIONS_FILES}


def backend_packages(backend: str) -> tuple[str, ...]:
    """The packages whose versions a clip's landmarks depend on."""
    return ("mediapipe",) if resolve_backend(backend) == "solutions" else ("ai-edge-litert",)


def new_face_mesh(backend: str = "auto") -> FaceMesh:
    """Face Mesh with the irises that follows one face.

    Use one per track, so that no track sees what another has seen. The models of "solutions" are those of
    mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True).
    """
    if (name := resolve_backend(backend)) != "solutions":
        return LiteMesh(name)
    return SolutionMesh() if use_solutions() else FastMesh()


def new_detection(backend: str = "auto") -> Detection:
    """Full-range face detection, which keeps no state between images."""
    if resolve_backend(backend) != "solutions":
        return LiteDetection()
    return SolutionDetection() if use_solutions() else FastDetection()
