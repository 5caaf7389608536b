"""The network of Exposing the Deception: its structure, frames as units, published checkpoints."""

import dataclasses

import pytest
import torch

from models.exposing_deception import ExposingDetector
from models.exposing_deception.backbones import FEATURES, make_backbone
from models.exposing_deception.config import PRESETS, ExposingConfig
from models.method import check_config
from tests.parity.exposing_deception import as_batch, build, released_name
from utils.errors import CheckpointError, UsageError

SMALL = {"backbone": "mobilenet_v1", "num_libs": 2, "image_size": 32, "fusion_dims": (16, 8)}


def small(**fields):
    torch.manual_seed(0)
    return ExposingDetector(ExposingConfig(**SMALL | fields))


def batch_of(frames, labels=None):
    """frames (B, 3, T, H, W) uint8 -> ClipBatch."""
    count, num_frames = frames.shape[0], frames.shape[2]
    labels = torch.arange(count) % 2 if labels is None else labels
    mask = torch.zeros(count, num_frames, dtype=torch.bool)
    return dataclasses.replace(
        as_batch(labels),
        video=frames,
        landmarks=torch.zeros(count, num_frames, 0, 2),
        video_padding_mask=mask,
        landmark_padding_mask=~mask,
        frame_labels=labels.float()[:, None].expand(count, num_frames),
    )


def frames_of(count, num_frames, side=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, num_frames, side, side), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("num_libs", "backbone", "expected"),
    [(2, "resnet34", 44_359_484), (3, "resnet34", 66_161_278), (4, "resnet34", 87_965_120),
     (4, "mobilenet_v1", 22_076_256 - 4 * 1_025_000)],
)  # fmt: skip
def test_number_of_parameters(num_libs, backbone, expected):
    with torch.device("meta"):
        model = ExposingDetector(ExposingConfig(num_libs=num_libs, backbone=backbone))
    assert sum(value.numel() for value in model.parameters()) == expected
    if backbone == "resnet34" and num_libs == 4:
        assert len(model.state_dict()) == 892


@pytest.mark.parametrize("backbone", FEATURES)
def test_every_backbone_gives_its_number_of_features(backbone):
    network = make_backbone(backbone).eval()
    weights = [weight for weight in network.parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    found = network(torch.zeros(2, 3, 64, 64))
    assert found.shape == (2, FEATURES[backbone])


def test_a_window_is_scored_by_the_mean_probability_of_its_frames():
    model = small().eval()
    frames = frames_of(3, 4)
    with torch.no_grad():
        whole = model(batch_of(frames))
        single = [model(batch_of(frames[:, :, k : k + 1])) for k in range(4)]
    probs = torch.stack([output.logits.sigmoid() for output in single], dim=1)
    torch.testing.assert_close(whole.frame_logits.sigmoid(), probs)
    torch.testing.assert_close(whole.logits.sigmoid(), probs.mean(1))
    assert whole.video_logits is whole.logits
    assert whole.audio_logits is None
    assert whole.embedding.shape == (3, FEATURES["mobilenet_v1"])


def test_padding_changes_nothing():
    model = small().eval()
    batch = batch_of(frames_of(2, 3))
    with torch.no_grad():
        expected, padded = model(batch), model(batch.padded_to((7, 0)))
    torch.testing.assert_close(padded.logits, expected.logits)
    torch.testing.assert_close(padded.embedding, expected.embedding)
    assert (padded.frame_logits[:, 3:] == 0).all()
    model.train()
    states = []
    for shown in (batch, batch.padded_to((7, 0))):
        again = small(mixup=False, augmentation="none").train()
        again(shown)
        states.append({k: v for k, v in again.state_dict().items() if "running" in k})
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key])


def test_mixup_mixes_pictures_and_says_with_what():
    model = small(augmentation="none", dropout=0.0).train()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    shown = torch.zeros(6, 3, 1, 32, 32, dtype=torch.uint8)
    shown += (40 * torch.arange(6, dtype=torch.uint8))[:, None, None, None, None]
    output = model(batch_of(shown, torch.tensor([0, 0, 0, 1, 1, 1])))
    share = output.mixed_share[0, 0]
    assert (output.mixed_share == share).all()
    assert 0 <= share <= 1
    levels = 255 * (seen[0][:, 0, 0, 0] * model.pictures.std[0, 0, 0] + model.pictures.mean[0, 0, 0])
    partner = ((levels - share * shown[:, 0, 0, 0, 0]) / (1 - share) / 40).round()
    assert sorted(partner.tolist()) == [0, 1, 2, 3, 4, 5]
    assert output.mixed_labels[:, 0].tolist() == (partner >= 3).float().tolist()
    assert model.eval()(batch_of(shown)).mixed_labels is None


def test_shares_of_mixup_follow_the_beta_distribution():
    model = small(augmentation="none").train()
    model.forward_pictures = lambda pictures: (
        torch.zeros(len(pictures), 2), torch.zeros(len(pictures), 2),
        torch.zeros(len(pictures), 2, 2), torch.zeros(len(pictures), 1),
    )  # fmt: skip
    shown = batch_of(torch.zeros(2, 3, 1, 32, 32, dtype=torch.uint8))
    shares = torch.stack([model(shown).mixed_share[0, 0] for _ in range(1000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.04)
    assert shares.var().item() == pytest.approx(1 / 8, abs=0.015)  # of Beta(1/2, 1/2)


def test_a_published_checkpoint_is_loaded_from_one_gpu_or_several():
    model = build(2, 0, torch.float32)
    state = {released_name(key, 2): value for key, value in model.state_dict().items()}
    fields = ExposingDetector.released_fields(state, "file")
    assert fields == {"num_libs": 2, "backbone": "resnet34", "fusion_dims": (1000, 500)}
    again = ExposingDetector(ExposingConfig(**PRESETS["released"]["model"] | fields))
    again.load_released(state)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="not a released checkpoint"):
        ExposingDetector.released_fields({"region_model1.conv1.weight": torch.zeros(1)}, "file")
    with pytest.raises(CheckpointError, match="unknown key"):
        again.load_released(state | {"stranger.weight": torch.zeros(1)})


def test_the_unused_classifier_of_a_published_mobilenet_is_left_out():
    model = small()
    state = {released_name(key, 2): value for key, value in model.state_dict().items()}
    state |= {f"region_model{k}.fc.{kind}": torch.zeros(1) for k in (1, 2) for kind in ("weight", "bias")}
    assert sum(key.startswith("region_model1.") for key in state) == 162 + 2
    again = ExposingDetector(ExposingConfig(**SMALL))
    again.load_released(state)
    assert torch.equal(again.blocks[1].model[0][0].weight, model.blocks[1].model[0][0].weight)


def test_every_block_starts_from_torchvisions_weights(tmp_path):
    source = make_backbone("resnet34")
    weights = source.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(weights, tmp_path / "resnet34.pth")
    model = ExposingDetector(ExposingConfig(num_libs=2, init_from=tmp_path / "resnet34.pth"))
    for block in model.blocks:
        assert torch.equal(block.layer4[2].conv2.weight, source.layer4[2].conv2.weight)
    with pytest.raises(CheckpointError, match="not the weights of this --backbone"):
        ExposingDetector(ExposingConfig(backbone="efficientnet_b4", init_from=tmp_path / "resnet34.pth"))
    with pytest.raises(ValueError, match="no weights of mobilenet_v1"):
        ExposingConfig(backbone="mobilenet_v1", init_from=tmp_path / "resnet34.pth")


def test_contradictions_are_found_before_anything_is_read():
    data = {"window_s": 0.04, "trim_silence": False}
    with pytest.raises(UsageError, match="two pictures"):
        check_config(ExposingDetector, {"data": data, "model": {}, "workers": {"batch_size": 1}})
    two = {"data": data, "model": {}, "workers": {"batch_size": 2}}
    check_config(ExposingDetector, two)
    with pytest.raises(UsageError, match="two pictures"):
        check_config(ExposingDetector, two | {"train": {"accumulate_steps": 2}})
    for fields, message in (({"num_libs": 1}, "num_libs"), ({"fusion_dims": (1,)}, "2 widths")):
        with pytest.raises(ValueError, match=message):
            ExposingConfig(**fields)
