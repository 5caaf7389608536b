"""Probes: what they load and judge, and that they find what features know."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import train
from losses.probe import ProbeLoss, ProbeLossConfig
from models.probe import ProbeDetector
from models.probe.detector import ProbeConfig
from tests.clip_factory import make_batch
from utils.errors import UsageError


def batch_of(rows, masks, labels=None):
    batch = make_batch(len(rows), 2, size=8)
    labels = batch.labels if labels is None else labels
    features, masks = {"audio_resnet18": rows}, {"audio_resnet18": masks}
    return dataclasses.replace(batch, features=features, feature_padding_masks=masks, labels=labels)


def probe(**changes):
    return ProbeDetector(ProbeConfig(features=("audio_resnet18",), **changes))


def test_inputs_and_modalities_are_those_of_the_features():
    both = ProbeConfig()
    assert ProbeDetector.inputs_of(both) == {"features/marlin_small", "features/eat"}
    assert ProbeDetector(both).modalities == {"video", "audio"}
    assert probe().modalities == {"audio"}
    assert ProbeDetector(ProbeConfig(features=("efficientface",))).modalities == {"video"}


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_probe_becomes_ridge_regression_and_padding_changes_nothing(pooling):
    torch.manual_seed(0)
    labels = (torch.arange(128) % 2).float()
    rows = torch.randn(128, 6, 512)
    rows[:, :, 3] += 2 * labels[:, None] - 1
    masks = torch.arange(6) >= torch.randint(2, 7, (128,))[:, None]
    batch = batch_of(rows.masked_fill(masks[..., None], 1e6), masks, labels)
    model, criterion = probe(pooling_of_rows=pooling), ProbeLoss(ProbeLossConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.05)
    for _ in range(500 if pooling == "mean" else 50):
        output = model(batch)
        loss = criterion(output, batch)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ridge = LogisticRegression(C=1 / (128 * 0.05)).fit(output.embedding.detach(), labels)
    weights = model.head.weight[0].detach().numpy()
    if pooling == "mean":
        np.testing.assert_allclose(weights, ridge.coef_[0], atol=0.01 * np.abs(weights).max())
    else:  # the embedding moved with the weights
        assert model.queries[0].abs().sum() > 0
    assert weights.argmax() == 3
    model.eval()
    first = batch_of(rows[:1, : int((~masks[0]).sum())], masks[:1, : int((~masks[0]).sum())], labels[:1])
    torch.testing.assert_close(model(first).logits, model(batch).logits[:1], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_refused():
    for words in (["--batch_size", "1"], ["--batch_size", "4", "--accumulate_steps", "4"]):
        with pytest.raises(UsageError, match="--batch_size must hold two at once"):
            train.parse_args(["--model", "probe", *words])
    with pytest.raises(UsageError, match="named once each"):
        train.parse_args(["--model", "probe", "--features", "marlin_small", "marlin_small"])
    with pytest.raises(UsageError, match="no backbone gives nothing; choose from audio_resnet18, "):
        train.parse_args(["--model", "probe", "--features", "nothing"])
    with pytest.raises(UsageError, match="wavlm_base has 12 layers to choose from"):
        train.parse_args(["--model", "probe", "--features", "wavlm_base.layer13"])
    train.parse_args(["--model", "probe", "--features", "wavlm_base.layer12", "wavlm_base"])
    with pytest.raises(UsageError, match="marlin_small sees pictures"):
        train.parse_args(["--model", "td3mf", "--audio_features", "marlin_small"])
