import dataclasses

import pytest
import torch

from losses.beyond_masking import BeyondMaskingLoss, BeyondMaskingLossConfig
from models.beyond_masking.config import VIDEO_ENCODERS, BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from tests.clip_factory import make_batch
from utils.errors import CheckpointError

SMALL = {
    "feature_dim": 16,
    "video_channels": (4, 4, 8),
    "audio_channels": (8, 8, 8),
    "image_size": 16,
    "feedforward_dim": 32,
    "classifier_hidden_dim": 16,
    "dropout": 0.0,
}
# the six ablation rows of the paper
ABLATION = {
    "neither landmarks nor alignment": {"students": "none", "temporal_alignment": False},
    "video predictor and projector": {"students": "video", "temporal_alignment": False},
    "audio predictor and projector": {"students": "audio", "temporal_alignment": False},
    "both predictors, no projector": {"landmark_teacher": "none", "temporal_alignment": False},
    "both predictors and projector": {"temporal_alignment": False},
    "all": {},
}


def build(**changes) -> BeyondMaskingDetector:
    torch.manual_seed(0)
    return BeyondMaskingDetector(BeyondMaskingConfig(**(SMALL | changes)))


def pad_time(batch, extra_frames: int, extra_samples: int):
    """The same clips in a longer batch: garbage after their ends, masked."""

    def longer(tensor, dim, extra, value):
        shape = list(tensor.shape)
        shape[dim] = extra
        return torch.cat([tensor, torch.full(shape, value, dtype=tensor.dtype)], dim)

    return dataclasses.replace(
        batch,
        video=longer(batch.video, 2, extra_frames, 77),
        landmarks=longer(batch.landmarks, 1, extra_frames, 3.0),
        waveform=longer(batch.waveform, 1, extra_samples, 0.9),
        video_padding_mask=longer(batch.video_padding_mask, 1, extra_frames, True),
        landmark_padding_mask=longer(batch.landmark_padding_mask, 1, extra_frames, True),
        audio_padding_mask=longer(batch.audio_padding_mask, 1, extra_samples, True),
        frame_labels=longer(batch.frame_labels, 1, extra_frames, 0.0),
        forged_frames=longer(batch.forged_frames, 1, extra_frames, torch.nan),
    )


def losses_of(model, batch, **config):
    return BeyondMaskingLoss(BeyondMaskingLossConfig(**config))(model(batch), batch)


def test_the_frame_head_scores_every_frame_and_changes_nothing_else():
    """Its weights are drawn last, and its frames learn from the segments alone."""
    batch, without, model = make_batch(), build().eval(), build(frame_head=True).eval()
    expected, output = without(batch), model(batch)
    assert expected.frame_logits is None
    assert torch.equal(output.logits, expected.logits)
    assert {key.split(".")[0] for key in model.state_dict().keys() - without.state_dict().keys()} == {
        "frame_head"
    }
    assert output.frame_logits.shape == (3, 10)
    padded = model(pad_time(batch, extra_frames=7, extra_samples=20_000)).frame_logits[:, :10]
    torch.testing.assert_close(padded, output.frame_logits, rtol=1e-4, atol=1e-5)
    terms = losses_of(model, batch)
    assert "frame_bce" in terms
    assert "frame_bce" not in losses_of(without, batch)
    unknown = dataclasses.replace(batch, forged_frames=torch.full((3, 10), torch.nan))
    assert losses_of(model, unknown)["frame_bce"] == 0
    assert "frame_bce" not in losses_of(model, dataclasses.replace(batch, forged_frames=None))
    weighted = losses_of(model, batch, frame_weight=3.0)["total"] - terms["total"]
    torch.testing.assert_close(weighted, 2 * (1 - 0.8) * terms["frame_bce"])
    terms["frame_bce"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.frame_head.parameters())
    assert model.video_projection.weight.grad.abs().sum() > 0
    assert model.audio_projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{}, {"temporal_alignment": False}, {"video_encoder": "r2plus1d_18"}])
def test_padding_changes_neither_logits_nor_losses(changes):
    model, batch = build(**changes).eval(), make_batch()
    padded = pad_time(batch, extra_frames=7, extra_samples=20_000)
    expected, actual = model(batch), model(padded)
    for name in ("logits", "video_logits", "audio_logits"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses_of(model, padded), losses_of(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "checkpoint_activations"), [("conv3d", False), ("conv3d", True), ("r3d_18", False)]
)
def test_padding_changes_nothing_in_training_either(encoder, checkpoint_activations):
    """Batch norms take their statistics over what was recorded, whatever the longest clip of the batch is."""
    num_clips, num_frames = (3, 10) if encoder == "conv3d" else (2, 4)
    results = []
    for extra_frames, extra_samples in ((0, 0), (7, 20_000)):
        model = build(video_encoder=encoder, checkpoint_activations=checkpoint_activations).train()
        model.landmark_teacher.requires_grad_(False)  # hides landmarks at random, by the number of frames
        batch = pad_time(make_batch(num_clips, num_frames), extra_frames, extra_samples)
        output = model(batch)
        (output.logits.sum() + output.video_logits.sum() + output.audio_logits.square().sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((output.logits, gradients, dict(model.named_buffers())))
    logits, gradients, buffers = zip(*results, strict=True)
    assert any(name.startswith("audio_encoder") for name in gradients[0])
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    largest = max(gradient.abs().max().item() for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4 * largest)
    torch.testing.assert_close(buffers[1], buffers[0], rtol=1e-4, atol=1e-5)


def test_without_masks_padding_does_change_the_logits():
    model, batch = build(use_padding_masks=False).eval(), make_batch()
    padded = pad_time(batch, extra_frames=7, extra_samples=20_000)
    assert (model(batch).logits - model(padded).logits).abs().max() > 1e-4


@pytest.mark.parametrize("positions_first", [True, False])
def test_the_order_of_audio_steps_reaches_the_logits_only_with_positions_before_alignment(positions_first):
    model, batch = build(positions_first=positions_first).eval(), make_batch(seconds=2.0)
    louder = torch.linspace(0, 3, batch.waveform.shape[1])  # a sound that changes over time
    batch = dataclasses.replace(batch, waveform=batch.waveform * louder)
    encode = model.audio_encoder.forward
    before = model(batch).logits
    # reverse the encoder's output steps: what a module named temporal must notice
    model.audio_encoder.forward = lambda *args: (encode(*args)[0].flip(1), encode(*args)[1])
    difference = (model(batch).logits - before).abs().max().item()
    assert difference > 1e-5 if positions_first else difference < 1e-6


def test_without_the_fusion_residual_the_picture_reaches_the_readout_only_through_attention_weights():
    model = build(fusion_residual=False).eval()
    attention = model.alignment.fusion_attention
    with torch.no_grad():  # equal attention to all steps: nothing of the picture is left
        attention.in_proj_weight[:16] = 0
        attention.in_proj_bias[:16] = 0
    streams = []
    model.alignment.fusion_attention.register_forward_hook(
        lambda m, args, output: streams.append((args[0], output[0]))
    )
    model(make_batch(seed=1))
    query, fused = streams[0]
    assert (query[:, 1:] - query[:, :1]).abs().max() > 1e-3  # the video stream differs from frame to frame
    assert (fused[:, 1:] - fused[:, :1]).abs().max() < 1e-6  # the fused one does not


def test_gradients_reach_exactly_what_is_trained():
    model, batch = build().train(), make_batch(4)
    losses_of(model, batch)["total"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert all(name.startswith("landmark_teacher.average.") for name in without), without
    assert any(name.startswith("landmark_teacher.average.") for name in without)
    assert model.landmark_teacher.encoder.layers[0].weight.grad.abs().sum() > 0


def test_distillation_alone_gives_the_teacher_no_gradient():
    model, batch = build(landmark_teacher="autoencoder").train(), make_batch(4)
    terms = losses_of(model, batch)
    (terms["video_lbd"] + terms["audio_lbd"]).backward()
    assert all(parameter.grad is None for parameter in model.landmark_teacher.parameters())
    assert model.video_student.layers[0].weight.grad.abs().sum() > 0


def test_the_random_teacher_never_learns():
    model, batch = build(landmark_teacher="random").train(), make_batch(4)
    terms = losses_of(model, batch)
    assert "reconstruction" not in terms
    terms["total"].backward()
    assert all(parameter.grad is None for parameter in model.landmark_teacher.parameters())


def test_the_ema_teacher_follows_its_encoder_slowly_and_only_in_training():
    model, batch = build(teacher_momentum=0.9), make_batch()
    teacher = model.landmark_teacher
    with torch.no_grad():
        teacher.encoder.layers[0].bias += 1.0
    start = teacher.average.layers[0].bias.clone()
    model.eval()(batch)
    torch.testing.assert_close(teacher.average.layers[0].bias, start, rtol=0, atol=0)
    model.train()(batch)
    torch.testing.assert_close(teacher.average.layers[0].bias, start + 0.1)


def test_a_learning_teacher_learns_geometry():
    """Reconstruction of hidden landmarks falls far below what predicting the mean face would give."""
    model, batch = (
        build(landmark_teacher="autoencoder", students="video").train(),
        make_batch(4, num_frames=6),
    )
    base = torch.randn(1, 1, 478, 2) * 0.3  # faces that differ by two factors: width and opening
    factors = 1 + torch.rand(4, 6, 1, 2, generator=torch.Generator().manual_seed(0))
    batch = dataclasses.replace(batch, landmarks=base * factors)
    optimizer = torch.optim.Adam(model.landmark_teacher.parameters(), lr=3e-3)
    first = None
    for _ in range(300):
        _, reconstruction = model.landmark_teacher(batch.landmarks, batch.landmark_padding_mask)
        error = (reconstruction.prediction - reconstruction.target).square()[..., :2]
        loss = (error * reconstruction.hidden[..., None]).sum() / reconstruction.hidden.expand(4, 6, -1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    around_mean = (batch.landmarks - batch.landmarks.mean(dim=(0, 1))).square().sum(-1).mean().item()
    assert loss.item() < 0.5 * around_mean < first


@pytest.mark.parametrize("row", ABLATION)
def test_every_ablation_row_trains(row):
    model, batch = build(**ABLATION[row]).train(), make_batch(4)
    terms = losses_of(model, batch)
    assert ("video_lbd" in terms, "audio_lbd" in terms) == {
        "none": (False, False), "video": (True, False), "audio": (False, True), "both": (True, True)
    }[model.config.students]  # fmt: skip
    assert ("contrastive" in terms) == model.config.temporal_alignment
    terms["total"].backward()
    assert model.classifier[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", VIDEO_ENCODERS)
def test_every_video_encoder_keeps_time(name):
    model = build(video_encoder=name).eval()
    batch = make_batch(2, num_frames=9)
    features = model.video_encoder(model.video_front_end(batch.video), batch.video_padding_mask)
    assert features.shape[:2] == (2, 9)
    assert (features[:, 1:] - features[:, :-1]).abs().max() > 0
    assert model(batch).logits.shape == (2,)


def test_frames_without_a_face_do_not_enter_the_distillation():
    model, batch = build(landmark_teacher="random").eval(), make_batch()
    mask = batch.landmark_padding_mask.clone()
    mask[:, 4:6] = True
    spoiled = batch.landmarks.clone()
    spoiled[:, 4:6] = 100.0
    masked = dataclasses.replace(batch, landmark_padding_mask=mask)
    also_spoiled = dataclasses.replace(masked, landmarks=spoiled)
    torch.testing.assert_close(losses_of(model, masked), losses_of(model, also_spoiled))


def test_bf16_autocast_stays_close_to_float32():
    model, batch = build().eval(), make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch).logits
    torch.testing.assert_close(low.float(), model(batch).logits, rtol=0.1, atol=0.1)


def test_a_checkpoint_of_something_else_is_refused_by_key():
    model = build()
    with pytest.raises(CheckpointError, match="unknown key 'backbone.weight'"):
        model.load_released({"backbone.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not fit"):
        model.load_released({"cls_token": torch.zeros(1, 1, 16)})


def test_dropout_draws_its_numbers_in_the_order_that_runs_were_begun_with():
    """A run of an earlier version resumes bit for bit only if the random parts come in the same order."""
    model, order = build().train(), []
    for name in ("classifier", "video_student", "alignment", "audio_student"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: order.append(name))
    model(make_batch(2))
    assert order == ["video_student", "audio_student", "alignment", "classifier"]
