"""The parity command of M2SD on the fixture next to the project, and what it would notice."""

import json
from pathlib import Path

import pytest
import torch

from models.blocks import alignment, vit
from tests.parity import m2sd


@pytest.fixture
def fixture(shared):
    return shared / "fixtures/m2sd_released.safetensors"


@pytest.mark.slow
def test_network_clips_and_alignment_equal_the_published_code(fixture, capsys):
    assert m2sd.main([str(fixture)]) == 0
    cases = json.loads(capsys.readouterr().out)["share_of_tolerance_used"]
    assert {"tiny", "mid", "base", "clips", "scores", "crop", "align", "track"} < cases.keys()
    assert {"network", "gradients", "positions"} < cases["mid"].keys()


def small(path: Path, dtype=torch.float64):
    """A comparison of the small networks."""
    comparison = m2sd.Comparison(path, dtype)
    for name in ("tiny", "mid"):
        comparison.network(name, comparison.config["networks"][name])
    return max(share for kinds in comparison.used.values() for share in kinds.values())


def test_networks_of_single_precision_are_close(fixture):
    assert small(fixture, torch.float32) < 1


@pytest.mark.parametrize("change", ["norm_eps", "gelu"])
def test_another_norm_or_activation_is_noticed(fixture, monkeypatch, change):
    if change == "norm_eps":
        init = vit.ViTBlock.__init__
        monkeypatch.setattr(vit.ViTBlock, "__init__", lambda self, w, h, eps, p: init(self, w, h, 1e-5, p))
    else:
        monkeypatch.setattr(vit.nn, "GELU", lambda: torch.nn.modules.activation.GELU(approximate="tanh"))
    assert small(fixture) > 1


def test_places_that_are_not_rounded_as_in_opencv_are_noticed(fixture, monkeypatch):
    comparison = m2sd.Comparison(fixture, torch.float64)
    comparison.align()
    assert max(comparison.used.pop("align").values()) < 1
    monkeypatch.setattr(alignment, "PLACES", 2**20)
    monkeypatch.setattr(alignment, "ROUNDING", 2**25)
    comparison.align()
    assert comparison.used["align"]["levels"] > 1


def test_what_nobody_compares_is_an_error(fixture):
    comparison = m2sd.Comparison(fixture, torch.float64)
    comparison.config["networks"] = {}
    with pytest.raises(KeyError, match="nothing was compared with"):
        comparison.run()
