"""Published files of encoders: what they may hold, and what is refused."""

import pytest
import torch

from models.backbones import audio_resnet18, efficientface
from models.backbones.audio_resnet18 import AudioResNet18
from models.backbones.efficientface import EfficientFace
from models.backbones.marlin import MarlinEncoder
from models.backbones.published import load_published
from models.blocks.vit import SIZES, ViTSize
from utils.errors import CheckpointError

MINI = ViTSize(24, 2, 3)


def marlin_file(size=MINI):
    """A published state_dict of MARLIN with random weights: encoder, decoder and fixed positions."""
    width, hidden = size.width, 4 * size.width
    shapes = {
        "patch_embedding.projection.weight": (width, 3, 2, 16, 16),
        "patch_embedding.projection.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "pos_embedding.emb": (1, 8, width),
    }
    for block in range(size.depth):
        shapes |= {
            f"blocks.{block}.{name}": shape
            for name, shape in {
                **{f"norm{number}.{part}": (width,) for number in (1, 2) for part in ("weight", "bias")},
                "attn.q_bias": (width,),
                "attn.v_bias": (width,),
                "attn.qkv.weight": (3 * width, width),
                "attn.proj.weight": (width, width),
                "attn.proj.bias": (width,),
                "mlp.layers.0.linear.weight": (hidden, width),
                "mlp.layers.0.linear.bias": (hidden,),
                "mlp.layers.1.linear.weight": (width, hidden),
                "mlp.layers.1.linear.bias": (width,),
            }.items()
        }
    torch.manual_seed(0)
    return {key: 0.1 * torch.randn(shape) for key, shape in shapes.items()}


def test_files_of_the_encoder_alone_and_of_the_whole_training_are_the_same():
    plain = marlin_file()
    whole = {f"encoder.{key}": value for key, value in plain.items()}
    whole |= {"decoder.blocks.0.norm1.weight": torch.ones(3), "enc_dec_proj.weight": torch.ones(3, 3)}
    whole["discriminator.0.weight"] = torch.ones(2)
    video = torch.rand(2, 3, 4, 32, 32)
    features = []
    for weights in (plain, whole):
        encoder = MarlinEncoder(MINI, num_frames=4, image_size=32)
        encoder.load_published(weights, "marlin.pt")
        features.append(encoder(video))
    torch.testing.assert_close(*features, rtol=0, atol=0)
    assert features[0].shape == (2, 24)


@pytest.mark.parametrize(("size", "count"), [("small", 22_482_048), ("base", 87_431_424)])
def test_encoders_have_the_published_number_of_parameters(size, count):
    with torch.device("meta"):
        encoder = MarlinEncoder(SIZES[size])
    positions = 1568 * SIZES[size].width  # a parameter of the published code that is not trained
    assert sum(value.numel() for value in encoder.parameters()) + positions == count


def test_weights_of_another_size_or_method_are_refused():
    encoder = MarlinEncoder(MINI, num_frames=4, image_size=32)
    with pytest.raises(CheckpointError, match=r"other\.pt: not the weights of MarlinEncoder"):
        encoder.load_published(marlin_file(ViTSize(48, 2, 3)), "other.pt")
    with pytest.raises(CheckpointError, match="blocks.2"):
        encoder.load_published(marlin_file(ViTSize(24, 3, 3)), "deeper.pt")
    missing = marlin_file()
    del missing["norm.bias"]
    with pytest.raises(CheckpointError, match="norm.bias"):
        encoder.load_published(missing, "half.pt")


def test_a_prefix_and_a_head_are_left_out_and_counters_may_be_missing():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1, bias=False), torch.nn.BatchNorm2d(2))
    weights = {"conv.weight": torch.rand(2, 1, 1, 1), "fc.weight": torch.rand(7, 2)}
    weights |= {f"bn.{name}": torch.rand(2) for name in ("weight", "bias", "running_mean", "running_var")}
    weights = {f"module.{key}": value for key, value in weights.items()}
    renames = [(r"conv\.", "0."), (r"bn\.", "1.")]
    load_published(network, weights, renames, "x.pth", prefix="module.", ignored=r"fc\.")
    torch.testing.assert_close(network[0].weight.data, weights["module.conv.weight"])
    torch.testing.assert_close(network[1].running_var, weights["module.bn.running_var"])
    with pytest.raises(CheckpointError, match=r"(?s)x\.pth.*fc\.weight"):
        load_published(network, weights, renames, "x.pth", prefix="module.")


def test_a_picture_and_a_window_of_sound_become_one_feature_each():
    faces, mfcc = torch.rand(2, 3, 64, 64), torch.rand(3, 10, 87)
    assert EfficientFace().eval()(faces).shape == (2, efficientface.WIDTH)
    assert AudioResNet18().eval()(mfcc).shape == (3, audio_resnet18.WIDTH)
