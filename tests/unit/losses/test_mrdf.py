"""MRDF's objectives against arithmetic by hand and plain loops."""

import dataclasses
import math

import pytest
import torch

from losses.mrdf import (
    MrdfLoss,
    MrdfLossConfig,
    cross_modality_contrast,
    known_cross_entropy,
    within_modality_margin,
)
from models.mrdf.detector import MrdfOutput
from tests.clip_factory import make_batch

VIDEO = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 2]])
AUDIO = torch.tensor([[1.0, 1], [0, 2], [-1, 1], [2, 1]])
SCORES = torch.tensor([[0.2, 0.8], [1, -1], [0, 0], [-0.5, 1.5]])


def cosine(one, two):
    dot = sum(a * b for a, b in zip(one, two, strict=True))
    return dot / max(math.hypot(*one) * math.hypot(*two), 1e-8)


def margin_by_loop(embeddings, labels, margin):
    """All ordered pairs, one after the other, in float64."""
    rows, total = embeddings.double().tolist(), 0.0
    for one, label in zip(rows, labels.tolist(), strict=True):
        for two, other in zip(rows, labels.tolist(), strict=True):
            similarity = cosine(one, two)
            total += 1 - similarity if label == other else max(0.0, similarity - margin)
    return total / len(rows) ** 2


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 0.2732233), (0.2, 0.2232233), (0.5, 0.1482233)])
def test_contrast_is_the_published_number(margin, expected):
    labels = torch.tensor([0.0, 0, 1, 1])
    loss = cross_modality_contrast(VIDEO, AUDIO, labels, margin)
    assert loss.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 0.4244871), (0.2, 0.3494871), (0.5, 0.2369871)])
def test_margin_is_the_published_number(margin, expected):
    loss = within_modality_margin(VIDEO, torch.tensor([0.0, 1, 1, 0]), margin)
    assert loss.item() == pytest.approx(expected, abs=2e-7)
    loss = within_modality_margin(VIDEO, torch.zeros(4), margin)
    assert loss.item() == pytest.approx(0.2869328, abs=2e-7)


def test_cross_entropy_is_the_published_number():
    assert known_cross_entropy(SCORES, torch.tensor([1.0, 1, 0, 0])).item() == pytest.approx(
        1.3461229, abs=1e-6
    )


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.4])
@pytest.mark.parametrize("num_clips", [1, 7, 64])
def test_the_margin_of_all_pairs_equals_the_double_loop(num_clips, margin):
    generator = torch.Generator().manual_seed(num_clips)
    embeddings = torch.randn(num_clips, 24, generator=generator)
    embeddings[0] *= 1e-3
    labels = torch.randint(0, 2, (num_clips,), generator=generator).float()
    loss = within_modality_margin(embeddings, labels, margin)
    assert loss.item() == pytest.approx(margin_by_loop(embeddings, labels, margin), rel=1e-5, abs=3e-7)


def test_an_embedding_of_zeros_gives_finite_gradients():
    embeddings = torch.zeros(3, 4, requires_grad=True)
    within_modality_margin(embeddings, torch.tensor([0.0, 1, 1]), 0.0).backward()
    assert embeddings.grad.isfinite().all()


def outputs(variant, **scores):
    values = dict.fromkeys((f.name for f in dataclasses.fields(MrdfOutput)), None)
    values |= {
        "logits": torch.zeros(4),
        "variant": variant,
        "video_mean": VIDEO,
        "audio_mean": AUDIO,
    } | scores
    return MrdfOutput(**values)


def labelled(video, audio, labels=None):
    video, audio = torch.tensor(video), torch.tensor(audio)
    labels = video.maximum(audio) if labels is None else torch.tensor(labels)
    return dataclasses.replace(make_batch(4), video_labels=video, audio_labels=audio, labels=labels)


def test_every_variant_sums_its_own_terms():
    batch = labelled([0.0, 1, 0, 1], [0.0, 0, 1, 1])
    four = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    heads = {"video_class_logits": SCORES, "audio_class_logits": SCORES.flip(0)}
    branches = {"video_embedding": VIDEO, "audio_embedding": AUDIO}
    cases = {
        "ce": ({"class_logits": SCORES, **heads}, {"fused", "audio", "video", "contrast"}),
        "margin": ({"class_logits": SCORES, **branches}, {"fused", "audio", "video", "contrast"}),
        "avdf": ({"class_logits": SCORES}, {"fused"}),
        "avdf_multiclass": ({"class_logits": four}, {"fused"}),
        "avdf_multilabel": ({"class_logits": SCORES}, {"fused"}),
        "avdf_ensemble": (heads, {"audio", "video"}),
    }
    criterion, seen = MrdfLoss(MrdfLossConfig(margin_visual=0.3)), {}
    for variant, (scores, names) in cases.items():
        seen[variant] = terms = criterion(outputs(variant, **scores), batch)
        assert terms.keys() == names | {"total"}
        total = sum(terms[name].item() for name in names)
        assert terms["total"].item() == pytest.approx(total, rel=1e-6)
    by_kind = -four.log_softmax(1)[range(4), [0, 1, 2, 3]].mean()
    assert seen["avdf_multiclass"]["fused"].item() == pytest.approx(by_kind.item(), rel=1e-6)
    bce = [  # sound first; 1 = real
        math.log(1 + math.exp(-score if real else score))
        for scores, reals in zip(SCORES.tolist(), [[1, 1], [1, 0], [0, 1], [0, 0]], strict=True)
        for score, real in zip(scores, reals, strict=True)
    ]
    assert seen["avdf_multilabel"]["fused"].item() == pytest.approx(sum(bce) / 8, rel=1e-6)
    assert sum(bce) / 8 == pytest.approx(0.6446934, abs=1e-7)
    assert seen["margin"]["video"].item() == pytest.approx(
        margin_by_loop(VIDEO, batch.video_labels, 0.3), rel=1e-6
    )
    assert seen["margin"]["contrast"].item() == pytest.approx(
        (1 - math.sqrt(0.5) + 1 + 0 + 0.8) / 4, rel=1e-6
    )


def test_unknown_labels_leave_out_their_clips_and_pairs():
    nan = math.nan
    embeddings = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0.0, nan, 1, 0])
    known = [0, 2, 3]
    loss = within_modality_margin(embeddings, labels, 0.1)
    assert loss.item() == pytest.approx(margin_by_loop(embeddings[known], labels[known], 0.1), rel=1e-5)
    batch = labelled([nan, nan, 0.0, nan], [nan, nan, 1.0, nan], [0.0, 1, 1, 0])
    four = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    terms = MrdfLoss(MrdfLossConfig())(outputs("avdf_multiclass", class_logits=four), batch)
    losses = -four.log_softmax(1)  # a real clip is real in both; of a fake one nobody says which it is
    expected = (losses[0, 0] + losses[2, 2] + losses[3, 0]) / 3
    assert terms["fused"].item() == pytest.approx(expected.item(), rel=1e-6)
    terms = MrdfLoss(MrdfLossConfig())(outputs("avdf_multilabel", class_logits=SCORES), batch)
    expected = (math.log(2) + math.log(2)) / 2  # of the third clip alone
    assert terms["fused"].item() == pytest.approx(expected, rel=1e-6)


def test_a_fake_voice_is_no_positive_even_where_the_label_is_the_pictures():
    batch = labelled([0.0] * 4, [1.0] * 4, [0.0] * 4)
    heads = {"video_class_logits": SCORES, "audio_class_logits": SCORES}
    terms = MrdfLoss(MrdfLossConfig())(outputs("ce", class_logits=SCORES, **heads), batch)
    negatives = [math.sqrt(0.5), 1.0, 0.0, 0.8]
    assert terms["contrast"].item() == pytest.approx(sum(negatives) / 4, rel=1e-6)
