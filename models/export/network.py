"""A detector as a plain function of tensors, traced by torch.export: windows in, logits out.

The windows of a batch have one length, as in judging: nothing is padded, and the network asks for no mask.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from models.method import Method
from utils.clip.packed import FEATURES
from utils.errors import UsageError
from utils.types import ClipBatch

OUTPUTS = ("logits", "video_logits", "audio_logits")  # (B,) each, as far as the method has them
# input -> its free axes; any other axis has the length that it has in the example
FREE_AXES = {
    "video": {0: "batch", 2: "frames"},
    "waveform": {0: "batch", 1: "samples"},
    "landmarks": {0: "batch", 1: "frames"},
}
MOST = {"batch": 1024, "frames": 1 << 14, "samples": 1 << 24, "rows": 1 << 16}
LEAST_S = 0.2  # of sound: with less, some layers see no step


def input_of_features(name: str) -> str:
    """The input of the cached features `name`, as a name that Python takes."""
    return "features_" + "".join(letter if letter.isalnum() else "_" for letter in name)


def inputs_of(batch: ClipBatch, method: Method) -> dict[str, Tensor]:
    """Name -> input of a method's exported network, from a batch without padding."""
    wanted = method.inputs_of(method.config) - method.for_losses
    inputs = {}
    if "video" in wanted:
        inputs["video"] = batch.video.contiguous()
    if "sound" in wanted:
        inputs["waveform"] = batch.waveform
    if "landmarks" in wanted:
        # as they are prepared: the network finds out in which frames there is a face
        inputs["landmarks"] = batch.landmarks.masked_fill(
            batch.landmark_padding_mask[..., None, None], math.nan
        )
    names = sorted(name.removeprefix(FEATURES) for name in wanted if name.startswith(FEATURES))
    return inputs | {input_of_features(name): batch.features[name] for name in names}


def outputs_of(method: Method, batch: ClipBatch) -> dict[str, Tensor]:
    """Name -> output (B,) of the method itself, of those that its exported network has."""
    with torch.no_grad():
        output = method(batch)  # type: ignore[operator]  # every method is an nn.Module
    return {name: value for name in OUTPUTS if (value := getattr(output, name)) is not None}


class Network(nn.Module):
    """network(*inputs) -> the OUTPUTS that the method has, in that order."""

    def __init__(self, method: Method, example: ClipBatch, names: list[str]) -> None:
        super().__init__()
        self.method, self.names = method, names
        self.features = {input_of_features(name): name for name in example.features}
        self.video_fps, self.sample_rate_hz = example.video_fps, example.sample_rate_hz

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.method(self._batch(dict(zip(self.names, inputs, strict=True))))  # type: ignore[operator]
        return tuple(value for name in OUTPUTS if (value := getattr(output, name)) is not None)

    def _batch(self, given: dict[str, Tensor]) -> ClipBatch:
        some = next(iter(given.values()))
        places = ((name, 2 if name == "video" else 1) for name in ("video", "landmarks"))
        frames = next((given[name].shape[place] for name, place in places if name in given), 1)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return some.new_zeros(some.shape[0], *shape, dtype=dtype)

        waveform = given.get("waveform", zeros(0))
        landmarks = given.get("landmarks", zeros(frames, 0, 2))
        is_missing = landmarks.isnan().flatten(2).any(2)
        return ClipBatch(
            video=given.get("video", zeros(3, frames, 0, 0, dtype=torch.uint8)),
            waveform=waveform,
            landmarks=torch.where(is_missing[..., None, None], 0.0, landmarks),
            video_padding_mask=zeros(frames, dtype=torch.bool),
            audio_padding_mask=torch.zeros_like(waveform, dtype=torch.bool),
            landmark_padding_mask=is_missing,
            frame_labels=zeros(frames),
            video_labels=zeros(),
            audio_labels=zeros(),
            labels=zeros(),
            clip_ids=(),
            video_fps=self.video_fps,
            sample_rate_hz=self.sample_rate_hz,
            features={own: given[name] for name, own in self.features.items()},
        )


def trace(method: Method, example: ClipBatch) -> ExportedProgram:
    """The program of a method in evaluation mode; batch and time axes are free, see FREE_AXES.

    example: at least two windows. Raises UsageError for a part that cannot be exported.
    """
    if getattr(method.config, "finetune", False):
        raise UsageError(
            "--finetune true cannot be exported: which frames its backbone sees is planned clip by clip; "
            "train on cached features"
        )
    if example.is_equalized:
        raise UsageError("the clips are packed equalised; export with clips of plain frames")
    inputs = inputs_of(example, method)
    network = Network(method, example, list(inputs)).eval()
    with torch.no_grad(), _without_fast_path():
        return torch.export.export(
            network, tuple(inputs.values()), dynamic_shapes={"inputs": tuple(_axes(inputs, example))}
        )


@contextlib.contextmanager
def _without_fast_path() -> Iterator[None]:
    """Attention by operations that others know, too: the fused one is torch's own."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def free_axes(name: str) -> dict[int, str]:
    """Place -> name of an input's free axes."""
    return FREE_AXES.get(name, {0: "batch", 1: f"rows_{name}"})


def _axes(inputs: dict[str, Tensor], example: ClipBatch) -> list[dict[int, Dim]]:
    """The free axes of each input, those of one name as long as each other."""
    least = {"samples": round(LEAST_S * example.sample_rate_hz), "frames": 2}
    names = {axis for name in inputs for axis in free_axes(name).values()}
    dims = {axis: Dim(axis, min=least.get(axis, 1), max=MOST[axis.split("_")[0]]) for axis in names}
    return [{place: dims[axis] for place, axis in free_axes(name).items()} for name in inputs]
