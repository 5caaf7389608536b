"""Parity of M2SD's network, clips, alignment and tracking with the published code, and of perturbations.

    python -m tests.parity.m2sd FIXTURE.safetensors [--dtype float32]

FIXTURE holds what the published code made of small networks and of the base one (features of every block,
logits, losses, gradient norms), its clips, scores, crops, alignments and tracks, and perturbed pictures; the
weights follow from the names of the parameters. Prints for every case the largest error as a share of its
tolerance and the tolerances as JSON; exit status 1 if one is above 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from models.blocks import alignment
from models.blocks.position import sinusoid_table
from models.blocks.vit import TUBELET, TubeletViT, ViTSize
from models.m2sd import clips
from models.m2sd.front_end import MEAN, STD
from models.m2sd.published import released_names, take_released
from preprocess.faces.m2sd_rules import Detection, find_segments
from preprocess.perturb import frame_changes
from tests.parity.mrdf import WithoutInitialisation

# in float64 and float32; of networks as a share of a tensor's largest entry, and absolute where it says so
TOLERANCES = {
    "network": (1e-6, 1e-4), "base": (1e-6, 1e-3), "gradients": (1e-6, 1e-3), "input": (1e-6, 1e-6),
    "positions": (1e-6, 1e-6), "sum": (0.05, 0.05), "scores": (1e-9, 1e-9), "exact": (0.5, 0.5),
    "matrix": (1e-6, 1e-6), "levels": (1.0, 1.0), "share_of_two_levels": (0.005, 0.005),
    "normalised": (0.0176, 0.0176),
}  # fmt: skip
ABSOLUTE = {"sum", "scores", "exact", "matrix", "levels", "normalised", "input", "positions"}
DECODER_WIDTH = 384
PERTURBATIONS = {"CS": frame_changes.fade_colors, "CC": frame_changes.darken, "GB": frame_changes.blur,
                 "PX": frame_changes.pixelate}  # fmt: skip


def fill(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The weights that the published code was given under the name `key`, float32."""
    values = _numbers(key, seed).standard_normal(shape)
    if key == "cls_token":
        values = 0.5 * values
    elif len(shape) > 1:
        values = values * np.sqrt(1 / np.prod(shape[1:]))
    else:
        values = 1 + 0.1 * values if key.endswith(".weight") else 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


def _numbers(key: str, seed: int) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)


class Student(nn.Module):
    """The network of M2SDDetector in any size, without its front end."""

    def __init__(self, about: dict[str, Any], seed: int) -> None:
        super().__init__()
        size = ViTSize(about["embed_dim"], about["depth"], about["num_heads"])
        self.vit = TubeletViT(size, about["all_frames"], about["img_size"], class_token=True)
        self.head = nn.Linear(size.width, about["num_classes"])
        ours = self.state_dict()
        theirs = published_names(len(self.vit.blocks))
        self.theirs = {released_names([name])[name]: name for name in theirs}
        shapes = {name: tuple(ours[own].shape) for own, name in self.theirs.items()}
        take_released(self, {name: fill(name, shape, seed) for name, shape in shapes.items()})


def published_names(depth: int) -> list[str]:
    """The keys of a released checkpoint."""
    parts = ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.q_bias", "attn.v_bias",
             "attn.proj.weight", "attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight",
             "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"]  # fmt: skip
    blocks = [f"blocks.{number}.{part}" for number in range(depth) for part in parts]
    ends = [f"{name}.{kind}" for name in ("patch_embed.proj", "norm", "head") for kind in ("weight", "bias")]
    return ["cls_token", *ends, *blocks]


def normalised(frames: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, 3, T, H, W), float64."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD))
    return ((frames.double() / 255 - mean) / std).permute(0, 4, 1, 2, 3)


class Comparison:
    """Runs the cases of a fixture; `used` holds the largest share of each tolerance, by case and kind."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        with safe_open(path, framework="pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}
            self.config = json.loads(file.metadata()["config"])
        self.dtype, self.column = dtype, int(dtype == torch.float32)
        self.used: dict[str, dict[str, float]] = {}
        self.seen: set[str] = set()

    def run(self) -> dict[str, dict[str, float]]:
        for name, about in self.config["networks"].items():
            if f"{name}.clip" in self.tensors:
                self.network(name, about)
            else:
                self.large_network(name, about)
        for part in ("clips", "scores", "crop", "align", "track", "perturb"):
            getattr(self, part)()
        if missed := self.tensors.keys() - self.seen:
            raise KeyError(f"nothing was compared with {sorted(missed)[:5]} ({len(missed)} in all)")
        return self.used

    def given(self, key: str) -> Tensor:
        """A tensor of the fixture that is an input."""
        self.seen.add(key)
        return self.tensors[key]

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix.` in the fixture's keys, up to the next dot."""
        found = (key.removeprefix(f"{prefix}.") for key in self.tensors if key.startswith(f"{prefix}."))
        return sorted({name.partition(".")[0] for name in found})

    def check(self, key: str, actual: Any, kind: str) -> None:
        expected = self.given(key).double()
        actual = (actual if isinstance(actual, Tensor) else torch.tensor(actual)).detach().double()
        if actual.shape != expected.shape:
            raise AssertionError(f"{key}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        known = ~expected.isnan()
        if not torch.equal(known, ~actual.isnan()):
            raise AssertionError(f"{key}: not a number in other places")
        error = (actual - expected)[known].abs().max().item() if known.any() else 0.0
        scale = 1.0 if kind in ABSOLUTE else max(expected[known].abs().max().item(), 1e-300)
        self.note(key, kind, error / scale)

    def note(self, key: str, kind: str, error: float) -> None:
        rows = self.used.setdefault(".".join(key.split(".")[: 2 if key.startswith("perturb") else 1]), {})
        rows[kind] = max(rows.get(kind, 0.0), error / TOLERANCES[kind][self.column])

    def outputs(self, student: Student, video: Tensor) -> dict[str, Tensor]:
        """What the network makes of (B, 3, T, S, S), by the fixture's names."""
        found: dict[str, Tensor] = {}
        parts = {"patch_embed": student.vit.patch_embedding}
        parts |= {f"block{number}": block for number, block in enumerate(student.vit.blocks)}
        hooks = [
            part.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out))
            for name, part in parts.items()
        ]
        found["feature"] = student.vit(video)[:, 0]
        for hook in hooks:
            hook.remove()
        found["patch_embed"] = found["patch_embed"].flatten(2).transpose(1, 2)
        found["logits"] = student.head(found["feature"])
        return found | {"prob_index0": found["logits"].softmax(dim=1)[:, 0]}

    def network(self, name: str, about: dict[str, Any]) -> None:
        student = Student(about, self.config["seed"]).to(self.dtype)
        video = normalised(self.given(f"{name}.clip"))
        self.check(f"{name}.input", video, "input")
        found = self.outputs(student, video.to(self.dtype))
        for output, value in found.items():
            self.check(f"{name}.{output}", value, "network")
        loss = F.cross_entropy(found["logits"], self.given(f"{name}.labels").long())
        self.check(f"{name}.ce", loss, "network")
        loss.backward()
        for own, parameter in student.named_parameters():
            assert parameter.grad is not None
            self.check(f"{name}.grad_norm.{student.theirs[own]}", parameter.grad.norm(), "gradients")
        self.check(f"{name}.pos_table", student.vit.positions[0], "positions")

    def large_network(self, name: str, about: dict[str, Any]) -> None:
        with WithoutInitialisation():
            student = Student(about, self.config["seed"]).to(self.dtype)
        shape = (1, about["all_frames"], about["img_size"], about["img_size"], 3)
        clip = _numbers(f"input.{name}", self.config["seed"]).randint(0, 256, shape).astype(np.uint8)
        self.check(f"{name}.clip_check", [int(clip.sum()), *clip.ravel()[:6].tolist()], "exact")
        with torch.no_grad():
            found = self.outputs(student, normalised(torch.from_numpy(clip)).to(self.dtype))
        for output in ("logits", "prob_index0", "feature"):
            self.check(f"{name}.{output}", found[output], "base")
        blocks = torch.stack([found[f"block{number}"][0] for number in range(about["depth"])])
        self.check(f"{name}.block_cls", blocks[:, 0], "base")
        self.check(f"{name}.block_patch_mean", blocks[:, 1:].mean(1), "base")
        places = (about["img_size"] // TUBELET[1]) ** 2
        patches = found["patch_embed"][0]
        rows = [0, places - 1, places, len(patches) - 1]
        self.check(f"{name}.patch_embed_rows", patches[rows], "base")
        count = len(patches) + 1
        rows = [0, 1, count // 2, count - 1]
        self.check(f"{name}.pos_rows", student.vit.positions[0, rows], "positions")
        self.check(f"{name}.decoder_pos_rows", sinusoid_table(count, DECODER_WIDTH)[rows], "positions")
        self.check(f"{name}.pos_sum", student.vit.positions.double().sum(), "sum")

    def clips(self) -> None:
        for name in self.names("clips"):
            self.check(f"clips.{name}", clips.clip_indices(int(name.removeprefix("n"))), "exact")

    def scores(self) -> None:
        for name in self.names("scores"):
            start = f"scores.{name}"
            num_frames, tracks = (
                int(self.given(f"{start}.num_frames")),
                self.given(f"{start}.tracks").tolist(),
            )
            scores = self.given(f"{start}.clip_scores").numpy()
            indices = np.concatenate([first + clips.clip_indices(end - first) for first, end in tracks])
            self.check(f"{start}.frame_scores", clips.frame_scores(indices, scores, num_frames), "scores")
            self.check(f"{start}.frame_count", np.bincount(indices.ravel(), minlength=num_frames), "exact")
            self.check(f"{start}.video_score", scores.mean(), "scores")
            drawn = np.full(num_frames, -1)  # the published code draws the last track's box
            for number, (first, end) in enumerate(tracks):
                drawn[first:end] = number
            self.check(f"{start}.drawn_track", drawn, "exact")

    def crop(self) -> None:
        sizes = self.given("crop.frame_hw").tolist()
        boxes = self.given("crop.boxes").tolist()
        found = [
            clips.crop_box(box, width, height) for box, (height, width) in zip(boxes, sizes, strict=True)
        ]
        self.check("crop.expanded", np.array(found), "exact")

    def align(self) -> None:
        targets = alignment.template(224)
        self.check("align.template224", targets, "matrix")
        points = self.given("align.points").nanmean(dim=1)
        self.check("align.matrix", alignment.similarity_to(targets, points), "matrix")
        start = "align.clip"
        boxes = self.given(f"{start}.boxes").numpy()
        crops = [self.given(f"{start}.crop{number:02d}").numpy() for number in range(len(boxes))]
        canvas, corner = clips.joint_canvas(crops, boxes)
        self.check(f"{start}.canvas_hw", canvas.shape[1:3], "exact")
        points = self.given(f"{start}.lm5_in_crop") + torch.from_numpy(boxes[:, None, :2] - corner)
        matrix = alignment.similarity_to(targets, points.mean(dim=0))
        self.check(f"{start}.matrix", matrix, "matrix")
        video = torch.from_numpy(canvas).permute(3, 0, 1, 2)[None]
        frames = alignment.sample(video, matrix[None], 224)[0].permute(1, 2, 3, 0)  # (16, 224, 224, 3)
        key = f"{start}.aligned_every4"
        errors = (frames[:, ::4, ::4] - self.given(key)).abs()
        self.note(key, "levels", errors.max().item() / 2)  # up to two, but on few pixels
        self.note(key, "share_of_two_levels", (errors > 1).double().mean().item())
        self.check(f"{start}.normalised_every16", normalised(frames[None])[..., ::16, ::16], "normalised")

    def track(self) -> None:
        for name in self.names("track"):
            start = f"track.{name}"
            frames, numbers = [], []  # detections of each frame, and their places in the fixture
            for faces in self.given(f"{start}.detections").numpy():
                numbers.append(np.flatnonzero(~np.isnan(faces).any(axis=1)))
                rows = faces[numbers[-1]].tolist()
                frames.append([Detection(tuple(row[:4]), row[4]) for row in rows])
            segments = find_segments(frames)
            faces = np.full((len(segments), len(frames)), -1)
            for row, segment in zip(faces, segments, strict=True):
                shown = range(segment.start, segment.end)
                row[segment.start : segment.end] = [
                    numbers[frame][face] for frame, face in zip(shown, segment.faces, strict=True)
                ]
            ends = np.array([(segment.start, segment.end) for segment in segments]).reshape(-1, 2)
            self.check(f"{start}.segments", ends, "exact")
            self.check(f"{start}.face", faces, "exact")
            full = sum((segment.start, segment.end) == (0, len(frames)) for segment in segments)
            self.check(f"{start}.num_full", full, "exact")

    def perturb(self) -> None:
        levels = self.config["levels"]
        for name in self.names("perturb"):
            start = f"perturb.{name}"
            if f"{start}.image" not in self.tensors:
                continue
            image = np.ascontiguousarray(self.given(f"{start}.image").numpy()[..., ::-1])  # RGB
            normal = self.given(f"{start}.noise").numpy()
            for kind in self.names(start):
                for level in self.names(f"{start}.{kind}"):
                    key, value = f"{start}.{kind}.{level}", levels[kind][int(level) - 1]
                    if kind == "GNC":
                        changed = frame_changes.add_noise(image, value, normal)
                    else:
                        changed = PERTURBATIONS[kind](image, value)
                    self.check(key, changed[..., ::-1].copy(), "levels")
        self.blocks(levels["BW"])

    def blocks(self, levels: list[float]) -> None:
        corners = self.given("perturb.BW.xy").numpy()
        height, width = self.tensors["perturb.BW.first_level"].shape
        first = np.zeros((height, width))
        for level, value in reversed(list(enumerate(levels, start=1))):
            count = frame_changes.num_blocks(height, width, value)
            frame = frame_changes.draw_blocks(np.zeros((height, width, 3), np.uint8), corners[:count])
            first[frame[..., 0] > 0] = level
        self.check("perturb.BW.first_level", first, "exact")
        sizes = self.given("perturb.BW.frame_hw").tolist()
        counts = [[frame_changes.num_blocks(*size, value) for value in levels] for size in sizes]
        self.check("perturb.BW.count", np.array(counts), "exact")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity.m2sd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fixture", type=Path)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    args = parser.parse_args(arguments)
    used = Comparison(args.fixture, getattr(torch, args.dtype)).run()
    report = {"dtype": args.dtype, "share_of_tolerance_used": used, "tolerances": TOLERANCES}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return int(any(share > 1 for kinds in used.values() for share in kinds.values()))


if __name__ == "__main__":
    sys.exit(main())
