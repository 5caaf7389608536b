"""M2SD's objective against the specification's numbers, and what each term may not do."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from losses.m2sd import M2SDLoss, M2SDLossConfig, RealCentre, pair_cosine, slot_loss, token_loss
from models.m2sd import M2SDOutput
from tests.clip_factory import make_batch

REALS = [(1.0, 0, 0), (0.6, 0.8, 0), (0, 0.6, 0.8)]


def batch_of(labels):
    labels = torch.tensor(labels, dtype=torch.float32)
    batch = make_batch(len(labels), 2, size=4, seconds=0.01)
    return dataclasses.replace(batch, labels=labels, video_labels=labels)


def output_of(features, logits=None, **more):
    logits = torch.zeros(len(features), dtype=features.dtype) if logits is None else logits
    return M2SDOutput(logits=logits, embedding=features, **more)


def features_of(fake=(0.0, 0, -1)):
    return torch.tensor([*REALS, fake], dtype=torch.float64, requires_grad=True)


def loss_of(**fields):
    return M2SDLoss(M2SDLossConfig(**fields))


@pytest.mark.parametrize("fake", [(0, 0, -1), (5.0, 1, 3), (0, 0, 0)])
def test_reals_are_drawn_together_by_the_specifications_gradient_and_no_fake_is(fake):
    features = features_of(fake)
    terms = loss_of()(output_of(features), batch_of([0, 0, 0, 1]))
    assert terms["rs"].item() == pytest.approx(0.64)
    terms["rs"].backward()
    expected = [
        (0, -0.46667, -0.26667),
        (-0.11733, 0.088, -0.26667),
        (-0.53333, -0.17067, 0.128),
    ]
    torch.testing.assert_close(features.grad[:3], torch.tensor(expected).double(), atol=5e-6, rtol=0)
    assert (features.grad[3] == 0).all()


@pytest.mark.parametrize("kind", ["pairs", "centre", "margin"])
def test_no_variant_sends_a_fake_or_an_unknown_clip_a_gradient(kind):
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    direction = torch.ones(5, requires_grad=True)
    cosines = F.cosine_similarity(features, direction[None], dim=1)
    criterion = loss_of(real_similarity=kind)
    terms = criterion(output_of(features, real_cosines=cosines), batch_of([0, 1, 0, math.nan, 0, 1]))
    terms["rs"].backward()
    assert (features.grad[[1, 3, 5]] == 0).all()
    assert (features.grad[[0, 2, 4]] != 0).any(1).all()
    assert (direction.grad is not None) == (kind == "margin")


def test_a_batch_with_one_real_or_none_keeps_the_graph():
    for labels in ([0, 1, 1, 1], [1, 1, 1, 1]):
        features = features_of()
        terms = loss_of()(output_of(features), batch_of(labels))
        assert terms["rs"].item() == 0
        terms["total"].backward()
        assert (features.grad == 0).all()


def test_the_centre_is_the_first_batchs_and_then_follows():
    criterion = loss_of(real_similarity="centre")
    batch = batch_of([0, 0, 0, 1])
    terms = criterion(output_of(features_of()), batch)
    assert terms["rs"].item() == pytest.approx(0.24281, abs=5e-6)
    first = torch.tensor(REALS).mean(0)
    torch.testing.assert_close(criterion.real_centre.centre, first)
    moved = features_of().detach().roll(1, dims=1)
    criterion(output_of(moved), batch)
    torch.testing.assert_close(criterion.real_centre.centre, 0.99 * first + 0.01 * moved[:3].float().mean(0))
    before = criterion.real_centre.centre.clone()
    criterion.eval()(output_of(moved), batch)
    criterion.train()(output_of(moved), batch_of([1, 1, 1, 1]))
    assert torch.equal(criterion.real_centre.centre, before)
    again = loss_of(real_similarity="centre")
    again.load_state_dict(criterion.state_dict())
    assert torch.equal(again.real_centre.centre, before)


def test_a_centre_that_saw_no_real_is_saved_and_loaded():
    centre = RealCentre()
    RealCentre().load_state_dict(centre.state_dict())
    term = centre.eval()(torch.eye(3), torch.tensor([True, False, True]))
    assert term.item() == 1


def test_the_margin_is_one_of_cosines():
    cosines = torch.tensor([0.95, 0.2, -1.0])
    terms = loss_of(real_similarity="margin")(
        output_of(torch.eye(3), real_cosines=cosines), batch_of([0, 0, 1])
    )
    expected = [math.log1p(math.exp(20 * (0.9 - cosine))) for cosine in (0.95, 0.2)]
    assert terms["rs"].item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_tokens_are_compared_with_standardised_ones():
    target = torch.tensor([[[1.0, 2, 3, 6]]], dtype=torch.float64)
    normed = F.layer_norm(target, (4,))
    torch.testing.assert_close(
        normed, torch.tensor([[[-1.0690, -0.5345, 0, 1.6036]]]).double(), atol=5e-5, rtol=0
    )
    assert token_loss(torch.zeros_like(target), target).item() == pytest.approx(0.45387, abs=5e-6)
    assert token_loss(normed, target).item() == 0


def test_the_experts_slots_are_learnt_of_reals_only():
    torch.manual_seed(0)
    slots, clips = torch.randn(4, 8, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    targets = F.normalize(torch.randn(4, 8, 6), dim=2)
    more = {"slot_predictions": slots, "clip_predictions": clips, "slot_targets": targets}
    terms = loss_of(rs_weight=0.0, vac_weight=3.0)(output_of(torch.eye(4), **more), batch_of([0, 1, 0, 1]))
    by_hand = []
    for row in (0, 2):
        near = [1 - F.cosine_similarity(slots[row, k], targets[row, k], dim=0) for k in range(8)]
        whole = 1 - F.cosine_similarity(clips[row], targets[row].mean(0), dim=0)
        by_hand.append(torch.stack(near).mean() + whole)
    torch.testing.assert_close(terms["vac"], torch.stack(by_hand).mean())
    torch.testing.assert_close(terms["total"], terms["ce"] + 3 * terms["vac"])
    terms["total"].backward()
    assert (slots.grad[[1, 3]] == 0).all()
    assert (clips.grad[[1, 3]] == 0).all()
    assert (slots.grad[0] != 0).any()
    torch.testing.assert_close(
        slot_loss(targets, targets.mean(1), targets), torch.zeros(4), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("reals_only", [False, True])
def test_masked_tubelets_of_both_readings(reals_only):
    torch.manual_seed(0)
    tokens, pixels = torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 12)
    more = {"token_predictions": tokens[0], "token_targets": tokens[1]}
    more |= {"pixel_predictions": pixels[0], "pixel_targets": pixels[1]}
    criterion = loss_of(stp_reals_only=reals_only, stp_weight=0.5, rs_weight=0.0)
    terms = criterion(output_of(torch.eye(2), **more), batch_of([0, 1]))
    shown = [0] if reals_only else [0, 1]
    expected = F.smooth_l1_loss(tokens[0], F.layer_norm(tokens[1], (6,)), reduction="none")[shown].mean()
    torch.testing.assert_close(terms["stp_tokens"], expected)
    torch.testing.assert_close(terms["stp_pixels"], F.mse_loss(pixels[0][shown], pixels[1][shown]))
    total = terms["ce"] + 0.5 * (terms["stp_tokens"] + terms["stp_pixels"])
    torch.testing.assert_close(terms["total"], total)
    without = loss_of(stp_weight=0.0)(output_of(torch.eye(2), **more), batch_of([0, 1]))
    assert not {"stp_tokens", "stp_pixels"} & without.keys()


def test_cross_entropy_is_that_of_two_classes_with_smoothed_labels():
    scores = torch.tensor([[0.3, -1.2], [2.0, 0.5], [-0.4, 0.1]])  # real, fake
    labels = [0, 1, 1]
    output = output_of(torch.eye(3), scores[:, 1] - scores[:, 0])
    for smoothing in (0.0, 0.1):
        terms = loss_of(label_smoothing=smoothing)(output, batch_of(labels))
        expected = F.cross_entropy(scores, torch.tensor(labels), label_smoothing=smoothing)
        torch.testing.assert_close(terms["ce"], expected)


def test_the_prior_of_mixed_batches_shifts_the_logit_in_training_only():
    share = 4 / ((4 + 1) * (8 + 1))
    criterion = loss_of(fake_prior=share)
    assert share == pytest.approx(0.08889, abs=5e-6)
    assert criterion.shift == pytest.approx(-2.32728, abs=5e-6)
    output, batch = output_of(torch.eye(2), torch.tensor([0.3, 1.0])), batch_of([0, 1])
    shifted = F.binary_cross_entropy_with_logits(output.logits - 2.32728, batch.labels)
    torch.testing.assert_close(criterion(output, batch)["ce"], shifted, atol=1e-5, rtol=0)
    plain = F.binary_cross_entropy_with_logits(output.logits, batch.labels)
    torch.testing.assert_close(criterion.eval()(output, batch)["ce"], plain)
    torch.testing.assert_close(loss_of()(output, batch)["ce"], plain)


def test_the_label_is_that_of_the_picture_where_it_is_known():
    batch = dataclasses.replace(
        batch_of([1, 1, 0]), video_labels=torch.tensor([0.0, math.nan, 0.0])
    )  # a real picture with a forged sound
    output = output_of(torch.eye(3), torch.tensor([-9.0, 9.0, -9.0]))
    assert loss_of(rs_weight=0.0)(output, batch)["ce"].item() < 1e-3


def test_terms_say_of_how_many_clips_they_are():
    batch = dataclasses.replace(batch_of([0, 0, 0, 1]), audio_labels=torch.tensor([0.0, 1.0, math.nan, 0.0]))
    output = output_of(torch.eye(4))
    counts = loss_of().clips_of(output, batch)
    assert counts == {"vac": 3, "rs": 3, "cosine_real": 3, "cosine_fake": 1}
    slots = F.normalize(torch.ones(4, 8, 3), dim=2)
    heard, shifts = slots[:, None].expand(4, 2, 8, 3), torch.tensor([[2, 0]] * 4)
    of_expert = M2SDOutput(logits=torch.zeros(4), seen_slots=slots, heard_slots=heard, shifts=shifts)
    criterion = loss_of(stp_reals_only=True)
    assert criterion.clips_of(of_expert, batch)["sync"] == 2
    assert criterion.clips_of(of_expert, batch)["total"] == 2
    assert criterion.clips_of(output, batch)["stp_tokens"] == 3
    assert criterion(of_expert, batch).keys() == {"total", "sync"}
    assert criterion.eval()(of_expert, batch).keys() == {"total", "sync", "sync_accuracy"}


def test_cosines_of_both_classes_are_told():
    features = torch.tensor([(1.0, 0), (0, 1), (3, 3), (2, 2)])
    terms = loss_of()(output_of(features), batch_of([0, 0, 1, 1]))
    assert terms["cosine_real"].item() == pytest.approx(0, abs=1e-6)
    assert terms["cosine_fake"].item() == pytest.approx(1)
    units = F.normalize(torch.randn(5, 3), dim=1)
    chosen = torch.tensor([True, True, False, True, False])
    pairs = [units[i] @ units[j] for i in (0, 1, 3) for j in (0, 1, 3) if i != j]
    torch.testing.assert_close(pair_cosine(units, chosen), torch.stack(pairs).mean())
