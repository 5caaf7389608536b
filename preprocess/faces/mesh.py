"""The 478 landmarks of one face in an image: MediaPipe Face Mesh with the irises."""

from __future__ import annotations

from preprocess.faces.fast_graphs import FastMesh
from preprocess.faces.solutions import SolutionMesh, use_solutions


def new_face_mesh() -> FastMesh | SolutionMesh:
    """Face Mesh that follows one face from image to image.

    mesh(image) is (478, 2) float32, x and y as shares of the width and height of (H, W, 3); None without a
    face. mesh.forget() makes it search the whole next image. Use one per track, so that no track sees what
    another has seen. The models are those of mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True).
    """
    return SolutionMesh() if use_solutions() else FastMesh()
