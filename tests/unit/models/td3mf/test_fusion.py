"""The fusion network of 2D3MF: shapes, and what is refused."""

import pytest
import torch

from models.td3mf.fusion import FUSION_TYPES, TD3MFNetwork, audio_width
from models.td3mf.published import load_network
from tests.parity.td3mf import AUDIO
from utils.errors import CheckpointError

SIGNALS = {"mfcc": (2, 10, 10, 87), "resnet": (2, 10, 512), "xvectors": (2, 10, 7205),
           "emotion2vec": (2, 10, 768), "eat": (2, 512, 768)}  # fmt: skip


def network(audio="mfcc", **changes):
    fields = {"video_dim": 384, "hidden_dim": 32, "num_heads": 2, "num_steps": 10, "num_classes": 1}
    fields |= {"fusion_type": "default", "late": False, "audio_positions": False, "num_audio_steps": 10}
    kind, width = AUDIO[audio]
    return TD3MFNetwork(audio_kind=kind, audio_dim=width, **fields | changes).eval()


@pytest.mark.parametrize("audio", AUDIO)
@pytest.mark.parametrize("late", [False, True])
def test_every_audio_feature_is_fused_in_the_middle_and_late(audio, late):
    model = network(audio, late=late, fusion_type="multi_attention")
    logits, fused = model(torch.randn(2, 10, 384), torch.randn(SIGNALS[audio]))
    width = audio_width(*AUDIO[audio], 32) if late else 32
    assert (logits.shape, fused.shape) == ((2, 1), (2, width + 32))


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_every_weight_takes_part(fusion_type):
    model = network(fusion_type=fusion_type, audio_positions=True).train()
    model(torch.randn(4, 10, 384), torch.randn(4, 10, 10, 87))[0].sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_only_self_attention_keeps_the_streams_apart():
    video, audio = torch.randn(2, 10, 384), torch.randn(2, 10, 512)
    for fusion_type in FUSION_TYPES:
        model = network("resnet", fusion_type=fusion_type)
        of_sound = [model(video + shift, audio)[1][:, :32] for shift in (0.0, torch.randn(10, 384))]
        assert torch.equal(*of_sound) == (fusion_type == "self_attention")


def test_heads_that_do_not_divide_a_stream_are_refused():
    with pytest.raises(ValueError, match="num_heads must divide the width 512 of a stream, got 3"):
        network("resnet", num_heads=3, hidden_dim=96)


def test_a_checkpoint_of_other_settings_is_refused():
    with pytest.raises(CheckpointError, match="video_projection"):
        load_network(network(), {"lp_only_fc.weight": torch.ones(1, 3840)}, "other.ckpt")
    only = network(only="video")
    weights = {"lp_only_fc.weight": torch.ones(1, 3840), "lp_only_fc.bias": torch.zeros(1)}
    load_network(only, weights | {"classifier_1.0.weight": torch.ones(1, 64)}, "probe.ckpt")
    assert only(torch.ones(1, 10, 384), torch.empty(0))[0].item() == 3840
