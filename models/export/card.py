"""The model card of an exported network, JSON: all that a program without this framework has to know."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from loaders.batches.data_config import RELEASED_FRAMES, DataConfig
from models.export.network import free_axes, input_of_features
from utils.clip.files import SAMPLE_RATE_HZ
from utils.files import file_sha256

MEANINGS = {
    "video": "RGB levels 0..255 of the face crop of preprocess.prepare, not scaled, not equalised",
    "waveform": f"mono sound of the same seconds, -1..1, {SAMPLE_RATE_HZ} samples per second",
    "landmarks": "x and y in units of the crop's sides, as in landmarks.npy; NaN where no face was found",
    "logits": "log odds without a calibration, > 0 = fake",
    "video_logits": "the same of the picture alone",
    "audio_logits": "the same of the sound alone",
}


def describe(
    content: dict[str, Any],
    data: DataConfig,
    file: Path,
    inputs: dict[str, Tensor],
    outputs: list[str],
    features: Iterable[str],
    parity: dict[str, Any],
) -> dict[str, Any]:
    """The card of the network in `file`, which was made of a checkpoint's `content`.

    inputs: an example of each. features: names of those that were cached. parity: what the check found.
    """
    train = content["config"]["train"]
    about: dict[str, Any] = {
        name: content[name]
        for name in ("epoch", "decision", "environment", "landmark_backends")
        if name in content
    }
    return {
        "file": file.name,
        "sha256": file_sha256(file),
        "model": train["model"],
        "preset": train.get("preset"),
        "inputs": {name: _input(name, example) for name, example in inputs.items()},
        "outputs": {name: {"shape": ["batch"], "meaning": MEANINGS[name]} for name in outputs},
        "features": {name: own for own in features if (name := input_of_features(own)) in inputs},
        "windows": {
            "kind": "frames" if data.frames_per_clip else data.window,
            "window_s": data.window_s,
            "video_fps": data.video_fps,
            "num_frames": RELEASED_FRAMES if data.window == "released" else data.window_frames,
            "per_clip": data.windows_per_clip,
            "pooling": data.pooling,
            "trim_silence": data.trim_silence,
            "features_s": data.window_s if data.rows_after_end else 0.0,  # at least, also after a clip's end
        },
        "caller": _duties(content, data, inputs),
        "training_data": train.get("dataset"),
        "generated_sets": content.get("generated_sets", []),
        "split_checksums": content.get("split_checksums", {}),
        "parity": parity,
        **about,
    }


def _input(name: str, example: Tensor) -> dict[str, Any]:
    axes = free_axes(name)
    return {
        "dtype": str(example.dtype).removeprefix("torch."),
        "shape": [axes.get(place, length) for place, length in enumerate(example.shape)],
        "meaning": MEANINGS.get(name, "rows of preprocess.extract_features whose middle lies in the window"),
    }


def _duties(content: dict[str, Any], data: DataConfig, inputs: dict[str, Tensor]) -> list[str]:
    """What is not in the network, and has to be done before or after it."""
    backends = " or ".join(content.get("landmark_backends", {}))
    duties = [
        "crop the face as preprocess.prepare does" + (f" --landmark_backend {backends}" if backends else ""),
        "give the windows of a batch one length: no padding",
    ]
    if "waveform" in inputs:
        duties.append("resample and mix the sound; filters, MFCC and decibels are in the network")
    if "video" in inputs:
        duties.append("nothing for the colours: equalisation, size and normalisation are in the network")
    if any(name.startswith("features_") for name in inputs):
        duties.append("extract the features: their backbones are not in the network")
    if data.trim_silence:
        duties.append(f"begin windows after the leading silence, by the rule {data.trim_rule!r}")
    if content.get("domain"):
        duties.append("leave clips undecided that are unlike the training clips: the network does not tell")
    return [
        *duties,
        f"pool the logits of a clip's windows: {data.pooling}",
        "apply the decision's thresholds",
    ]
