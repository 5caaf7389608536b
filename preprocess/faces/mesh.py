"""The 478 landmarks of one face in an image: MediaPipe Face Mesh with the irises."""

from __future__ import annotations

from preprocess.faces.fast_graphs import FastMesh
from preprocess.faces.solutions import Image, Landmarks, SolutionMesh, use_solutions


class FaceMesh:
    """Face Mesh that follows one face from image to image.

    Use one per track, so that no track sees another's past. The models are those of
    mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True).
    """

    def __init__(self) -> None:
        self._mesh = SolutionMesh() if use_solutions() else FastMesh()

    def __call__(self, image: Image) -> Landmarks | None:
        """(478, 2) float32, x and y as shares of the width and height of (H, W, 3); None without a face."""
        return self._mesh(image)

    def forget(self) -> None:
        """Search the whole next image for a face, wherever the last one was."""
        self._mesh.forget()
