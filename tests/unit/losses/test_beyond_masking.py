import dataclasses
import math

import pytest
import torch

from losses.beyond_masking import BeyondMaskingLoss, BeyondMaskingLossConfig
from losses.contrastive import contrastive_all_pairs, contrastive_real_pairs
from losses.frames import frame_bce
from losses.known import known_bce
from losses.lbd import landmark_distillation
from models.beyond_masking import BeyondMaskingOutput
from tests.clip_factory import make_batch


def _kl(teacher, student, temperature):
    """KL of two lists of features by a plain loop in float64."""

    def softmax(values):
        weights = [math.exp(value / temperature) for value in values]
        return [weight / sum(weights) for weight in weights]

    return sum(t * math.log(t / s) for t, s in zip(softmax(teacher), softmax(student), strict=True))


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)


def test_distillation_equals_a_loop_and_masks_frames(features):
    student, teacher = features
    mask = torch.tensor([[False, False, True], [False, True, True]])
    by_hand = [_kl(teacher[b, t].tolist(), student[b, t].tolist(), 0.5) for b in range(2) for t in range(3)]
    valid = [by_hand[0], by_hand[1], by_hand[3]]
    options = {"temperature": 0.5, "reduction": "mean"}
    assert landmark_distillation(student, teacher, mask, **options).item() == pytest.approx(
        sum(valid) / 3, rel=1e-5
    )
    assert landmark_distillation(student, teacher, None, **options).item() == pytest.approx(
        sum(by_hand) / 6, rel=1e-5
    )
    summed = landmark_distillation(student, teacher, None, temperature=0.5, reduction="sum")
    assert summed.item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_frames_of_both_kinds_weigh_alike_and_those_at_an_end_more():
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0, 3.0]])
    labels = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, math.nan]])

    def cost(logit, label):
        return math.log(1 + math.exp(-logit if label else logit))

    genuine = (cost(0.5, 0) + cost(-1.0, 0) + 3 * cost(2.0, 0)) / 5
    forged = (3 * cost(0.0, 1) + cost(1.0, 1)) / 4
    assert frame_bce(logits, labels, 1, 2.0).item() == pytest.approx((genuine + forged) / 2, rel=1e-5)
    only_real = frame_bce(logits, torch.zeros(1, 6), 1, 2.0)
    assert only_real.item() == pytest.approx(sum(cost(x, 0) for x in logits[0].tolist()) / 12, rel=1e-5)


def test_distillation_is_zero_on_equal_features_and_gives_the_teacher_no_gradient(features):
    student, teacher = (tensor.clone().requires_grad_() for tensor in features)
    loss = landmark_distillation(student, teacher, None, temperature=0.1, reduction="mean")
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert landmark_distillation(
        teacher, teacher, None, temperature=0.1, reduction="mean"
    ).item() == pytest.approx(0, abs=1e-6)


def test_distillation_without_a_valid_frame_is_zero_not_nan(features):
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert landmark_distillation(*features, everything, temperature=0.1, reduction="mean").item() == 0


def test_released_contrastive_term_is_one_directional():
    video, audio = torch.eye(3)[:2], torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    logits = [[1.0, 1.0], [0.0, 0.0]]  # cosine similarities at temperature 1
    expected = sum(-row[i] + math.log(sum(map(math.exp, row))) for i, row in enumerate(logits)) / 2
    assert contrastive_all_pairs(video, audio, temperature=1.0).item() == pytest.approx(expected)


def test_only_real_pairs_are_positives_and_everything_else_is_a_negative():
    generator = torch.Generator().manual_seed(1)
    video, audio = torch.randn(4, 8, generator=generator), torch.randn(4, 8, generator=generator)
    is_real = torch.tensor([True, False, True, False])
    cosines = torch.nn.functional.cosine_similarity(video[:, None], audio[None], dim=-1) / 0.5
    expected = 0.0
    for i in (0, 2):  # the real pairs, as a loop, in both directions
        expected += -cosines[i, i] + math.log(sum(math.exp(cosines[i, j]) for j in range(4)))
        expected += -cosines[i, i] + math.log(sum(math.exp(cosines[j, i]) for j in range(4)))
    loss = contrastive_real_pairs(video, audio, is_real, temperature=0.5)
    assert loss.item() == pytest.approx(float(expected) / 4, rel=1e-5)


def test_a_batch_of_fakes_has_no_contrastive_loss_but_a_gradient_path():
    video = torch.randn(3, 4, requires_grad=True)
    loss = contrastive_real_pairs(
        video, torch.randn(3, 4), torch.zeros(3, dtype=torch.bool), temperature=0.07
    )
    loss.backward()
    assert loss.item() == 0
    assert video.grad.abs().sum() == 0


def test_unknown_labels_count_nothing():
    logits = torch.tensor([2.0, -1.0, 5.0], requires_grad=True)
    loss = known_bce(logits, torch.tensor([1.0, 0.0, torch.nan]))
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert logits.grad[2] == 0
    assert known_bce(logits, torch.full((3,), torch.nan)).item() == 0


def test_a_loss_counts_the_heads_that_there_are():
    batch = make_batch()
    parts = dict.fromkeys(field.name for field in dataclasses.fields(BeyondMaskingOutput))
    output = BeyondMaskingOutput(**parts | {"logits": torch.ones(3), "video_logits": torch.ones(3)})
    terms = BeyondMaskingLoss(BeyondMaskingLossConfig())(output, batch)
    assert set(terms) == {"bce", "video_bce", "total"}
    assert terms["total"].item() == pytest.approx(0.2 * (terms["bce"] + 0.5 * terms["video_bce"]).item())
