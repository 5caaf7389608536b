"""2D3MF's detector: what it loads, how a window's rows are brought to one number, dropout, fine-tuning."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from losses.td3mf import TD3MFLoss, TD3MFLossConfig
from models.backbones.marlin import MarlinEncoder, MarlinPieces, marlin_plan
from models.backbones.menu import BACKBONES
from models.blocks.features import parts_of_rows
from models.blocks.vit import ViTSize
from models.restore import released_fields
from models.td3mf import TD3MFDetector
from models.td3mf.config import TD3MFConfig
from tests.clip_factory import make_batch
from tests.parity.td3mf import Comparison
from utils.errors import CheckpointError, UsageError
from utils.types import DetectorOutput

WIDTHS = {"marlin_small": 384, "audio_resnet18": 512}


def batch_of(*lengths, names=("marlin_small", "audio_resnet18"), seed=0):
    """A batch of clips of these numbers of rows of both features."""
    rng, batch = torch.Generator().manual_seed(seed), make_batch(len(lengths), 4, size=8)
    features, masks = {}, {}
    for name in names:
        rows = torch.randn(len(lengths), max(lengths), BACKBONES[name].width, generator=rng)
        masks[name] = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
        features[name] = rows.masked_fill(masks[name][..., None], 0.0)
    return dataclasses.replace(batch, features=features, feature_padding_masks=masks)


def small(**changes):
    torch.manual_seed(0)
    return TD3MFDetector(TD3MFConfig(**{"audio_features": "audio_resnet18", "hidden_dim": 16, **changes}))


def one_of(batch, index):
    """The clip alone, without padding."""

    def cut(values, masks):
        return {name: rows[index : index + 1][:, ~masks[name][index]] for name, rows in values.items()}

    single = make_batch(1, 4, size=8)
    masks = batch.feature_padding_masks
    return dataclasses.replace(
        single, features=cut(batch.features, masks), feature_padding_masks=cut(masks, masks)
    )


@pytest.mark.parametrize(
    ("changes", "inputs"),
    [
        ({}, {"features/marlin_small", "features/eat"}),
        ({"video_features": "efficientface"}, {"features/efficientface", "features/eat"}),
        ({"finetune": True}, {"video", "features/eat"}),
        ({"only": "video"}, {"features/marlin_small"}),
        ({"only": "video", "finetune": True}, {"video"}),
        ({"only": "audio"}, {"features/eat"}),
    ],
)
def test_what_is_loaded_follows_the_configuration(changes, inputs):
    assert TD3MFDetector.inputs_of(TD3MFConfig(**changes)) == inputs


def test_a_row_of_eat_holds_eight_tokens():
    """In order of time, each step's bands after each other."""
    model = TD3MFDetector(TD3MFConfig(hidden_dim=16, only="audio"))
    rows = torch.arange(64 * 6144.0).reshape(1, 64, 6144)
    assert torch.equal(model._tokens(rows), rows.reshape(1, 512, 768))
    assert model.network.head.in_features == 512 * 768


@pytest.mark.parametrize("rows", ["spread", "cut"])
@pytest.mark.parametrize("only", ["both", "video", "audio"])
def test_a_clips_score_does_not_depend_on_the_others(rows, only):
    model, batch = small(rows=rows, only=only).double().eval(), batch_of(3, 14, 1)
    doubled = {name: rows.double() for name, rows in batch.features.items()}
    batch = dataclasses.replace(batch, features=doubled)
    output = model(batch)
    assert output.logits.shape == (3,)
    for index in range(3):
        alone = model(one_of(batch, index))
        torch.testing.assert_close(alone.logits[0], output.logits[index])
        torch.testing.assert_close(alone.embedding[0], output.embedding[index])
    assert len(set(output.logits.tolist())) == 3


def test_rows_are_means_of_equal_parts_or_the_first_ones():
    long, short = torch.arange(20.0)[None, :, None], torch.arange(5.0)[None, :, None]
    spread, cut = small(), small(rows="cut")
    assert spread._fitted(long, 10).flatten().tolist() == [0.5 + 2 * step for step in range(10)]
    assert spread._fitted(short, 10).flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert cut._fitted(long, 10).flatten().tolist() == list(range(10))
    assert cut._fitted(short, 10).flatten().tolist() == [0, 1, 2, 3, 4, 0, 0, 0, 0, 0]
    for rows in (long, short):  # the way of an exported network
        torch.testing.assert_close(parts_of_rows(rows.shape[1], 10, rows) @ rows, spread._fitted(rows, 10))


@pytest.mark.parametrize("kind", ["token", "zeros", "noise"])
def test_a_share_of_the_windows_loses_picture_or_sound(kind):
    model = small(modality_dropout=0.4, dropped_modality=kind)
    streams = [torch.ones(2000, 3, WIDTHS[name]) for name in WIDTHS]
    torch.manual_seed(1)
    video, audio = model._with_dropped(streams)
    lost = [(rows != 1).flatten(1).all(dim=1) for rows in (video, audio)]
    assert not (lost[0] & lost[1]).any()
    for which in lost:
        assert which.float().mean().item() == pytest.approx(0.2, abs=0.04)
    instead = video[lost[0]]
    if kind == "noise":
        assert instead.std().item() == pytest.approx(1, abs=0.01)
    else:
        assert (instead == 0).all()  # the token has learnt nothing yet
    batch = batch_of(*[4] * 32)
    model.train()(batch).logits.sum().backward()
    if kind == "token":
        assert all(token.grad.abs().sum() > 0 for token in model.dropped)
    model.eval()
    torch.testing.assert_close(model(batch).logits, model(batch).logits, rtol=0, atol=0)


@pytest.fixture
def tiny(monkeypatch):
    """A MARLIN of one narrow block in place of the small one."""

    def make():
        return MarlinPieces(MarlinEncoder(ViTSize(12, 1, 2)))

    marlin = dataclasses.replace(BACKBONES["marlin_small"], make=make, width=12)
    monkeypatch.setitem(BACKBONES, "marlin_small", marlin)


def test_a_backbone_in_the_graph_sees_what_extraction_sees_and_learns(tiny):
    model = small(finetune=True, only="video", backbone_learning_rate=1e-6)
    batch = make_batch(2, 70, size=224, seconds=2.8)
    padding = torch.zeros(2, 70, dtype=torch.bool)
    padding[1, 20:] = True
    batch = dataclasses.replace(batch, video_padding_mask=padding)
    first, second = model.eval()._rows_of_frames(batch)
    assert first.shape == (2, 12)
    assert second.shape == (1, 12)
    plan = marlin_plan(Fraction(25), 70)
    frames = batch.video[0].permute(1, 2, 3, 0)[torch.from_numpy(plan.pieces)]
    with torch.no_grad():
        expected = model.video_backbone(frames)[:, 0]
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)  # sums of a batch of two and of three
    model.train()(batch).logits.sum().backward()
    assert model.video_backbone.network.patch_embedding.weight.grad.abs().sum() > 0
    *others, backbone = model.parameter_groups()
    assert all("lr" not in group for group in others)
    assert backbone["lr"] == 1e-6
    grouped = {p for group in (*others, backbone) for p in group["params"]}
    assert grouped == set(model.parameters())


def test_weights_of_the_backbone_are_read_from_a_file_that_must_fit(tiny, tmp_path):
    torch.save({"encoder.norm.weight": torch.ones(12)}, tmp_path / "marlin.pt")
    with pytest.raises(CheckpointError, match=r"marlin.pt: not the weights of MarlinEncoder"):
        small(finetune=True, init_from=tmp_path / "marlin.pt")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num_heads 3", "num_heads must divide the width"),
        (
            "--hidden_dim 96 --num_heads 3 --audio_features audio_resnet18",
            "num_heads must divide the width 512",
        ),
        ("--num_steps 6 --audio_features audio_resnet18", "middle fusion needs 7 tokens of sound, got 6"),
        ("--only video --num_heads 4", "num_heads has no effect here: only is video"),
        ("--modality_dropout 0 --dropped_modality zeros", "dropped_modality has no effect"),
        ("--backbone_learning_rate 1", "finetune is false"),
        ("--modality_dropout 1", r"must be in \[0, 1\)"),
        ("--frames_per_clip 4", "judge single frames"),
        ("--finetune true --video_features avhubert_base_video", "sees mouths"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(flags, message):
    with pytest.raises(UsageError, match=message):
        train.parse_args(["--model", "td3mf", *flags.split()])
    train.parse_args(["--model", "td3mf", *"--num_steps 6 --fusion lf".split()])


@pytest.mark.parametrize(
    ("audio", "backbone", "num_classes", "task"),
    [("resnet", "audio_resnet18", 1, "deepfake"), ("mfcc", "mfcc", 8, "emotion")],
)
def test_a_published_checkpoint_gives_the_published_output(shared, audio, backbone, num_classes, task):
    """Through the detector, by the sizes that its shapes tell."""
    comparison = Comparison(shared / "fixtures/td3mf_released.safetensors")
    case = next(
        case for case in comparison.cases if case["kind"] == "fusion" and case["settings"]["fusion"] == "mf"
        and case["settings"]["audio_backbone"].lower() == audio
        and case["settings"]["num_classes"] == num_classes
    )  # fmt: skip
    settings, state = case["settings"], comparison.weights(case)
    fields = released_fields(TD3MFDetector, {"released": state}, Path("last.ckpt"))
    assert fields == {
        "hidden_dim": settings["hidden_layers"], "audio_features": backbone, "fusion": "mf",
        "video_features": "marlin_small", "task": task,
    }  # fmt: skip
    config = train.parse_args(["--model", "td3mf", "--preset", "released"]).model
    model = TD3MFDetector(dataclasses.replace(config, **fields, num_heads=settings["num_heads"]))
    model.load_released(state)
    video, sound = comparison.input(case["video"]), comparison.input(case["audio"]).flatten(2)
    batch = batch_of(*[video.shape[1]] * len(video), names=("marlin_small", backbone))
    batch = dataclasses.replace(batch, features={"marlin_small": video, backbone: sound})
    output = model.eval()(batch)
    logits = output.logits[:, None] if task == "deepfake" else output.emotion_logits
    for name, value in (("logits", logits), ("fused", output.embedding)):
        expected = comparison.tensors[f"expected.{case['name']}.{name}"]
        assert (value - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(CheckpointError, match="not a released checkpoint of td3mf"):
        TD3MFDetector.released_fields({"x": torch.zeros(1)}, "other.ckpt")


def test_the_focal_loss_is_the_published_one():
    batch = dataclasses.replace(make_batch(2), labels=torch.tensor([1.0, 0.0]))
    output = DetectorOutput(logits=torch.tensor([0.8, -1.2]))
    focal = TD3MFLoss(TD3MFLossConfig(focal_gamma=2.0))(output, batch)["total"]
    assert focal.item() == pytest.approx(0.0097487, abs=1e-7)
    plain = TD3MFLoss(TD3MFLossConfig())(output, batch)["total"]
    assert plain.item() == pytest.approx(np.log1p(np.exp([-0.8, -1.2])).mean(), abs=1e-6)
