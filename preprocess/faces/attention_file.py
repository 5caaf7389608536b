"""The file of Face Mesh's network with attention, cut in two where LiteRT lacks operations (attention.py).

What these operations are to do is read from the file: which landmarks are lips and eyes, how large their
squares are, and how their landmarks are put back. A file of another structure ends in an error.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.faces.network import Values
from utils.clip.files import NUM_LANDMARKS

Indices = npt.NDArray[np.intp]

_NUM_MESH = 468  # landmarks of the whole face; then come those of the two irises


class Refined(NamedTuple):
    """The M landmarks of all outputs of the second part, x and y in pixels of a region's square each."""

    landmarks: Indices  # (M,) which they are
    regions: Indices  # (M,)
    factors: Values  # (M, 2, 3) for the matrix from that square to the features, to lead to the image


class Operations(NamedTuple):
    """What the operations are to do that LiteRT lacks, for R regions (lips, eyes)."""

    corners: Indices  # (R, 2) landmarks between which a region's square is upright
    landmarks: Indices  # (R, N) its square is as large as the box around these, some twice, and a margin
    margins: npt.NDArray[np.float64]  # (R, 2) sides of the square, in sides of the box
    square: int  # pixels across it
    scale: float  # pixels of the features per pixel of the image
    refined: Refined


def cut(content: bytes) -> tuple[bytes, bytes, Operations]:
    """A file -> its two parts, and what stands between and after them.

    The first part gives the landmarks of the whole face in pixels of the features (1, 468, 3), the features,
    and the logit that there is a face; the second takes the regions' squares.
    """
    file = _File(content)
    squares, put_back = file.steps(b"TransformTensorBilinear"), file.steps(b"TransformLandmarks")
    matrices = [step.inputs[1] for step in squares]
    regions = [file.options(matrix) for matrix in matrices]
    landmarks = [np.array(region["subset_idxs"]) for region in regions]
    (mesh,) = file.made_by[matrices[0]].inputs
    first = file.part(file.graph.inputs, [mesh, squares[0].inputs[0], file.graph.outputs[-1]])
    second = file.part([step.outputs[0] for step in squares], [step.inputs[0] for step in put_back])
    operations = Operations(
        np.array([[region["left_rotation_idx"], region["right_rotation_idx"]] for region in regions]),
        np.stack([np.resize(places, max(map(len, landmarks))) for places in landmarks]),
        np.array([[region["scale_x"], region["scale_y"]] for region in regions]),
        regions[0]["output_width"],
        file.constant(file.made_by[mesh].inputs[1]).item(),
        _refined(file, put_back, matrices, landmarks),
    )
    return first, second, operations


def _refined(file: _File, steps: list[Any], matrices: list[int], landmarks: list[Indices]) -> Refined:
    """What the second part gives, by the last `steps`; `matrices` and `landmarks` are those of regions."""
    irises = iter(np.arange(_NUM_MESH, NUM_LANDMARKS).reshape(2, -1))
    found = []
    for step in steps:
        matrix, factors = file.made_by[step.inputs[1]].inputs
        region = matrices.index(matrix)
        is_iris = file.graph.tensors[step.inputs[0]].shape[1] != len(landmarks[region])
        places = next(irises) if is_iris else landmarks[region]
        of_plane = file.constant(factors)[:, :2, [0, 1, 3]]  # of (1, 4, 4) for places in space
        found.append((places, np.full(len(places), region), of_plane.repeat(len(places), axis=0)))
    return Refined(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class _File:
    """A TensorFlow Lite file, of one graph."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated

        self._schema = schema_py_generated
        self._model = self._schema.ModelT.InitFromObj(self._schema.Model.GetRootAsModel(content, 0))
        (self.graph,) = self._model.subgraphs
        self.made_by = {tensor: step for step in self.graph.operators for tensor in step.outputs}

    def steps(self, name: bytes) -> list[Any]:
        """The steps of an operation that is not TensorFlow Lite's own."""
        names = [code.customCode for code in self._model.operatorCodes]
        return [step for step in self.graph.operators if names[step.opcodeIndex] == name]

    def options(self, tensor: int) -> dict[str, Any]:
        """Those of such a step, by what it makes."""
        from flatbuffers import flexbuffers

        options: dict[str, Any] = flexbuffers.Loads(bytes(self.made_by[tensor].customOptions))
        return options

    def constant(self, tensor: int) -> Values:
        """The stored values of a tensor."""
        if tensor in self.made_by:  # stored in half precision, and widened
            return self.constant(self.made_by[tensor].inputs[0])
        values = self.graph.tensors[tensor]
        kind = "<f2" if values.type == self._schema.TensorType.FLOAT16 else "<f4"
        stored = np.frombuffer(bytes(self._model.buffers[values.buffer].data), kind)
        return stored.astype(np.float32).reshape(values.shape)

    def part(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """A file with the steps alone that lead from some tensors to others."""
        import flatbuffers

        steps: list[Any] = []
        wanted = set(outputs)
        for step in reversed(self.graph.operators):
            if wanted.intersection(step.outputs) and not set(inputs).intersection(step.outputs):
                steps.insert(0, copy.copy(step))
                wanted.update(step.inputs)
        kept = sorted(wanted.union(inputs))
        places = {tensor: place for place, tensor in enumerate(kept)}
        for step in steps:
            step.inputs, step.outputs = (
                [places[tensor] for tensor in ends] for ends in (step.inputs, step.outputs)
            )
        graph, model = copy.copy(self.graph), copy.copy(self._model)
        graph.operators, graph.tensors = steps, [graph.tensors[tensor] for tensor in kept]
        graph.inputs, graph.outputs = ([places[tensor] for tensor in ends] for ends in (inputs, outputs))
        stored = {tensor.buffer for tensor in graph.tensors}
        empty = self._schema.BufferT()
        model.buffers = [buffer if place in stored else empty for place, buffer in enumerate(model.buffers)]
        model.subgraphs = [graph]
        model.signatureDefs, model.metadata = [], []  # they number the tensors of the whole
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
