"""AV-HuBERT's network against what the published code of MRDF, which contains it, gave."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

from models.backbones.avhubert import SIZES, VIDEO_CHANNELS, AvHubert
from models.backbones.stem_resnet import StemResNet
from tests.parity.mrdf import Weights, WithoutInitialisation, used_share

AV_HUBERT = "model."  # its place in MRDF


@pytest.mark.slow
@pytest.mark.parametrize("layers", [0, 12])
def test_av_huberts_network_gives_the_numbers_of_mrdfs_fixture(shared, layers):
    """There it sees in colour, and its norms come last: both as MRDF changed it."""
    with safe_open(shared / "fixtures/mrdf_released.safetensors", "pt") as file:
        metadata = file.metadata()
        expected = {
            name: file.get_tensor(f"expected.stage.{name}")
            for name in ("audio_features", "video_features", "fusion_input", f"encoder_out.L{layers}")
        }
        frames, sound = (file.get_tensor(f"input.{name}") for name in ("video", "audio"))
    weights = Weights(json.loads(metadata["config"])["seed"])
    shapes = json.loads(metadata["shapes"])[f"avdf.L{layers}"]
    state = {key: weights[key, tuple(shape)] for key, shape in shapes.items()}
    with WithoutInitialisation():
        network = AvHubert(dataclasses.replace(SIZES["base"], num_layers=layers, norm_first=False)).eval()
        network.video_encoder = StemResNet(VIDEO_CHANNELS, colours=3).eval()
    buffers = {key: value for key, value in network.video_encoder.state_dict().items() if "running" in key}
    state |= {f"{AV_HUBERT}feature_extractor_video.resnet.{key}": value for key, value in buffers.items()}
    network.load_published(state, "MRDF's fixture")
    found = {}
    parts = {"audio_projection": "audio_features", "video_projection": "video_features"}
    parts |= {"fusion": "fusion_input", "encoder": f"encoder_out.L{layers}"}
    for part, name in parts.items():
        keep = lambda module, inputs, output, name=name: found.update({name: output})  # noqa: E731
        getattr(network, part).register_forward_hook(keep)
    mask = torch.zeros(sound.shape[0], sound.shape[2], dtype=torch.bool)
    with torch.no_grad():
        network(frames, sound.transpose(1, 2), mask)
    shares = {
        name: used_share(found[name], value, "logits" if name.startswith("encoder") else "embeddings")
        for name, value in expected.items()
    }
    assert max(shares.values()) <= 1, shares
