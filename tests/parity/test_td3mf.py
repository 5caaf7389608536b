"""The parity command of 2D3MF on the fixture next to the project, and what it would notice."""

import json
from pathlib import Path

import pytest
import torch

from models.td3mf import fusion
from tests.parity import td3mf


@pytest.fixture
def fixture(shared):
    return str(shared / "fixtures/td3mf_released.safetensors")


def test_network_and_encoders_equal_the_published_code(fixture, capsys):
    assert td3mf.main([fixture]) == 0
    cases = json.loads(capsys.readouterr().out)["share_of_tolerance_used"]
    assert len(cases) == 41
    assert {"marlin_encoder", "efficientface", "audio_resnet18", "lp_only", "audio_only"} < cases.keys()
    trained = [kinds for kinds in cases.values() if "gradients" in kinds]
    assert len(trained) == 3
    assert all({"outputs", "loss", "statistics", "zero"} < kinds.keys() for kinds in trained)


def test_the_approximate_gelu_is_noticed(fixture, monkeypatch):
    """In one case of the published network, which passes without it."""
    comparison = td3mf.Comparison(Path(fixture))
    case = next(case for case in comparison.cases if case["kind"] == "fusion")
    comparison.network(case)
    assert max(comparison.used.pop(case["name"]).values()) < 1
    monkeypatch.setattr(fusion.nn, "GELU", lambda: torch.nn.modules.activation.GELU(approximate="tanh"))
    comparison.network(case)
    assert max(comparison.used[case["name"]].values()) > 1
