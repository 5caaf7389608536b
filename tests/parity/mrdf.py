"""Parity of MRDF's presets with its published code.

    python -m tests.parity.mrdf FIXTURE.safetensors

FIXTURE holds inputs, outputs, losses and gradient norms that the published code gave for its variants, with
an encoder without layers and with twelve, and what its data set made of a sound and of pictures; the weights
follow from the names of the parameters. Prints for every case the largest error as a share of its tolerance
and the tolerances as JSON; exit status 1 if one is above 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from losses.mrdf import MrdfLoss, MrdfLossConfig
from models.backbones.log_filterbank import LogFilterbank, stack_rows
from models.mrdf.config import PRESETS, MrdfConfig
from models.mrdf.detector import MrdfDetector
from models.mrdf.front_ends import PictureFrontEnd
from models.mrdf.published_weights import RELEASED_PREFIXES, UNUSED, UNUSED_BY
from tests.parity import beyond_masking
from utils.types import ClipBatch

# |actual - expected| <= absolute + relative * |expected|, of "scaled" absolute counts in largest |expected|
TOLERANCES = {
    "logits": {"absolute": 2e-5, "relative": 1e-5},
    "embeddings": {"absolute": 1e-5, "scaled": True},
    "gradient_norms": {"absolute": 1e-5, "relative": 1e-3},
    "buffer_norms": {"relative": 1e-6},
    "logfbank": {"absolute": 1e-4},
    "stacked": {"absolute": 2e-5},
    "frames": {"absolute": 1e-6},
    "exact": {},
}
EMBEDDINGS = {
    "v_emb": "video_embedding",
    "a_emb": "audio_embedding",
    "v_cross": "video_mean",
    "a_cross": "audio_mean",
}
SCORES = {"m_logits": "class_logits", "v_logits": "video_class_logits", "a_logits": "audio_class_logits"}
FILTERBANK_STACK = 4
released_name = functools.partial(beyond_masking.released_name, prefixes=RELEASED_PREFIXES)


def used_share(actual: Tensor | float, expected: Tensor, kind: str) -> float:
    """Largest error as a share of what the tolerance of `kind` allows; infinite where that is exactness."""
    allowed = TOLERANCES[kind]
    actual = torch.as_tensor(actual).detach().double()
    expected = expected.double()
    if actual.shape != expected.shape:
        return float("inf")
    absolute = allowed.get("absolute", 0.0) * (expected.abs().max() if allowed.get("scaled") else 1.0)
    limit = absolute + allowed.get("relative", 0.0) * expected.abs()
    error = (actual - expected).abs()
    return torch.where(error == 0, 0.0, error / limit).max().item()


def fill(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The weights that the published code was given under the name `key`."""
    numbers = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    values = numbers.standard_normal(int(np.prod(shape))).reshape(shape)
    if key.endswith("weight_g"):
        values = np.ones(shape)
    elif re.search(r"(frontend3D\.2|relu[12])\.weight$", key):
        values = np.full(shape, 0.25)
    elif key.endswith("bias") or key.endswith("mask_emb"):
        values = 0.1 * values
    elif len(shape) >= 2:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = 1 + 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


class Weights:
    """`fill` of a seed, remembered: the cases share most of their weights."""

    def __init__(self, seed: int) -> None:
        self.seed, self.known = seed, {}

    def __getitem__(self, item: tuple[str, tuple[int, ...]]) -> Tensor:
        if item not in self.known:
            self.known[item] = fill(*item, self.seed)
        return self.known[item]


class WithoutInitialisation(TorchFunctionMode):
    """Modules made in it keep uninitialised weights: for models that load all of theirs."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        is_draw = getattr(func, "__name__", "") in (
            "normal_",
            "uniform_",
        )  # some of torch.nn.init are seen so
        if is_draw or getattr(func, "__module__", "") == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def build(variant: str, encoder_layers: int, weights: Weights, **changes: object) -> MrdfDetector:
    """The released preset of a variant, with the rule's weights loaded as a published checkpoint."""
    fields = PRESETS["released"]["model"] | {
        "mrdf_variant": variant,
        "encoder_layers": encoder_layers,
        "dropout": 0.0,
    }
    fields |= changes
    with WithoutInitialisation():
        model = MrdfDetector(MrdfConfig(**fields))
    shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
    state = {released_name(key): weights[released_name(key), shape] for key, shape in shapes.items()}
    buffers = {released_name(key): value for key, value in model.state_dict().items() if key not in shapes}
    model.load_released(state | buffers)
    return model


def as_batch(labels: dict[str, Tensor], num_frames: int) -> ClipBatch:
    """A batch of the fixture's labels (1 = real there), without signals."""
    num_clips = len(labels["m"])
    fake = {name: 1.0 - value.float() for name, value in labels.items()}
    return ClipBatch(
        video=torch.zeros(num_clips, 3, num_frames, 1, 1, dtype=torch.uint8),
        waveform=torch.zeros(num_clips, 1),
        landmarks=torch.zeros(num_clips, num_frames, 1, 2),
        video_padding_mask=torch.zeros(num_clips, num_frames, dtype=torch.bool),
        landmark_padding_mask=torch.zeros(num_clips, num_frames, dtype=torch.bool),
        audio_padding_mask=torch.zeros(num_clips, 1, dtype=torch.bool),
        frame_labels=fake["v"][:, None].expand(num_clips, num_frames),
        video_labels=fake["v"],
        audio_labels=fake["a"],
        labels=fake["m"],
        clip_ids=tuple(map(str, range(num_clips))),
        video_fps=25.0,
        sample_rate_hz=48_000,
    )


class Comparison:
    """Runs the cases of a fixture; `used` holds the largest share of each tolerance, by case and quantity."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata()
        self.config, self.shapes = json.loads(metadata["config"]), json.loads(metadata["shapes"])
        self.weights = Weights(self.config["seed"])
        self.used: dict[str, dict[str, float]] = {}
        labels = {name: self.tensors[f"input.{name}_label"] for name in ("v", "a", "m")}
        self.frames = self.tensors["input.video"]
        self.sound = self.tensors["input.audio"].transpose(1, 2)  # (B, T, 104)
        self.batch = as_batch(labels, self.frames.shape[2])
        self.seen: set[str] = set()

    def check(self, case: str, name: str, actual: Tensor | float, kind: str, key: str | None = None) -> None:
        """Compare with the fixture's tensor `key`, by default expected.CASE.NAME."""
        key = key or f"expected.{case}.{name}"
        self.seen.add(key)
        share = used_share(actual, self.tensors[key], kind)
        name = re.sub(r"(grad|buffer)_norm\..*", r"\1_norm", name)
        rows = self.used.setdefault(case, {})
        rows[name] = max(rows.get(name, 0.0), share)

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def run(self) -> dict[str, dict[str, float]]:
        self.front_ends()
        for case in self.config["cases"]:
            self.case(case)
        if missed := {key for key in self.tensors if key.startswith("expected.")} - self.seen:
            raise KeyError(f"nothing was compared with {sorted(missed)[:5]} ({len(missed)} in all)")
        return self.used

    def front_ends(self) -> None:
        samples = self.tensors["input.waveform_int16"].float()[None]
        rows, _ = LogFilterbank()(samples, torch.tensor([samples.shape[1]]))
        self.check("front_ends", "logfbank", rows[0], "logfbank", "expected.logfbank")
        longest = -(-rows.shape[1] // FILTERBANK_STACK)
        fits = {"logfbank_stacked": longest}
        fits |= {key: len(self.tensors[f"expected.{key}"]) for key in
                 ("logfbank_fitted_longer", "logfbank_fitted_shorter")}  # fmt: skip
        for name, num_frames in fits.items():
            stacked = stack_rows(rows, FILTERBANK_STACK, num_frames)[0]
            self.check("front_ends", name, stacked, "stacked", f"expected.{name}")
        # the published code cuts both clips, of 3 and 5 frames, to the first 3, channels in front
        collated = self.tensors["expected.collated_audio"]
        cut = stack_rows(rows, FILTERBANK_STACK, collated.shape[2]).transpose(1, 2)
        self.check("front_ends", "collated_audio", cut.expand(len(collated), -1, -1), "stacked",
                   "expected.collated_audio")  # fmt: skip
        video = self.tensors["input.frames_uint8"].permute(3, 0, 1, 2)[None]
        size = self.tensors["expected.frames"].shape[1]
        frames = PictureFrontEnd(video.shape[-1] // 2, size).eval()(video)
        self.check("front_ends", "frames", frames[0].permute(1, 2, 3, 0), "frames", "expected.frames")

    def forward(self, model: MrdfDetector) -> Any:
        return model.forward_features(self.frames, self.sound, self.batch.video_padding_mask)

    def losses(self, output: Any, margins: dict[str, float]) -> dict[str, Tensor]:
        names = {"contrast": "margin_contrast", "audio": "margin_audio", "visual": "margin_visual"}
        config = MrdfLossConfig(**{names[key]: value for key, value in margins.items()})
        return MrdfLoss(config)(output, self.batch)

    def case(self, about: dict[str, Any]) -> None:
        case, variant, layers = about["case"], about["variant"], about["encoder_layers"]
        model = build(variant, layers, self.weights)
        self.sizes(about, model)
        self.stages(model, layers)
        with torch.no_grad():
            output = self.forward(model.eval())
        self.outputs(case, "eval", output)
        is_real = (output.logits <= 0).long()
        decided = output.class_logits.argmax(1) if variant == "avdf_multiclass" else is_real
        if variant == "avdf_multiclass" and ((decided == 0).long() != is_real).any():
            raise AssertionError("the sign of the logits is not the published decision")
        self.check(case, "eval.pred", decided, "exact")
        self.loss_terms(case, "eval.loss.", self.losses(output, self.config["margins"]))
        if self.part(f"expected.{case}.eval.loss_zero_margin."):
            zero = dict.fromkeys(self.config["margins"], 0.0)
            self.loss_terms(case, "eval.loss_zero_margin.", self.losses(output, zero))
        if about["train"]:
            self.training(case, model.train())

    def training(self, case: str, model: MrdfDetector) -> None:
        output = self.forward(model)
        self.outputs(case, "train", output)
        terms = self.losses(output, self.config["margins"])
        self.loss_terms(case, "train.loss.", terms)
        terms["total"].backward()
        expected = self.part(f"expected.{case}.train.grad_norm.")
        gradients = {released_name(key): value.grad for key, value in model.named_parameters()}
        without = {key for key, gradient in gradients.items() if gradient is None}
        without |= {key for key in expected if key.startswith(UNUSED)}
        if without != set(self.config["no_grad_keys"][case]):
            raise AssertionError(f"{case}: no gradient reaches {sorted(without)}")
        for key in expected:
            gradient = gradients.get(key)
            norm = 0.0 if gradient is None else gradient.norm()
            self.check(case, f"train.grad_norm.{key}", norm, "gradient_norms")
        buffers = {released_name(key): value for key, value in model.named_buffers() if "running" in key}
        if self.part(f"expected.{case}.train.buffer_norm."):
            for key, value in buffers.items():
                norm = value.double().norm()
                self.check(case, f"train.buffer_norm.{key}", norm, "buffer_norms")

    def sizes(self, about: dict[str, Any], model: MrdfDetector) -> None:
        """Shapes of all parameters, and their number with those that nothing uses, which we do not build."""
        ours = {released_name(key): list(value.shape) for key, value in model.named_parameters()}
        unused = (*UNUSED, *UNUSED_BY.get(about["variant"], ()))
        theirs = self.shapes[about["case"]]
        dead = {key: shape for key, shape in theirs.items() if key.startswith(unused)}
        count = sum(int(np.prod(shape)) for shape in (ours | dead).values())
        if ours | dead != theirs or len(theirs) != about["keys"] or count != about["parameters"]:
            raise AssertionError(f"{about['case']}: other parameters, or another number of them ({count})")

    def outputs(self, case: str, mode: str, output: Any) -> None:
        for key in self.part(f"expected.{case}.{mode}."):
            if key in EMBEDDINGS:
                self.check(case, f"{mode}.{key}", getattr(output, EMBEDDINGS[key]), "embeddings")
            elif key in SCORES:
                self.check(case, f"{mode}.{key}", getattr(output, SCORES[key]), "logits")

    def loss_terms(self, case: str, prefix: str, terms: dict[str, Tensor]) -> None:
        expected = self.part(f"expected.{case}.{prefix}")
        if expected.keys() != terms.keys():
            raise AssertionError(f"{case}: the loss has terms {sorted(terms)}, expected {sorted(expected)}")
        for key, value in terms.items():
            self.check(case, f"{prefix}{key}", value, "logits")

    def stages(self, model: MrdfDetector, layers: int) -> None:
        """From now on compare what flows between the parts of the network."""

        def compare(stage: str, kind: str) -> Callable[..., None]:
            def hook(module: object, args: object, output: Tensor) -> None:
                if not model.training:
                    self.check("stage", stage, output, kind)

            return hook

        model.audio_projection.register_forward_hook(compare("audio_features", "embeddings"))
        model.video_projection.register_forward_hook(compare("video_features", "embeddings"))
        if model.config.mrdf_variant != "avdf_ensemble":
            model.fusion.register_forward_hook(compare("fusion_input", "embeddings"))
            model.encoder.register_forward_hook(compare(f"encoder_out.L{layers}", "logits"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fixture", type=Path)
    used = Comparison(parser.parse_args(argv).fixture).run()
    passed = all(share <= 1 for rows in used.values() for share in rows.values())
    report = {"passed": passed, "tolerances": TOLERANCES, "share_of_tolerance_used": used}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
