"""Parity of preset `released` with the published Beyond-Masking code.

    python -m tests.parity.beyond_masking FIXTURE.safetensors

FIXTURE holds weights, inputs, outputs and gradient norms that the published code gave (its sizes are in the
file's metadata). Prints the largest relative error of each quantity as JSON; exit status 1 if one is above
its tolerance. Logits and losses are computed in float32, as the fixture's were; gradient norms in double
precision, where they are the same on every machine: in float32, rounding decides on which side of a ReLU or
in which cell of a max pool a value next to the border falls, and a norm moves by up to 2e-3 with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from losses.beyond_masking import BeyondMaskingLoss, BeyondMaskingLossConfig
from models.beyond_masking.config import PRESETS, BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from models.beyond_masking.published_weights import RELEASED_PREFIXES
from utils.types import ClipBatch

TOLERANCE = 1e-4
# Shares of the largest gradient norm. Norms below the first are compared with it. Norms that are zero but for
# rounding (of a bias before a batch norm) are noise in the fixture, and compared with the last.
GRADIENT_FLOOR, EXACT_ZERO, NOISE_FLOOR = 1e-3, 1e-12, 1e-2


def build(metadata: dict[str, object]) -> tuple[BeyondMaskingDetector, BeyondMaskingLoss]:
    """The released preset with the sizes and weights of the fixture."""
    sizes = {
        "feature_dim": metadata["feature_dim"],
        "video_channels": tuple(metadata["video_conv_channels"]),
        "audio_channels": tuple(metadata["audio_conv_channels"]),
        "transformer_nhead": metadata["transformer_nhead"],
        "stream_layers": metadata["transformer_num_layers"],
        "feedforward_dim": metadata["transformer_dim_feedforward"],
        "classifier_hidden_dim": metadata["classifier_hidden_dims"][0],
        "num_mfcc": metadata["n_mfcc"],
        "dropout": 0.0,
    }
    weights = {
        "auxiliary_weight": metadata["alpha"],
        "lbd_audio_weight": metadata["beta"],
        "contrastive_weight": metadata["gamma"],
        "lbd_temperature": metadata["kl_temperature"],
        "contrastive_temperature": metadata["contrastive_temperature"],
    }
    released = PRESETS["released"]
    model = BeyondMaskingDetector(BeyondMaskingConfig(**released["model"] | sizes))
    criterion = BeyondMaskingLoss(BeyondMaskingLossConfig(**released["loss"] | weights))
    return model, criterion


def released_name(name: str, prefixes: dict[str, str] = RELEASED_PREFIXES) -> str:
    """Our parameter name -> the published code's first one."""
    for theirs, ours in prefixes.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def as_double(tensor: Tensor) -> Tensor:
    """Double precision of a tensor of floating-point numbers; others as they are."""
    return tensor.double() if tensor.is_floating_point() else tensor


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the expected value, or to the largest one where that is near 0."""
    actual, expected = actual.detach().double().flatten(), expected.double().flatten()
    floor = expected.abs().max().clamp_min(1e-12) * 1e-2
    return ((actual - expected).abs() / expected.abs().maximum(floor)).max().item()


def run(
    model: BeyondMaskingDetector, criterion: BeyondMaskingLoss, inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Logits and loss terms of the fixture's inputs, which the front ends have already processed."""
    video, mfcc = inputs["video"], inputs["mfcc"]
    num_clips, num_frames = video.shape[0], video.shape[2]
    labels = inputs["labels"].flatten().to(video.dtype)
    no_frames_padded = torch.zeros(num_clips, num_frames, dtype=torch.bool, device=video.device)
    num_columns = torch.full((num_clips,), mfcc.shape[2], device=video.device)
    landmarks = inputs["landmarks"].view(num_clips, num_frames, -1, 2)
    output = model.forward_features(
        video, mfcc, landmarks, no_frames_padded, num_columns, no_frames_padded, video_fps=25.0
    )
    batch = ClipBatch(
        video=video.new_zeros((num_clips, 3, num_frames, 1, 1), dtype=torch.uint8),
        waveform=video.new_zeros(num_clips, 1),
        landmarks=landmarks,
        video_padding_mask=no_frames_padded,
        audio_padding_mask=no_frames_padded[:, :1],
        landmark_padding_mask=no_frames_padded,
        frame_labels=labels[:, None].expand(num_clips, num_frames),
        video_labels=labels,
        audio_labels=torch.full_like(labels, torch.nan),
        labels=labels,
        clip_ids=tuple(map(str, range(num_clips))),
        video_fps=25.0,
        sample_rate_hz=48_000,
    )
    terms = criterion(output, batch)
    kl = terms["video_lbd"] + criterion.config.lbd_audio_weight * terms["audio_lbd"]
    return {"logits": output.logits[:, None], "kl": kl, **terms}


def compare(path: Path, device: str = "cpu") -> dict[str, float]:
    """Relative error of every quantity of the fixture, computed on a device."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key).to(device) for key in file.keys()}
        metadata = json.loads(file.metadata()["config"])

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    model, criterion = (module.to(device) for module in build(metadata))
    model.load_released(part("state."))
    inputs, errors = part("input."), {}
    for mode in ("eval", "train"):
        model.train(mode == "train")
        model.load_released(part("state."))  # a training pass moves the batch norms' running statistics
        actual = run(model, criterion, inputs)
        for name, expected in part(f"expected.{mode}.").items():
            errors[f"{mode}.{name}"] = relative_error(actual[name], expected)

    model.double().load_released({name: as_double(tensor) for name, tensor in part("state.").items()})
    run(model, criterion, {name: as_double(tensor) for name, tensor in inputs.items()})["total"].backward()
    expected_norms = part("expected.grad_norm.")
    largest = max(norm.item() for norm in expected_norms.values())
    for name, parameter in model.named_parameters():
        expected = expected_norms.pop(released_name(name)).item()
        norm = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        key, floor = "grad_norm", GRADIENT_FLOOR
        if norm <= EXACT_ZERO * largest:
            key, floor = "grad_norm.zero", NOISE_FLOOR
        error = abs(norm - expected) / max(expected, floor * largest)
        errors[key] = max(errors.get(key, 0.0), error)
    if expected_norms:
        raise KeyError(f"no parameter for {sorted(expected_norms)}")
    return errors


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fixture", type=Path)
    errors = compare(parser.parse_args(argv).fixture)
    passed = all(error <= TOLERANCE for error in errors.values())
    report = {"passed": passed, "tolerance": TOLERANCE, "relative_errors": errors}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
