"""MediaPipe's face models through its own solutions, and the switch to the faster graphs.

By default faces are found by preprocess/faces/fast_graphs.py, which uses private names of MediaPipe. With
PLAIN_MEDIAPIPE=1 in the environment they are found by the solutions in this file: the same values (tested bit
by bit), but a third more time for Face Mesh. Use it if another version of MediaPipe breaks the fast graphs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from utils.errors import require_packages

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Landmarks = npt.NDArray[np.float32]  # (478, 2) x, y

Made = TypeVar("Made")
_importing = threading.Lock()


class Box(NamedTuple):
    """A detected face, in shares of the image's width and height."""

    left: float
    top: float
    width: float
    height: float
    score: float


def use_solutions() -> bool:
    """Whether PLAIN_MEDIAPIPE asks for MediaPipe's own solutions."""
    return os.environ.get("PLAIN_MEDIAPIPE", "0") not in ("", "0")


class OncePerThread(Generic[Made]):
    """A decorator: what a function of a text makes is kept, for each text and thread.

    Loading a network takes as long as a dozen images, and none can be used by two threads at a time.
    """

    def __init__(self, make: Callable[[str], Made]) -> None:
        self._make, self._kept = make, threading.local()
        functools.update_wrapper(self, make)

    def __call__(self, text: str) -> Made:
        kept = vars(self._kept)
        if text not in kept:
            kept[text] = self._make(text)
        return kept[text]

    def forget(self) -> None:
        """Make all things of this thread again when they are asked for."""
        vars(self._kept).clear()


@contextlib.contextmanager
def quiet_native_code() -> Iterator[None]:
    """Discard what C++ libraries write to stderr: MediaPipe announces each graph it builds there."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def import_mediapipe() -> Any:
    """The package mediapipe, imported late and without its log output.

    What it offers besides graphs (`solutions`, `tasks`) is imported when asked for: matplotlib and sound
    devices come with it, a second for each worker, where the graphs take a twentieth of that.
    """
    require_packages(["mediapipe"], "preprocessing")
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _importing:
        if "mediapipe" not in sys.modules:
            spec = importlib.util.find_spec("mediapipe")
            assert spec is not None  # it is required above
            package = importlib.util.module_from_spec(spec)
            sys.modules["mediapipe"] = package  # its folders, without what its __init__ imports
            graphs = importlib.import_module("mediapipe.python")
            vars(package).update({name: value for name, value in vars(graphs).items() if name[0] != "_"})
            package.__getattr__ = _import_part  # type: ignore[method-assign]
    return sys.modules["mediapipe"]


def _import_part(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("mediapipe")
    parts = {"solutions": "mediapipe.python.solutions", "tasks": "mediapipe.tasks.python"}
    if name not in parts:
        raise AttributeError(f"module 'mediapipe' has no attribute {name!r}")
    return importlib.import_module(parts[name])


class SolutionMesh:
    """Face Mesh with the irises, following one face: the plain twin of FastMesh."""

    takes_alpha = False

    def __init__(self) -> None:
        with quiet_native_code():
            self._solution = import_mediapipe().solutions.face_mesh.FaceMesh(refine_landmarks=True)

    def __call__(self, image: Image) -> Landmarks | None:
        faces = self._solution.process(np.ascontiguousarray(image)).multi_face_landmarks
        return np.array([(p.x, p.y) for p in faces[0].landmark], np.float32) if faces else None

    def forget(self) -> None:
        with quiet_native_code():
            self._solution.reset()


class SolutionDetection:
    """Full-range face detection in single images: the plain twin of FastDetection."""

    def __init__(self) -> None:
        with quiet_native_code():
            self._solution = import_mediapipe().solutions.face_detection.FaceDetection(model_selection=1)

    def __call__(self, image: Image) -> list[Box]:
        return to_boxes(self._solution.process(np.ascontiguousarray(image)).detections or [])


def to_boxes(detections: Iterable[Any]) -> list[Box]:
    """What MediaPipe's Detection messages say."""
    boxes = []
    for detection in detections:
        box = detection.location_data.relative_bounding_box
        boxes.append(Box(box.xmin, box.ymin, box.width, box.height, detection.score[0]))
    return boxes
