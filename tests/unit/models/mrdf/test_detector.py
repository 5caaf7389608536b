"""MRDF, apart from the parity command: padding, variants, published and borrowed weights, structure."""

import dataclasses
import logging

import pytest
import torch

from losses import LOSSES
from losses.mrdf import MrdfLoss, MrdfLossConfig
from models.mrdf.config import PRESETS, VARIANTS, MrdfConfig
from models.mrdf.detector import MrdfDetector
from models.mrdf.published_weights import ALIASES, UNUSED_BY
from models.restore import read_checkpoint, restore_model
from tests.clip_factory import make_batch
from tests.parity.mrdf import Weights, build, released_name
from tests.unit.models.beyond_masking.test_detector import pad_time
from train import parse_args
from utils.errors import CheckpointError, UsageError

SMALL = {
    "feature_dim": 16,
    "video_channels": (4, 4, 8, 8),
    "image_size": 16,
    "crop_size": 14,
    "encoder_layers": 2,
    "transformer_nhead": 4,
    "feedforward_dim": 32,
    "position_kernel": 8,
    "position_groups": 4,
    "dropout": 0.0,
}
RELEASED = PRESETS["released"]["model"]


def small(**changes) -> MrdfDetector:
    torch.manual_seed(0)
    return MrdfDetector(MrdfConfig(**(SMALL | changes)))


def plain(**changes) -> MrdfDetector:
    """A model that has what the published code's has."""
    return small(feature_norm=False, **changes)


def batch_of(num_clips=4, num_frames=15, **changes):
    return make_batch(num_clips, num_frames, seconds=num_frames / 25, **changes)


def losses_of(model, batch, **config):
    return MrdfLoss(MrdfLossConfig(**config))(model(batch), batch)


def tensors_of(output):
    values = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def published_state(model):
    """The state_dict that the published code would have saved of `model`: all it holds, under all names."""
    variant, width = model.config.mrdf_variant, model.config.feature_dim
    holds = [model]
    if variant == "avdf_ensemble":
        holds.append(plain(mrdf_variant="avdf", encoder_layers=0))
    elif variant.startswith("avdf"):
        holds.append(plain(mrdf_variant="margin", encoder_layers=0))
    state = {"model.mask_emb": torch.randn(104), "model.final_proj.bias": torch.randn(width)}
    state["model.final_proj.weight"] = torch.randn(width, width)
    for part in reversed(holds):
        named = {released_name(name): value for name, value in part.state_dict().items()}
        unused = () if part is model else UNUSED_BY[variant]
        state |= {name: value for name, value in named.items() if part is model or name.startswith(unused)}
    for alias, first in ALIASES.items():
        names = [name for name in state if name.startswith(first)]
        state |= {alias + name.removeprefix(first): state[name].clone() for name in names}
    return state


class _Callback:
    """Something of Lightning's that no other program has; running it would be noticed."""

    def __init__(self):
        self.score = torch.ones(())

    def __setstate__(self, state):
        raise AssertionError("a checkpoint has run code")


# padding


@pytest.mark.parametrize("feature_norm", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_neither_outputs_nor_losses(variant, feature_norm):
    model, batch = small(mrdf_variant=variant, feature_norm=feature_norm).eval(), batch_of()
    padded = pad_time(batch, extra_frames=7, extra_samples=20_000)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(tensors_of(model(padded)), tensors_of(model(batch)), **close)
    torch.testing.assert_close(losses_of(model, padded), losses_of(model, batch), **close)


def test_padding_does_not_change_the_batch_norms_statistics_either():
    """A padded frame is not a picture: it counts neither in the mean nor in the number of pictures."""
    statistics, gradients = [], []
    for extra in (0, 5):
        model = small(image_size=14).train()  # no random crop; mirrored alike, by the seed
        torch.manual_seed(1)
        padded = pad_time(batch_of(), extra_frames=extra, extra_samples=0)
        losses_of(model, padded)["total"].backward()
        statistics.append(dict(model.named_buffers()))
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(statistics[1], statistics[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_a_batch_is_cut_to_its_shortest_clip_only_if_asked():
    batch = batch_of()
    mask = batch.video_padding_mask.clone()
    mask[2, 9:] = True
    batch = dataclasses.replace(batch, video_padding_mask=mask)
    spoiled = dataclasses.replace(batch, video=batch.video.clone())
    spoiled.video[:, :, 9:] = 0
    for cut in (True, False):
        model = small(cut_to_shortest=cut).eval()
        same = torch.equal(model(batch).logits, model(spoiled).logits)
        assert same == cut
        assert torch.equal(model(batch).logits[2], model(spoiled).logits[2])


def test_sound_and_picture_must_be_on_one_clock():
    with pytest.raises(UsageError, match="--filterbank_stack 4 with --video_fps 12.5"):
        parse_args(["--model", "mrdf", "--video_fps", "12.5"])
    assert small(filterbank_stack=8).eval()(make_batch(2, 10, seconds=0.8)).logits.shape == (2,)


# training


@pytest.mark.parametrize("freeze_stem", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_all_parameters_but_a_frozen_stem(variant, freeze_stem):
    """All: an unused parameter would stop a run on several processes."""
    model = small(mrdf_variant=variant, freeze_stem=freeze_stem).train()
    before = model.video_encoder.frontend3D[1].running_mean.clone()
    losses_of(model, batch_of())["total"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    stem = {f"video_encoder.frontend3D.{key}" for key in ("0.weight", "1.weight", "1.bias", "2.weight")}
    assert without == (stem if freeze_stem else set())
    assert all(p.requires_grad != (name in without) for name, p in model.named_parameters())
    assert (model.video_encoder.frontend3D[1].running_mean - before).abs().max() > 0


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_small_model_learns_its_training_clips(norm_first):
    model, batch = small(norm_first=norm_first, image_size=14).train(), batch_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        terms = losses_of(model, batch)
        if terms["fused"] < 0.05:
            break
        terms["total"].backward()
        optimizer.step()
    assert terms["fused"] < 0.05


def test_a_clip_is_cropped_at_random_places_in_training_and_in_the_middle_else():
    front_end = small().picture
    ramp = torch.arange(16).mul(10).to(torch.uint8).expand(200, 3, 2, 16, 16)
    frames = front_end.train()(ramp)
    firsts = (frames[..., 0, 0] * 0.165 + 0.421) * 255 / 10
    assert (frames[:, :, 0] == frames[:, :, 1]).all()  # all frames of a clip alike
    assert {round(value) for value in firsts[:, 0, 0].tolist()} == {0, 1, 2, 13, 14, 15}  # mirrored, too
    firsts = (front_end.eval()(ramp)[..., 0, 0] * 0.165 + 0.421) * 255 / 10
    assert (firsts.round() == 1).all()


def test_equalised_frames_are_refused():
    with pytest.raises(UsageError, match="needs plain frames"):
        small()(dataclasses.replace(batch_of(), is_equalized=True))


def test_bf16_autocast_stays_close_to_float32():
    model, batch = small().eval(), batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch).logits
    torch.testing.assert_close(low.float(), model(batch).logits, rtol=0.1, atol=0.1)


# decisions


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_positive_where_the_published_code_says_fake(variant):
    model, batch = small(mrdf_variant=variant).eval(), batch_of(16)
    model.requires_grad_(False)
    for name in ("classifier", "video_head", "audio_head"):  # spread the scores
        for module in getattr(model, name, torch.nn.Identity()).modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(std=3.0)
    output = model(batch)
    if variant == "avdf_multiclass":
        fake = output.class_logits.argmax(1) != 0
        probs = output.class_logits.softmax(1)
        assert torch.equal(output.video_logits > 0, probs[:, [1, 3]].sum(1) > 0.5)
        assert torch.equal(output.audio_logits > 0, probs[:, [2, 3]].sum(1) > 0.5)
    elif variant == "avdf_multilabel":
        real = output.class_logits.sigmoid() >= 0.5
        fake = ~real.all(1)
        assert torch.equal(output.audio_logits > 0, ~real[:, 0])
        assert torch.equal(output.video_logits > 0, ~real[:, 1])
    elif variant == "avdf_ensemble":
        fake = (output.video_class_logits.argmax(1) == 0) | (output.audio_class_logits.argmax(1) == 0)
    else:
        fake = output.class_logits.argmax(1) == 0
    assert torch.equal(output.logits > 0, fake)
    assert (output.video_logits is None) == (variant in {"margin", "avdf"})


# structure (F7 of the published code's fixtures)


@pytest.fixture(scope="module")
def weights():
    return Weights(0)


def test_the_released_logit_depends_on_the_first_seconds_alone(weights):
    model = build("avdf", 0, weights, video_channels=(4, 4, 8, 8)).eval()
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 3, 90, 16, 16, generator=generator)
    sound = torch.randn(1, 90, 104, generator=generator)
    mask = torch.zeros(1, 90, dtype=torch.bool)
    expected = model.forward_features(frames, sound, mask).class_logits

    def replaced(tensor, dim, first):
        index = [slice(None)] * tensor.dim()
        index[dim] = slice(first, None)
        other = tensor.clone()
        other[tuple(index)] = 0.5
        return other

    for first, is_same in ((64, True), (63, False)):
        actual = model.forward_features(frames, replaced(sound, 1, first), mask).class_logits
        assert torch.equal(actual, expected) == is_same
    for first, is_same in ((66, True), (65, False)):
        actual = model.forward_features(replaced(frames, 2, first), sound, mask).class_logits
        assert torch.equal(actual, expected) == is_same


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_has_the_published_number_of_keys(variant):
    state = published_state(plain(mrdf_variant=variant, encoder_layers=0))
    assert len(state) == (325 if variant == "ce" else 321)
    if variant != "avdf_ensemble":
        assert len(published_state(plain(mrdf_variant=variant, encoder_layers=3))) == len(state) + 3 * 32


# weights


@pytest.mark.parametrize("newer_names", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_lightning_checkpoint_loads_and_tells_what_it_is(tmp_path, variant, newer_names):
    layers = 0 if variant == "avdf_ensemble" else 2
    source = plain(mrdf_variant=variant, encoder_layers=layers, norm_first=False, readout="first").eval()
    state = published_state(source)
    if newer_names:
        names = {
            "weight_g": "parametrizations.weight.original0",
            "weight_v": "parametrizations.weight.original1",
        }
        state = {
            next((k.replace(old, new) for old, new in names.items() if k.endswith(old)), k): value
            for k, value in state.items()
        }
    name = {"avdf_multilabel": "AVDF_Multilabel", "avdf": "AVDF"}.get(variant, "MRDF_Margin")
    path = tmp_path / f"{name}_x_train_2_epoch=3-val_loss=0.10.ckpt"
    torch.save({"epoch": 3, "callbacks": {"c": _Callback()}, "state_dict": state, "loops": {}}, path)
    content = read_checkpoint(path)
    fields = MrdfDetector.released_fields(content["released"], path.name)
    assert fields["mrdf_variant"] == variant
    assert fields["encoder_layers"] == layers
    sizes = {name: SMALL[name] for name in ("image_size", "crop_size", "transformer_nhead")}
    model = MrdfDetector(MrdfConfig(**(RELEASED | fields | sizes | {"freeze_stem": False}))).eval()
    restore_model(content, path, model)
    source.config = model.config  # cut_to_shortest
    batch = batch_of()
    torch.testing.assert_close(tensors_of(model(batch)), tensors_of(source(batch)), rtol=0, atol=0)


def test_keys_that_say_nothing_of_the_variant_are_taken_for_margin_with_a_warning(caplog):
    state = published_state(plain(mrdf_variant="avdf"))
    with caplog.at_level(logging.WARNING):
        assert MrdfDetector.released_fields(state, "model.ckpt")["mrdf_variant"] == "margin"
    assert "--mrdf_variant" in caplog.text


def test_a_published_checkpoint_that_contradicts_itself_or_is_something_else_is_refused(tmp_path):
    model = plain(encoder_layers=0)
    state = published_state(model)
    model.load_released(state)
    with pytest.raises(CheckpointError, match="fusion_encoder_hubert.layer_norm.bias differs"):
        model.load_released(state | {"fusion_encoder_hubert.layer_norm.bias": torch.ones(16)})
    with pytest.raises(CheckpointError, match="unknown key 'backbone.weight'"):
        model.load_released(state | {"backbone.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not fit"):
        model.load_released({k: v for k, v in state.items() if not k.startswith("mm_classifier")})
    with pytest.raises(CheckpointError, match="not a released MRDF checkpoint"):
        MrdfDetector.released_fields({"cls_token": torch.zeros(1)}, "x.pth")
    torch.save({"format": "beyond-masking-checkpoint-1", "model": state}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="x.pt: is damaged"):
        read_checkpoint(tmp_path / "x.pt")


def av_hubert_state(model, layers):
    """Names and shapes of an AV-HuBERT checkpoint that `model` could take."""
    state = {released_name(key): value for key, value in model.state_dict().items()}
    state = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    state = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}
    stem = "feature_extractor_video.resnet.frontend3D.0.weight"
    state |= {
        stem: torch.randn(4, 1, 5, 7, 7),
        "mask_emb": torch.randn(104),
        "label_embs_concat": torch.ones(3),
    }
    return {k: v for k, v in state.items() if not k.startswith(f"encoder.layers.{layers}.")}


def test_av_huberts_weights_are_taken_where_they_fit_and_listed(tmp_path, caplog):
    state = av_hubert_state(plain(), layers=1) | {"encoder.layers.0.fc1.weight": torch.randn(48, 16)}
    path = tmp_path / "base.pt"
    torch.save({"cfg": _Callback(), "model": state, "args": None}, path)
    with caplog.at_level(logging.INFO):
        model = small(init_from=path)
    assert torch.equal(model.encoder.layers[0].fc2.weight, state["encoder.layers.0.fc2.weight"])
    assert torch.equal(model.fusion[1].weight, state["post_extract_proj.weight"])
    assert torch.equal(model.audio_projection.bias, state["feature_extractor_audio.proj.bias"])
    for line in (
        "not taken: encoder.layers.0.fc1.weight: (48, 16) there, (32, 16) here",
        "not taken: mask_emb: not used here",
        "taken: video_encoder.trunk.layer1",
        "left at its random start: encoder.layers.1 (16 tensors)",
        "left at its random start: classifier.0",
    ):
        assert line in caplog.text
    assert "--norm_first" not in caplog.text
    # a grey picture looks to the stem as it did to AV-HuBERT's
    grey = torch.randn(1, 1, 5, 16, 16)
    stem = model.video_encoder.frontend3D[0]
    theirs = torch.nn.functional.conv3d(
        grey, state["feature_extractor_video.resnet.frontend3D.0.weight"], None, stem.stride, stem.padding
    )
    torch.testing.assert_close(stem(grey.expand(-1, 3, -1, -1, -1)), theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        small(init_from=tmp_path / "missing.pt")


def test_a_restored_model_does_not_ask_for_the_weights_that_it_started_from(tmp_path):
    torch.save({"model": av_hubert_state(plain(), layers=2)}, tmp_path / "base.pt")
    model = small(init_from=tmp_path / "base.pt")
    (tmp_path / "base.pt").unlink()
    config = dataclasses.asdict(model.config) | {"init_from": str(tmp_path / "base.pt")}
    sections = {"train": {"model": "mrdf"}, "data": {}, "model": config}
    content = {"config": sections, "model": model.state_dict()}
    restored = restore_model(content, tmp_path / "best.pt")
    assert torch.equal(restored.fusion[1].weight, model.fusion[1].weight)


# presets


@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_of_a_preset_reaches_the_configuration(preset):
    config = parse_args(["--model", "mrdf", "--preset", preset]).as_plain()
    for group, values in PRESETS[preset].items():
        for name, value in values.items():
            assert config[group][name] == (list(value) if isinstance(value, tuple) else value), name
    assert LOSSES["mrdf"].config_type is MrdfLossConfig


def test_flags_without_effect_are_refused():
    for flags in (
        ["--encoder_layers", "0", "--feedforward_dim", "8"],
        ["--mrdf_variant", "avdf_ensemble", "--encoder_layers", "2"],
    ):
        with pytest.raises(UsageError, match="has no effect here"):
            parse_args(["--model", "mrdf", *flags])
    with pytest.raises(UsageError, match="larger than image_size"):
        parse_args(["--model", "mrdf", "--crop_size", "113"])
