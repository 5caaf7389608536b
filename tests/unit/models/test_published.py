"""Published weights under the names that wrappers and other programs give them, for every method alike."""

import logging

import pytest
import torch

from models import MODELS
from models.beyond_masking.config import PRESETS
from models.restore import unwrap
from tests.parity.beyond_masking import released_name
from tests.unit.models.beyond_masking.test_detector import SMALL, build
from tests.unit.models.mrdf.test_detector import av_hubert_state, plain, published_state, small


def beyond_masking():
    released = PRESETS["released"]["model"]
    model = build(**{name: value for name, value in released.items() if name not in SMALL})
    return model, {released_name(name): value for name, value in model.state_dict().items()}


def mrdf():
    model = plain(encoder_layers=1)
    return model, published_state(model)


PREFIXES = ["", "module.", "_orig_mod.", "model.", "network.", "module._orig_mod.", "model.model.detector."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["beyond_masking", "mrdf"])
def test_a_prefix_of_all_keys_that_the_method_does_not_have_is_left_out(name, prefix, caplog):
    model, state = {"beyond_masking": beyond_masking, "mrdf": mrdf}[name]()
    changed = {key: torch.full_like(value, 2) for key, value in model.state_dict().items()}
    wrapped = {"released": {prefix + key: value.clone() for key, value in state.items()}}
    with caplog.at_level(logging.INFO):
        content = unwrap(MODELS[name], wrapped)
    assert content["released"].keys() == state.keys()
    assert ("keys are read without" in caplog.text) == bool(prefix)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(changed)
    model.load_released(content["released"])
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_wrappers_within_and_the_count_of_an_average_are_left_out():
    _, state = beyond_masking()
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.ReLU()).state_dict()
    wrapped = {f"module.{key}": value for key, value in state.items()} | averaged
    assert unwrap(MODELS["beyond_masking"], {"released": wrapped})["released"].keys() == state.keys()
    inner = {key.replace("extractor.", "extractor._orig_mod.", 1): value for key, value in state.items()}
    assert inner.keys() != state.keys()
    assert unwrap(MODELS["beyond_masking"], {"released": inner})["released"].keys() == state.keys()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_keys_of_something_else_stay_as_they_are_in_the_file(name):
    state = {"module.backbone.weight": torch.zeros(1), "module.backbone.bias": torch.zeros(1)}
    assert unwrap(MODELS[name], {"released": state})["released"].keys() == state.keys()


def test_weights_to_start_from_may_be_wrapped_too(tmp_path):
    state = av_hubert_state(plain(), layers=1)
    torch.save({"net": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "base.pt")
    model = small(init_from=tmp_path / "base.pt")
    assert torch.equal(model.fusion[1].weight, state["post_extract_proj.weight"])
