"""The 478 landmarks of one face in an image: MediaPipe Face Mesh with the irises.

The same models with the same numbers as mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True), in
three quarters of its time: what that does around its network in a dozen further steps, with a message for
each landmark in each of them, is a little arithmetic on arrays here.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import NamedTuple

import numpy as np

from preprocess.faces.image_graph import ImageGraph, import_mediapipe
from utils.clip.files import NUM_LANDMARKS

# where a face is, from an image that is mostly face
_SEARCH_GRAPH = """
input_stream: "image"
output_stream: "place"
node {
  calculator: "FaceDetectionShortRangeCpu"
  input_stream: "IMAGE:image"
  output_stream: "DETECTIONS:faces"
}
node {
  calculator: "SplitDetectionVectorCalculator"
  input_stream: "faces"
  output_stream: "face"
  options { [mediapipe.SplitVectorCalculatorOptions.ext] { ranges { begin: 0 end: 1 } element_only: true } }
}
node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }
node {
  calculator: "FaceDetectionFrontDetectionToRoi"
  input_stream: "DETECTION:face"
  input_stream: "IMAGE_SIZE:size"
  output_stream: "ROI:place"
}
"""

# How many values the network gives out, in its order. Points of the mesh, the lips, the left and the right
# eye and iris: x, y (of the mesh also z) in pixels of its input. Last, how sure it is that there is a face, 0
# where it would not bet on either.
_NUM_VALUES = (468 * 3, 80 * 2, 71 * 2, 71 * 2, 5 * 2, 5 * 2, 1)
_INPUT_SIDE = 192
_MESH_GRAPH = f"""
input_stream: "image"
input_stream: "place"
output_stream: "values"
node {{ calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:operations" }}
node {{
  calculator: "ImageToTensorCalculator"
  input_stream: "IMAGE:image"
  input_stream: "NORM_RECT:place"
  output_stream: "TENSORS:input"
  options {{ [mediapipe.ImageToTensorCalculatorOptions.ext] {{
    output_tensor_width: {_INPUT_SIDE}
    output_tensor_height: {_INPUT_SIDE}
    output_tensor_float_range {{ min: 0 max: 1 }}
  }} }}
}}
node {{
  calculator: "InferenceCalculator"
  input_stream: "TENSORS:input"
  input_side_packet: "OP_RESOLVER:operations"
  output_stream: "TENSORS:outputs"
  options {{ [mediapipe.InferenceCalculatorOptions.ext] {{
    model_path: "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite"
    delegate {{ xnnpack {{ }} }}
  }} }}
}}
# nothing is embedded: this takes tensors of any shape, and makes one message of all their numbers
node {{
  calculator: "TensorsToEmbeddingsCalculator"
  input_stream: "TENSORS:outputs"
  output_stream: "EMBEDDINGS:values"
  options {{ [mediapipe.TensorsToEmbeddingsCalculatorOptions.ext] {{ embedder_options {{ }} }} }}
}}
"""

# the square that the network sees: as large as the landmarks and half as much again, upright with the eyes
_MARGIN = np.float32(1.5)
_RIGHT_EYE, _LEFT_EYE = 33, 263  # outer corners
_f32 = np.float32
_SIDE, _HALF = _f32(_INPUT_SIDE), _f32(0.5)
_FLOAT, _FLOATS = struct.Struct("<f"), np.dtype("<f4")

# of the C library, as MediaPipe calls them: Python's and NumPy's differ in the last digit
_cos, _sin, _atan2 = (getattr(ctypes.CDLL(None), name) for name in ("cosf", "sinf", "atan2f"))
for _function, _count in ((_cos, 1), (_sin, 1), (_atan2, 2)):
    _function.restype, _function.argtypes = ctypes.c_float, [ctypes.c_float] * _count


class _Place(NamedTuple):
    """A turned rectangle as shares of an image's width and height, like MediaPipe's NormalizedRect."""

    centre: np.ndarray  # x, y, float32
    size: np.ndarray  # width, height, float32
    rotation: float  # radians, clockwise as seen


class FaceMesh:
    """Face Mesh that follows one face from image to image; one per track, so that no track sees another's
    past.

    Call it with (H, W, 3) uint8 RGB; it returns (478, 2) float32, x and y as a share of the image's width and
    height, or None where there is no face.
    """

    def __init__(self) -> None:
        self._search = ImageGraph.shared(_SEARCH_GRAPH, ["place"])
        self._mesh = ImageGraph.shared(_MESH_GRAPH, ["values"])
        mediapipe = import_mediapipe()
        from mediapipe.framework.formats.rect_pb2 import NormalizedRect

        self._rect, self._to_packet = NormalizedRect, mediapipe.packet_creator.create_proto
        self._to_message = mediapipe.packet_getter.get_proto
        # without making a message of it, which takes ten times as long
        self._to_bytes = mediapipe.packet_getter._packet_getter._get_serialized_proto
        self._places, self._last, self._length = _value_places()
        self._place: _Place | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        place = self._place or self._find(image)
        if place is None:
            return None
        (x, y), (width, height) = place.centre.tolist(), place.size.tolist()
        rect = self._rect(x_center=x, y_center=y, width=width, height=height, rotation=place.rotation)
        message = self._to_bytes(self._mesh(image, place=self._to_packet(rect))["values"])
        assert len(message) == self._length
        if _FLOAT.unpack_from(message, self._last)[0] <= 0:
            self._place = None
            return None
        values = np.ndarray(self._length - 3, _FLOATS, message, 0, (1,))  # one from every byte on
        return self._project(values[self._places], place, image)

    def forget(self) -> None:
        """Look for a face anew in the next image, wherever the last one was."""
        self._place = None

    def _find(self, image: np.ndarray) -> _Place | None:
        packets = self._search(image)
        if not packets:
            return None
        rect = self._to_message(packets["place"])
        centre, size = np.array([[rect.x_center, rect.y_center], [rect.width, rect.height]], np.float32)
        return _Place(centre, size, rect.rotation)

    def _project(self, points: np.ndarray, place: _Place, image: np.ndarray) -> np.ndarray:
        """(2, 478) pixels of the network's input as (478, 2) shares of the image; the next place is around
        them.

        In single precision and in MediaPipe's order of steps: the network trembles at the last digit.
        """
        points /= _SIDE
        points -= _HALF
        turned = points * _f32(_cos(place.rotation))
        points *= _f32(_sin(place.rotation))
        turned[0] -= points[1]
        turned[1] += points[0]
        turned *= place.size[:, None]
        turned += place.centre[:, None]
        low, high = np.minimum.reduce(turned, 1), np.maximum.reduce(turned, 1)
        image_size = np.array(image.shape[1::-1], np.float32)
        extent = high - low
        side = max(extent * image_size)
        eyes = turned[:, _LEFT_EYE] * image_size - turned[:, _RIGHT_EYE] * image_size
        across, down = eyes.tolist()
        self._place = _Place(extent * _HALF + low, side / image_size * _MARGIN, _atan2(down, across))
        return turned.T


@functools.cache
def _value_places() -> tuple[np.ndarray, int, int]:
    """Where each landmark's x, and y, begins in the bytes of a message of the network's values, (2, 478);
    where the last value begins; how long the message is.

    The numbers of a tensor lie in a row in it. As a list of Python's own they would take as long as all else
    around the network. The landmarks of lips, eyes and irises are taken from the parts that the network looks
    at twice; which are which is read from MediaPipe itself.
    """
    mediapipe = import_mediapipe()
    from google.protobuf import text_format
    from mediapipe.calculators.util.landmarks_refinement_calculator_pb2 import (
        LandmarksRefinementCalculatorOptions,
    )
    from mediapipe.framework.calculator_pb2 import CalculatorGraphConfig
    from mediapipe.tasks.cc.components.containers.proto.embeddings_pb2 import EmbeddingResult

    sample = EmbeddingResult()
    for index, count in enumerate(_NUM_VALUES):
        tensor = sample.embeddings.add(head_index=index)
        tensor.float_embedding.values.extend([index + 1] * count)
    message = sample.SerializeToString()
    starts = [
        message.index(np.full(count, index + 1, np.float32).tobytes())
        for index, count in enumerate(_NUM_VALUES)
    ]

    graph = mediapipe.CalculatorGraph(
        graph_config='input_stream: "tensors" node { calculator: "TensorsToFaceLandmarksWithAttention"'
        ' input_stream: "TENSORS:tensors" output_stream: "LANDMARKS:landmarks" }'
    )
    config = text_format.Parse(graph.text_config, CalculatorGraphConfig(), allow_unknown_extension=True)
    (refinements,) = (
        node.options.Extensions[LandmarksRefinementCalculatorOptions.ext].refinement
        for node in config.node
        if node.calculator == "LandmarksRefinementCalculator"
    )
    places = np.full((2, NUM_LANDMARKS), -1)
    for refinement, start, count in zip(refinements, starts[:-1], _NUM_VALUES[:-1], strict=True):
        points = (start + 4 * np.arange(count)).reshape(len(refinement.indexes_mapping), -1)
        places[:, refinement.indexes_mapping] = points[:, :2].T
    assert (places >= 0).all()
    return places, starts[-1], len(message)
