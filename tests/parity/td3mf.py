"""Parity of 2D3MF's fusion network and of its encoders with the published code.

    python -m tests.parity.td3mf FIXTURE.safetensors

FIXTURE holds features, and what the published modules made of them: fused features, logits and outputs of
all fusion types, losses, gradient norms and running statistics of training steps, and the outputs of MARLIN,
EfficientFace and AudioResNet18; the weights follow from the names of the parameters. Prints for every case
the largest error as a share of its tolerance and the tolerances as JSON; exit status 1 if one is above 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from models.backbones.audio_resnet18 import AudioResNet18
from models.backbones.efficientface import EfficientFace
from models.backbones.marlin import MarlinEncoder
from models.backbones.published import COUNTER, renamed_keys
from models.blocks.vit import ViTSize
from models.td3mf.fusion import TD3MFNetwork
from models.td3mf.published import load_network, names_of

# largest error as a share of a tensor's largest entry; of a gradient, of its norm; of what is zero, absolute
TOLERANCES = {"outputs": 1e-5, "loss": 1e-5, "gradients": 1e-3, "statistics": 1e-5, "zero": 1e-5}
FORMAT = "td3mf-fixture-1"
# audio backbone of the published code -> kind and width
AUDIO = {
    "mfcc": ("mfcc", 0), "resnet": ("tokens", 512), "xvectors": ("scores", 7205),
    "emotion2vec": ("tokens", 768), "eat": ("tokens", 768),
}  # fmt: skip


def fill(key: str, shape: list[int], seed: int) -> Tensor:
    """The weights that the published code was given under the name `key`, float32."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(16)
    numbers = np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(0x9E3779B1)
    mixed = (numbers + np.uint64(zlib.crc32(key.encode()) + seed * 0x85EBCA6B)) & mask
    mixed = ((mixed ^ (mixed >> half)) * np.uint64(0x85EBCA6B)) & mask
    mixed = ((mixed ^ (mixed >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & mask
    values = 2 * ((mixed ^ (mixed >> half)).astype(float) + 0.5) / 2**32 - 1
    if len(shape) > 1:
        values = values * math.sqrt(6 / math.prod(shape[1:]))
    elif key.endswith("running_var"):
        values = 1 + 0.5 * values
    else:
        is_scale = key.endswith("weight")
        values = 1 + 0.2 * values if is_scale else 0.2 * values
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


class Comparison:
    """Runs the cases of a fixture; `used` holds the largest share of each tolerance, by case and kind."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}
            about = file.metadata()
        if about["format"] != FORMAT:
            raise ValueError(f"{path}: of format {about['format']}, expected {FORMAT}")
        self.cases: list[dict[str, Any]] = json.loads(about["cases"])
        self.used: dict[str, dict[str, float]] = {}
        self.seen: set[str] = set()

    def run(self) -> dict[str, dict[str, float]]:
        for case in self.cases:
            if case["kind"] in ("fusion", "probe", "train"):
                self.network(case)
            else:
                self.encoder(case)
        if missed := {key for key in self.tensors if key.startswith("expected.")} - self.seen:
            raise KeyError(f"nothing was compared with {sorted(missed)[:5]} ({len(missed)} in all)")
        return self.used

    def check(self, case: str, name: str, actual: Tensor, kind: str) -> None:
        key = f"expected.{case}.{name}"
        self.seen.add(key)
        expected, actual = self.tensors[key].double(), actual.detach().double()
        if actual.shape != expected.shape:
            raise AssertionError(f"{key}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        error = actual.abs().max().item()
        if kind != "zero":  # else the fixture holds rounding
            error = (actual - expected).abs().max().item() / max(expected.abs().max().item(), 1e-300)
        kinds = self.used.setdefault(case, {})
        kinds[kind] = max(kinds.get(kind, 0.0), error / TOLERANCES[kind])

    def weights(self, case: dict[str, Any]) -> dict[str, Tensor]:
        prefix, about = f"weights.{case['name']}.", case["weights"]
        if about["source"] == "stored":
            return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}
        filled = {key: fill(key, shape, about["seed"]) for key, shape in about["shapes"].items()}
        total = sum(value.double().sum().item() for value in filled.values())
        if not math.isclose(total, about["sum"], rel_tol=1e-4, abs_tol=1e-2):
            raise AssertionError(f"{case['name']}: the filled weights sum to {total}, not to {about['sum']}")
        return filled

    def input(self, name: str) -> Tensor:
        value = self.tensors[f"inputs.{name}"]
        return value.float() if value.is_floating_point() else value

    def network(self, case: dict[str, Any]) -> None:
        name, settings, is_training = case["name"], case["settings"], case["kind"] == "train"
        network = build(case)
        weights = self.weights(case)
        load_network(network, weights, name)
        network.train(is_training)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        logits, fused = network(self.input(case["video"]), self.input(case["audio"]))
        is_binary = settings["num_classes"] == 1
        found = {"logits": logits, "fused": fused, "output": logits.sigmoid() if is_binary else logits}
        for output, value in found.items():
            if f"expected.{name}.{output}" in self.tensors:
                self.check(name, output, value, "outputs")
        if is_training:
            target = self.input(case["target"])
            of_two = F.binary_cross_entropy_with_logits
            loss = of_two(logits, target) if is_binary else F.cross_entropy(logits, target)
            loss.backward()
            self.check(name, "loss", loss, "loss")
            self.after_a_step(case, network, renamed_keys(weights, *names_of(network)))

    def after_a_step(self, case: dict[str, Any], network: TD3MFNetwork, names: dict[str, str]) -> None:
        """Gradient norms and running statistics; those of unused parts are not here."""
        name, buffers = case["name"], dict(network.named_buffers())
        gradients = {key: value.grad for key, value in network.named_parameters()}
        beginning = f"expected.{name}."
        for key in [key for key in self.tensors if key.startswith(beginning)]:
            kind, _, theirs = key.removeprefix(beginning).partition(".")
            if kind == "grad_norm":
                is_zero = theirs in case["zero_grad_keys"]
                norm = gradients[names[theirs]].norm()
                self.check(name, f"{kind}.{theirs}", norm, "zero" if is_zero else "gradients")
            elif kind == "buffers" and theirs.endswith(COUNTER):
                ours = next((names[other] for other in names if _module(other) == _module(theirs)), None)
                self.seen.add(key)
                if ours and buffers[f"{_module(ours)}.{COUNTER}"] != self.tensors[key]:
                    raise AssertionError(f"{key}: counted otherwise")
            elif kind == "buffers" and theirs in names:
                self.check(name, f"{kind}.{theirs}", buffers[names[theirs]], "statistics")
            elif kind == "buffers":
                self.seen.add(key)

    def encoder(self, case: dict[str, Any]) -> None:
        name, settings = case["name"], case["settings"]
        encoder: MarlinEncoder | EfficientFace | AudioResNet18
        if case["kind"] == "marlin_encoder":
            size = ViTSize(settings["embed_dim"], settings["depth"], settings["num_heads"])
            encoder = MarlinEncoder(size, settings["n_frames"], settings["img_size"])
        else:
            encoder = EfficientFace() if case["kind"] == "efficientface" else AudioResNet18()
        encoder.load_published(self.weights(case), name)
        encoder.eval()
        signal = self.input(case["input"])
        with torch.no_grad():
            if isinstance(encoder, MarlinEncoder):
                self.check(name, "pooled", encoder(signal), "outputs")
                self.check(name, "tokens", encoder.tokens(signal), "outputs")
                self.check(name, "position_table", encoder.positions, "outputs")
            else:
                self.check(name, "features", encoder(signal), "outputs")


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def build(case: dict[str, Any]) -> TD3MFNetwork:
    """The network of a case's settings, which are the published constructor's."""
    settings = case["settings"]
    steps = settings["temporal_axis"]
    audio_kind, audio_dim = AUDIO[settings["audio_backbone"].lower()]
    return TD3MFNetwork(
        video_dim=case["video_dim"],
        audio_kind=audio_kind,
        audio_dim=audio_dim,
        hidden_dim=settings["hidden_layers"],
        num_heads=settings["num_heads"],
        num_steps=steps,
        num_audio_steps=steps,
        num_classes=settings["num_classes"],
        fusion_type=settings["middle_fusion_type"],
        late=settings["fusion"] == "lf",
        audio_positions=settings["audio_pe"],
        only="video" if settings["lp_only"] else "audio" if settings["audio_only"] else "",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity.td3mf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fixture", type=Path)
    used = Comparison(parser.parse_args(arguments).fixture).run()
    report = {"share_of_tolerance_used": used, "tolerances": TOLERANCES}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return int(any(share > 1 for kinds in used.values() for share in kinds.values()))


if __name__ == "__main__":
    sys.exit(main())
