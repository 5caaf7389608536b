"""A MediaPipe graph that takes one image at a time and runs on the thread that calls it.

MediaPipe's own Python solutions hand every step of a graph to a pool of threads and make a new class for
every result. On one core the same graph is a tenth faster without them, with the same numbers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import require_packages

_STEP_US = 33_333  # between two images, by the graph's clock; nothing in the graphs depends on it
_shared: dict[str, ImageGraph] = {}


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
    require_packages(["mediapipe"], "preprocessing")
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import mediapipe

    return mediapipe


class ImageGraph:
    """A running graph that takes one image at a time, and perhaps more, and remembers nothing of it.

    Its config is in MediaPipe's text form, with the image as input stream "image".
    """

    def __init__(self, config: str, outputs: Iterable[str]) -> None:
        mediapipe = import_mediapipe()
        self._packet, self._format = mediapipe.packet_creator.create_image_frame, mediapipe.ImageFormat.SRGB
        self._config, self._time_us = config, 0
        self._found: dict[str, Any] = {}
        mediapipe.resource_util.set_resource_dir(str(Path(mediapipe.__file__).parents[1]))  # the models
        with quiet_native_code():
            self._graph = mediapipe.CalculatorGraph(
                graph_config=f'executor {{ type: "ApplicationThreadExecutor" }}\n{config}'
            )
            for name in outputs:
                self._graph.observe_output_stream(name, self._found.__setitem__)
            self._graph.start_run({})
            self._graph.wait_until_idle()  # the models are loaded here

    @classmethod
    def shared(cls, config: str, outputs: Iterable[str]) -> ImageGraph:
        """This process's graph of that kind; a new one takes as long as a dozen images."""
        if config not in _shared:
            _shared[config] = cls(config, outputs)
        return _shared[config]

    def __call__(self, image: np.ndarray, **further: Any) -> dict[str, Any]:
        """The packets that come out for (H, W, 3) uint8 RGB, and for packets on further input streams."""
        image = np.ascontiguousarray(image).view()
        image.flags.writeable = False  # a read-only array is handed over without a copy
        self._found.clear()
        self._time_us += _STEP_US
        packet = self._packet(data=image, image_format=self._format)
        try:
            self._graph.add_packet_to_input_stream("image", packet.at(self._time_us))
            for name, packet in further.items():
                self._graph.add_packet_to_input_stream(name, packet.at(self._time_us))
            self._graph.wait_until_idle()
        except BaseException:  # it cannot go on after an error
            _shared.pop(self._config, None)
            raise
        return self._found
