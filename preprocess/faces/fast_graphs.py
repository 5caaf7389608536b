"""MediaPipe's face models on graphs built by hand: the same numbers as its solutions give, sooner.

For speed alone: preprocess/faces/solutions.py has the plain way and the switch between the two. MediaPipe's
own solutions hand every step of a graph to a pool of threads, and Face Mesh makes a message for each landmark
in a dozen steps around its network. Here a graph runs on the calling thread, and those steps are a little
arithmetic on arrays: Face Mesh takes three quarters of the time, detection nine tenths. In return this file
uses private names of MediaPipe and reads values from serialized messages.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.faces.solutions import (
    Box,
    Image,
    Landmarks,
    OncePerThread,
    import_mediapipe,
    quiet_native_code,
    to_boxes,
)
from utils.clip.files import NUM_LANDMARKS

_STEP_US = 33_333  # between two images, by the graph's clock; nothing in the graphs depends on it

# what mediapipe.solutions.face_detection.FaceDetection(model_selection=1) builds
_DETECTION_GRAPH = """
input_stream: "image"
output_stream: "found"
node { calculator: "FaceDetectionFullRangeCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:found" }
"""
# where a face is, from an image that is mostly face
_SEARCH_GRAPH = """
input_stream: "image"
output_stream: "found"
node { calculator: "FaceDetectionShortRangeCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:seen" }
node {
  calculator: "SplitDetectionVectorCalculator"
  input_stream: "seen"
  output_stream: "face"
  options { [mediapipe.SplitVectorCalculatorOptions.ext] { ranges { begin: 0 end: 1 } element_only: true } }
}
node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }
node {
  calculator: "FaceDetectionFrontDetectionToRoi"
  input_stream: "DETECTION:face"
  input_stream: "IMAGE_SIZE:size"
  output_stream: "ROI:found"
}
"""

# Number of values in each of the network's outputs, in order. Points of the mesh, the lips, the left and the
# right eye and iris: x, y (in the mesh also z) in pixels of its input. Last, the logit that there is a face.
_NUM_VALUES = (468 * 3, 80 * 2, 71 * 2, 71 * 2, 5 * 2, 5 * 2, 1)
_INPUT_SIDE = 192
_MESH_GRAPH = f"""
input_stream: "image"
input_stream: "place"
output_stream: "found"
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
# nothing is embedded: this takes tensors of any shape and puts all their numbers into one message
node {{
  calculator: "TensorsToEmbeddingsCalculator"
  input_stream: "TENSORS:outputs"
  output_stream: "EMBEDDINGS:found"
  options {{ [mediapipe.TensorsToEmbeddingsCalculatorOptions.ext] {{ embedder_options {{ }} }} }}
}}
"""

# the square that the network sees: as large as the landmarks and half as much again, upright with the eyes
_MARGIN = np.float32(1.5)
_RIGHT_EYE, _LEFT_EYE = 33, 263  # outer corners
_f32 = np.float32
_SIDE, _HALF = _f32(_INPUT_SIDE), _f32(0.5)


class ImageGraph:
    """A running graph that takes one image at a time and keeps no state between images.

    Its config is in MediaPipe's text form; the image's stream is called "image", the output's "found".
    """

    def __init__(self, config: str) -> None:
        mediapipe = import_mediapipe()
        self._packet, self._format = mediapipe.packet_creator.create_image_frame, mediapipe.ImageFormat.SRGB
        self._time_us = 0
        self._packets: dict[str, Any] = {}
        mediapipe.resource_util.set_resource_dir(str(Path(mediapipe.__file__).parents[1]))  # the models
        with quiet_native_code():
            self._graph = mediapipe.CalculatorGraph(
                graph_config=f'executor {{ type: "ApplicationThreadExecutor" }}\n{config}'
            )
            self._graph.observe_output_stream("found", self._packets.__setitem__)
            self._graph.start_run({})
            self._graph.wait_until_idle()  # the models are loaded here

    def __call__(self, image: Image, **further: Any) -> Any:
        """The packet that results from an image and packets on further input streams; None without one."""
        image = np.ascontiguousarray(image).view()
        image.flags.writeable = False  # a read-only array is handed over without a copy
        self._packets.clear()
        self._time_us += _STEP_US
        packet = self._packet(data=image, image_format=self._format)
        try:
            self._graph.add_packet_to_input_stream("image", packet.at(self._time_us))
            for name, packet in further.items():
                self._graph.add_packet_to_input_stream(name, packet.at(self._time_us))
            self._graph.wait_until_idle()
        except BaseException:  # it cannot go on after an error
            _graph_of_thread.forget()
            raise
        return self._packets.get("found")


_graph_of_thread = OncePerThread(ImageGraph)


class FastDetection:
    """Full-range face detection in single images."""

    def __init__(self) -> None:
        self._graph = _graph_of_thread(_DETECTION_GRAPH)
        self._messages = import_mediapipe().packet_getter.get_proto_list
        importlib.import_module("mediapipe.framework.formats.detection_pb2")  # which it looks up by its name

    def __call__(self, image: Image) -> list[Box]:
        packet = self._graph(image)
        return [] if packet is None else to_boxes(self._messages(packet))


class _Place(NamedTuple):
    """A turned rectangle as shares of an image's width and height, like MediaPipe's NormalizedRect."""

    centre: npt.NDArray[np.float32]  # x, y
    size: npt.NDArray[np.float32]  # width, height
    rotation: float  # radians, clockwise as seen


class FastMesh:
    """Face Mesh with the irises, following one face: (H, W, 3) -> (478, 2), or None without a face."""

    takes_alpha = False

    def __init__(self) -> None:
        self._search, self._mesh = _graph_of_thread(_SEARCH_GRAPH), _graph_of_thread(_MESH_GRAPH)
        mediapipe = import_mediapipe()
        from mediapipe.framework.formats.rect_pb2 import NormalizedRect

        self._rect, self._to_packet = NormalizedRect, mediapipe.packet_creator.create_proto
        self._to_message = mediapipe.packet_getter.get_proto
        # without making a message of it, which takes ten times as long
        self._to_bytes = mediapipe.packet_getter._packet_getter._get_serialized_proto
        self._places, self._last, self._length = _value_places()
        self._cos, self._sin, self._atan2 = _c_functions()
        self._place: _Place | None = None

    def __call__(self, image: Image) -> Landmarks | None:
        place = self._place or self._find(image)
        if place is None:
            return None
        (x, y), (width, height) = place.centre.tolist(), place.size.tolist()
        rect = self._rect(x_center=x, y_center=y, width=width, height=height, rotation=place.rotation)
        message = self._to_bytes(self._mesh(image, place=self._to_packet(rect)))
        assert len(message) == self._length
        values: Landmarks = np.ndarray(self._length - 3, "<f4", message, 0, (1,))  # one per byte
        if values[self._last] <= 0:
            self._place = None
            return None
        return self._project(values[self._places], place, image)

    def forget(self) -> None:
        self._place = None

    def _find(self, image: Image) -> _Place | None:
        packet = self._search(image)
        if packet is None:
            return None
        rect = self._to_message(packet)
        centre, size = np.array([[rect.x_center, rect.y_center], [rect.width, rect.height]], np.float32)
        return _Place(centre, size, rect.rotation)

    def _project(self, points: npt.NDArray[np.float32], place: _Place, image: Image) -> Landmarks:
        """(2, 478) pixels of the network's input -> (478, 2) shares of the image; sets the next place.

        In single precision and in MediaPipe's order of steps: the last digit changes what the network sees.
        """
        points /= _SIDE
        points -= _HALF
        turned = points * _f32(self._cos(place.rotation))
        points *= _f32(self._sin(place.rotation))
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
        self._place = _Place(extent * _HALF + low, side / image_size * _MARGIN, self._atan2(down, across))
        return turned.T


@functools.cache
def _c_functions() -> tuple[Callable[..., float], ...]:
    """cosf, sinf and atan2f as MediaPipe calls them: Python's and NumPy's differ in the last digit."""
    library = ctypes.CDLL(None)
    for function, count in ((library.cosf, 1), (library.sinf, 1), (library.atan2f, 2)):
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float] * count
    return library.cosf, library.sinf, library.atan2f


@functools.cache
def _value_places() -> tuple[npt.NDArray[np.int64], int, int]:
    """Byte offsets in a message of the network's values: of all x and y (2, 478), of the last value, its end.

    The numbers of a tensor are contiguous in it. Converted to a list of Python floats they would take as long
    as everything else around the network. The landmarks of lips, eyes and irises come from the parts that the
    network refines; which these are is read from MediaPipe itself.
    """
    mediapipe = import_mediapipe()
    from google.protobuf import text_format
    from mediapipe.calculators.util import landmarks_refinement_calculator_pb2 as refinement
    from mediapipe.framework.calculator_pb2 import CalculatorGraphConfig
    from mediapipe.tasks.cc.components.containers.proto.embeddings_pb2 import EmbeddingResult

    sample = EmbeddingResult()
    tensors = [np.full(count, number, np.float32) for number, count in enumerate(_NUM_VALUES, start=1)]
    for index, tensor in enumerate(tensors):
        sample.embeddings.add(head_index=index).float_embedding.values.extend(tensor)
    message = sample.SerializeToString()
    starts = [message.index(tensor.tobytes()) for tensor in tensors]

    graph = mediapipe.CalculatorGraph(
        graph_config='input_stream: "tensors" node { calculator: "TensorsToFaceLandmarksWithAttention"'
        ' input_stream: "TENSORS:tensors" output_stream: "LANDMARKS:landmarks" }'
    )
    config = text_format.Parse(graph.text_config, CalculatorGraphConfig(), allow_unknown_extension=True)
    (node,) = (node for node in config.node if node.calculator == "LandmarksRefinementCalculator")
    parts = node.options.Extensions[refinement.LandmarksRefinementCalculatorOptions.ext].refinement
    places = np.full((2, NUM_LANDMARKS), -1)
    for part, start, count in zip(parts, starts[:-1], _NUM_VALUES[:-1], strict=True):
        points = (start + 4 * np.arange(count)).reshape(len(part.indexes_mapping), -1)
        places[:, part.indexes_mapping] = points[:, :2].T
    assert (places >= 0).all()
    return places, starts[-1], len(message)
