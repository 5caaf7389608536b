"""TensorFlow Lite networks run by LiteRT on the calling thread, and what reads landmarks with one."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.faces.solutions import Image, quiet_native_code

Values = npt.NDArray[np.float32]


class PointsNetwork(Protocol):
    """Finds the 478 landmarks of the face in a square image of its own size."""

    side: int

    def __call__(self, image: Image) -> tuple[Values, float]:
        """(side, side, 3 or 4) RGB -> (478, 2) x, y in pixels, and the logit that there is a face."""
        ...


class Network:
    """A TensorFlow Lite network of float32, run by XNNPACK."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with quiet_native_code():
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        inputs = self._interpreter.get_input_details()
        self.side = int(inputs[0]["shape"][1])  # of the first input, if that is an image
        self._inputs = [values["index"] for values in inputs]
        self._outputs = [values["index"] for values in self._interpreter.get_output_details()]

    def __call__(self, image: Image, scale: float, offset: float = 0.0) -> list[Values]:
        """The outputs for a square image (side, side, 3 or 4), each value times `scale` plus `offset`."""
        if image.shape[2] == 4:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.uint8)
        (tensor,) = self._interpreter.tensor(self._inputs[0])()
        np.multiply(image, np.float32(scale), out=tensor)
        if offset:
            np.add(tensor, np.float32(offset), out=tensor)
        del tensor  # LiteRT does not run while its memory is referred to
        return self._run()

    def of_arrays(self, arrays: npt.NDArray[np.float32]) -> list[Values]:
        """The outputs for one array for each input."""
        for index, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.tensor(index)()[0] = array
        return self._run()

    def _run(self) -> list[Values]:
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


class LandmarkerNetwork:
    """Face Landmarker's network, which replaced Face Mesh."""

    def __init__(self, content: bytes) -> None:
        self._network = Network(content)
        self.side = self._network.side

    def __call__(self, image: Image) -> tuple[Values, float]:
        points, logit, *_ = self._network(image, 1 / 255)
        return points.reshape(-1, 3)[:, :2], logit.item()
