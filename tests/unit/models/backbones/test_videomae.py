"""VideoMAE's files under both of their names, against transformers' outputs, and as a start of M2SD."""

import logging

import pytest
import torch
from torch import nn

from models.backbones.videomae import VideoMae, vit_weights
from models.blocks.vit import ViTSize, tube_masks
from models.m2sd import M2SDDetector
from models.m2sd.config import M2SDConfig
from tests.parity.m2sd import fill
from utils.errors import CheckpointError

TINY, DECODER = ViTSize(48, 2, 3), ViTSize(24, 1, 3)
MASKED = [True, False, True, True] * 2
# of transformers 5.24.0, VideoMAEForPreTraining with layer_norm_eps 1e-6 and use_mean_pooling false: of each
# masked place the first logits, and the mean and deviation of all
LOGITS = [
    (-0.92060, -1.46613, -1.87532),
    (-0.61809, -1.41801, -2.14215),
    (-0.51278, -0.86141, -2.35153),
    (-0.51790, -0.57764, -2.46509),
    (0.00502, -1.20867, -2.25390),
    (0.40796, -1.79309, -1.94737),
]
MOMENTS = (-0.0414946, 1.0707333)


def block_shapes(size):
    width, hidden = size.width, 4 * size.width
    shapes = {f"norm{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    shapes |= {"attn.q_bias": (width,), "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width)}
    shapes |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
    shapes |= {"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,)}
    return shapes | {"mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,)}


def encoder_file():
    """The encoder's part of a file of VideoMAE's own code, by M2SD's rule of weights."""
    width = TINY.width
    shapes = {"patch_embed.proj.weight": (width, 3, 2, 16, 16), "patch_embed.proj.bias": (width,)}
    shapes |= {f"blocks.{k}.{name}": s for k in range(TINY.depth) for name, s in block_shapes(TINY).items()}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return {f"encoder.{name}": fill(name, shape, 1) for name, shape in shapes.items()}


def pretrained_file():
    """A file of its pre-training."""
    width = DECODER.width
    shapes = {"mask_token": (1, 1, width), "encoder_to_decoder.weight": (width, TINY.width)}
    shapes |= {f"decoder.blocks.0.{name}": shape for name, shape in block_shapes(DECODER).items()}
    shapes |= {"decoder.norm.weight": (width,), "decoder.norm.bias": (width,)}
    shapes |= {"decoder.head.weight": (1536, width), "decoder.head.bias": (1536,)}
    return encoder_file() | {name: fill(name, shape, 1) for name, shape in shapes.items()}


def hugging_face(state, *, biases=("query.bias", "value.bias")):
    """The same under transformers' names."""
    renames = [
        ("encoder.patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection."),
        ("encoder.norm.", "videomae.layernorm."),
        ("encoder.blocks.", "videomae.encoder.layer."),
        ("decoder.blocks.", "decoder.decoder_layers."),
        ("attn.proj.", "attention.output.dense."),
        ("attn.q_bias", f"attention.attention.{biases[0]}"),
        ("attn.v_bias", f"attention.attention.{biases[1]}"),
        ("attn.", "attention.attention."),
        ("mlp.fc1.", "intermediate.dense."),
        ("mlp.fc2.", "output.dense."),
        ("norm1.", "layernorm_before."),
        ("norm2.", "layernorm_after."),
    ]
    named = {}
    for key, value in state.items():
        for ours, theirs in renames:
            key = key.replace(ours, theirs)
        if "qkv" in key:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            named |= {key.replace("qkv", part): rows for part, rows in parts}
        else:
            named[key] = value
    return named


def tiny():
    return VideoMae(TINY, DECODER, num_frames=4, image_size=32)


def video_of(count=1):
    return torch.sin(0.01 * torch.arange(count * 3 * 4 * 32 * 32)).view(count, 3, 4, 32, 32)


@pytest.mark.parametrize("kind", ["own", "hugging_face", "hugging_face_4"])
def test_masked_pixels_are_those_of_transformers(kind):
    state = pretrained_file()
    if kind != "own":
        biases = ("query.bias", "value.bias") if kind == "hugging_face" else ("q_bias", "v_bias")
        state = hugging_face(state, biases=biases)
    model = tiny().eval()
    model.load_published(state, "videomae.pth")
    with torch.no_grad():
        logits = model(video_of(), torch.tensor([MASKED]))
    torch.testing.assert_close(logits[0, :, :3], torch.tensor(LOGITS), atol=1e-4, rtol=0)
    found = (logits.mean().item(), logits.std().item())
    assert found == pytest.approx(MOMENTS, abs=1e-5)


def test_number_of_parameters():
    with torch.device("meta"):
        model = VideoMae()
    assert sum(value.numel() for value in model.parameters()) == 94_210_944
    assert model.decoder.positions.shape == (1, 1568, 384)  # none for a class token


def test_files_that_lack_something_are_refused():
    state = pretrained_file()
    del state["mask_token"]
    with pytest.raises(CheckpointError, match=r"half\.pth: not the weights of VideoMae"):
        tiny().load_published(state, "half.pth")


def test_pixels_are_learnt():
    torch.manual_seed(0)
    model, video = tiny(), video_of(2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    masked = tube_masks(2, model.encoder.grid, 0.75)
    target = torch.randn(2, int(masked[0].sum()), 1536, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(model(video, masked), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kind", ["pretrained", "fine_tuned", "hugging_face"])
def test_m2sd_starts_from_it(kind, tmp_path, caplog):
    """Its positions are one further there, so only tokens before positions are the same: trap T6."""
    state = encoder_file()
    if kind == "fine_tuned":
        state = {key.removeprefix("encoder."): value for key, value in state.items()}
        state |= {f"fc_norm.{part}": state.pop(f"norm.{part}") for part in ("weight", "bias")}
        state |= {"head.weight": torch.ones(400, 48), "head.bias": torch.ones(400)}
    if kind == "hugging_face":
        state = hugging_face(pretrained_file())
    torch.save({"model": state}, tmp_path / "videomae.pth")
    fields = {"vit": "tiny", "image_size": 32, "clip_frames": 4, "init_from": tmp_path / "videomae.pth"}
    with caplog.at_level(logging.INFO):
        model = M2SDDetector(M2SDConfig(**fields))
    assert "new: 'vit.class_token, head.weight, head.bias'" in caplog.text
    expected = vit_weights(encoder_file())
    own = model.vit.state_dict()
    assert own.keys() - expected.keys() == {"class_token"}
    assert all(torch.equal(own[name], value) for name, value in expected.items())
    assert model.head.weight.abs().max() < 1e-3


def test_m2sd_starts_from_no_other_network(tmp_path):
    torch.save({"model": {"conv1.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    fields = {"vit": "tiny", "init_from": tmp_path / "other.pth"}
    with pytest.raises(CheckpointError, match="neither M2SD nor a VideoMAE: it lacks"):
        M2SDDetector(M2SDConfig(**fields))
    torch.save({"model": encoder_file()}, tmp_path / "narrow.pth")
    with pytest.raises(CheckpointError, match="it lacks"):
        M2SDDetector(M2SDConfig(vit="small", init_from=tmp_path / "narrow.pth"))
