"""Face Mesh's network with attention, run by LiteRT, which lacks three of its operations.

MediaPipe adds these operations to TensorFlow Lite. They stand between the two parts of the network, and after
the second: where lips and eyes are, by the landmarks of the whole face (`Landmarks2TransformMatrix`); their
squares, cut from the features (`TransformTensorBilinear`); and their finer landmarks, put back into the face
(`TransformLandmarks`). attention_file.py cuts the file in two there, each part runs as it is, and the
operations are a little arithmetic here, by their definitions in mediapipe/util/tflite/operations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from preprocess.faces.attention_file import cut
from preprocess.faces.network import Network, Values
from preprocess.faces.solutions import Image
from utils.clip.files import NUM_LANDMARKS


class AttentionNetwork:
    """Face Mesh with refined lips, eyes and irises: (192, 192, 3 or 4) -> landmarks and a logit."""

    def __init__(self, content: bytes) -> None:
        first, second, self._operations = cut(content)
        self._whole, self._parts = Network(first), Network(second)
        self.side = self._whole.side
        across, down = np.meshgrid(*[np.arange(self._operations.square) + 0.5] * 2)
        self._pixels = np.stack([across.ravel(), down.ravel(), np.ones(across.size)])  # (3, P) centres

    def __call__(self, image: Image) -> tuple[Values, float]:
        points, features, logit = self._whole(image, 1 / 255)
        mesh, found = points[0, :, :2], np.zeros((NUM_LANDMARKS, 2), np.float32)
        found[: len(mesh)] = mesh / self._operations.scale
        if logit.item() <= 0:  # lips and eyes of no face are of no use
            return found, logit.item()
        matrices = self._squares(mesh)
        squares = _sample(features[0], matrices @ self._pixels - 0.5)
        size = self._operations.square
        outputs = self._parts.of_arrays(squares.reshape(len(squares), size, size, -1))
        refined, (values,) = self._operations.refined, np.concatenate(outputs, axis=1)
        back = matrices[refined.regions] * refined.factors  # (M, 2, 3)
        found[refined.landmarks] = (back[:, :, :2] @ values[:, :, None])[:, :, 0] + back[:, :, 2]
        return found, logit.item()

    def _squares(self, mesh: Values) -> npt.NDArray[np.float64]:
        """(468, 2) landmarks -> (R, 2, 3): from pixels of each region's square to pixels of the features.

        A square is upright with the region's corners, and as large as the box around its landmarks, with a
        margin.
        """
        operations = self._operations
        corners, landmarks = mesh[operations.corners].astype(np.float64), mesh[operations.landmarks]
        across, down = (corners[:, 1] - corners[:, 0]).T
        angles = np.arctan2(down, across)
        matrices = np.empty((len(angles), 2, 3))
        axes = matrices[:, :, :2]
        matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angles)
        matrices[:, 1, 0] = np.sin(angles)
        matrices[:, 0, 1] = -matrices[:, 1, 0]
        turned = landmarks @ axes
        low, high = turned.min(axis=1), turned.max(axis=1)  # (R, 2)
        centres = axes @ ((low + high) / 2)[:, :, None]
        axes *= ((high - low) * operations.margins / operations.square)[:, None]
        matrices[:, :, 2:] = centres - axes.sum(axis=2, keepdims=True) * (operations.square / 2)
        return matrices


def _sample(features: Values, places: npt.NDArray[np.float64]) -> Values:
    """(H, W, C) at (R, 2, P) x, y -> (R, P, C), bilinear; 0 outside of the centres of the outer pixels."""
    height, width, channels = features.shape
    corners = np.floor(places)
    right, below = (places - corners).astype(np.float32).swapaxes(0, 1)[..., None]
    at = (corners[:, 1] * width + corners[:, 0]).astype(np.intp)
    pixels = features.reshape(-1, channels)

    def row(first: int) -> Values:
        left = pixels.take(at + first, axis=0, mode="clip")
        mixed: Values = left + right * (pixels.take(at + first + 1, axis=0, mode="clip") - left)
        return mixed

    upper = row(0)
    sampled = upper + below * (row(width) - upper)
    inside = (places >= 0) & (places <= np.array([[width - 1], [height - 1]]))
    if not inside.all():
        sampled *= np.expand_dims(inside.all(axis=1), -1)
    return sampled
