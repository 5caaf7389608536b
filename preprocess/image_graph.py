"""A MediaPipe graph that takes one image at a time and runs on the thread that calls it.

MediaPipe's own Python solutions hand every step of a graph to a pool of threads and make a new class for
every result. On one core the same graph is a tenth faster without them, with the same numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UsageError

MAX_IDLE = 4  # graphs of a kind that wait for the next video: as many faces are followed at a time by default
_STEP_US = 33_333  # between two images, by the graph's clock; nothing in the graphs depends on it
_idle: defaultdict[str, list[ImageGraph]] = defaultdict(list)


def require_packages(names: Iterable[str]) -> None:
    """Raise UsageError with the pip command if one of the packages is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"preprocessing needs the packages {', '.join(missing)}: pip install {' '.join(missing)}"
        )


@contextlib.contextmanager
def quiet_native_code() -> Iterator[None]:
    """Send what C++ libraries write to stderr to nowhere. MediaPipe announces each graph it builds there."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def import_mediapipe() -> Any:
    """The package mediapipe, imported late and without its noise."""
    require_packages(["mediapipe"])
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import mediapipe

    return mediapipe


class ImageGraph:
    """A running graph with the input stream "image" and the output stream "found", a list of messages."""

    def __init__(self, config: str) -> None:
        mediapipe = import_mediapipe()
        self._packet, self._messages = (
            mediapipe.packet_creator.create_image_frame,
            mediapipe.packet_getter.get_proto_list,
        )
        self._format = mediapipe.ImageFormat.SRGB
        self._config, self._time_us, self._found = config, 0, None
        mediapipe.resource_util.set_resource_dir(str(Path(mediapipe.__file__).parents[1]))  # the models
        with quiet_native_code():
            self._graph = mediapipe.CalculatorGraph(
                graph_config=f'executor {{ type: "ApplicationThreadExecutor" }}\n{config}'
            )
            self._graph.observe_output_stream("found", self._take)
            self._graph.start_run({})
            self(np.zeros((8, 8, 3), np.uint8))

    @classmethod
    def borrow(cls, config: str) -> ImageGraph:
        """A graph that `give_back` has left, or a new one, which takes as long as a dozen images."""
        try:
            return _idle[config].pop()
        except IndexError:
            return cls(config)

    def give_back(self) -> None:
        """Leave the graph to the next video. What it remembers must be wiped out first."""
        if len(_idle[self._config]) < MAX_IDLE:
            _idle[self._config].append(self)
        else:
            self._graph.close()

    def _take(self, name: str, packet: Any) -> None:
        self._found = packet

    def __call__(self, image: np.ndarray) -> list[Any]:
        """Messages for (H, W, 3) uint8 RGB; [] if nothing was found."""
        image = np.ascontiguousarray(image).view()
        image.flags.writeable = False  # a read-only array is handed over without a copy
        self._found = None
        self._time_us += _STEP_US
        packet = self._packet(data=image, image_format=self._format)
        self._graph.add_packet_to_input_stream("image", packet.at(self._time_us))
        self._graph.wait_until_idle()
        return [] if self._found is None else self._messages(self._found)
