"""CLIP's image tower: open_clip's numbers, which frames it sees, and which files it loads."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from models.backbones.clip import SIZES, ClipPieces, ClipTower, five_a_second
from tests.parity.td3mf import fill
from tests.small_backbones import TINY_CLIP
from utils.errors import CheckpointError


def shapes(size):
    """Of the image tower in a published file, and of some of what is next to it."""
    width, hidden = size.width, 4 * size.width
    found = {"class_embedding": (width,), "positional_embedding": ((224 // size.patch) ** 2 + 1, width)}
    found |= {"conv1.weight": (width, 3, size.patch, size.patch), "proj": (width, 512)}
    found |= {f"{norm}.{part}": (width,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    for block in range(size.depth):
        parts = {f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        parts |= {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
        parts |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
        parts |= {"mlp.c_fc.weight": (hidden, width), "mlp.c_fc.bias": (hidden,)}
        parts |= {"mlp.c_proj.weight": (width, hidden), "mlp.c_proj.bias": (width,)}
        found |= {f"transformer.resblocks.{block}.{name}": shape for name, shape in parts.items()}
    text = {
        "positional_embedding": (77, 512),
        "transformer.resblocks.0.ln_1.weight": (512,),
        "logit_scale": (),
    }
    return {f"visual.{name}": shape for name, shape in found.items()} | text


def published(size):
    return {key: fill(key, list(shape), 6) for key, shape in shapes(size).items()}


def frames():
    """(2, 1, 224, 224, 3) uint8: waves of other lengths along rows, columns and colours."""
    place = np.arange(224 * 224 * 3).reshape(224, 224, 3)
    waves = [127.5 + 127.5 * np.sin(rate * place) for rate in (0.01, 0.0007)]
    return torch.from_numpy(np.stack(waves).round().astype(np.uint8))[:, None]


def test_a_picture_gives_open_clips_numbers():
    """Version 3.3 with these weights: the first four of a row, and the sum of its squares."""
    pieces = ClipPieces(ClipTower(TINY_CLIP)).eval()
    pieces.load_published(published(TINY_CLIP), "clip.bin")
    with torch.inference_mode():
        rows = pieces(frames())
        exact = pieces.double()(frames())
        alone = torch.cat([pieces(frames()[place : place + 1]) for place in range(2)])
    torch.testing.assert_close(alone, exact, rtol=1e-9, atol=1e-9)
    found = [[*row[:4].tolist(), row.square().sum().item()] for row in rows[:, 0]]
    kept = [
        [-0.68732, 1.35053, -1.13112, 0.03829, 21.7839],
        [-0.21804, 1.14394, -1.30893, -0.09473, 21.1739],
    ]
    np.testing.assert_allclose(found, kept, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_the_published_sizes_have_the_names_and_shapes_of_the_files(size):
    with torch.device("meta"):
        tower = ClipTower(SIZES[size])
    count = sum(value.numel() for value in tower.parameters())
    projection = SIZES[size].width * 512
    visual = [shape for key, shape in shapes(SIZES[size]).items() if key.startswith("visual.")]
    assert count + projection == sum(int(np.prod(shape)) for shape in visual)
    assert count == {"b16": 85_799_424, "l14": 303_179_776}[size]


def test_a_file_of_another_size_or_without_a_picture_tower_is_refused():
    tower, weights = ClipTower(TINY_CLIP), published(TINY_CLIP)
    with pytest.raises(CheckpointError, match=r"(?s)large\.bin: not the weights of ClipTower.*conv_proj"):
        tower.load_published(published(TINY_CLIP._replace(width=48)), "large.bin")
    with pytest.raises(CheckpointError, match=r"(?s)text\.bin.*class_token"):
        tower.load_published({key: v for key, v in weights.items() if "visual" not in key}, "text.bin")
    with pytest.raises(CheckpointError, match=r"(?s)odd\.bin.*visual\.attnpool"):
        tower.load_published(weights | {"visual.attnpool.bias": torch.ones(1)}, "odd.bin")


@pytest.mark.parametrize(("fps", "step"), [(25, 5), (Fraction(30000, 1001), 6), (50, 10), (3, 1)])
def test_about_five_frames_a_second_are_seen(fps, step):
    fps = Fraction(fps)
    plan = five_a_second(fps, 31)
    assert plan.pieces[:, 0].tolist() == list(range(0, 31, step))
    assert (plan.step_s, plan.length_s) == (step / fps, 1 / fps)
    assert plan.num_rows == len(plan.pieces)
