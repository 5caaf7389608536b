"""The parity commands on the fixtures next to the project, and the published sizes."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.beyond_masking.config import PRESETS, BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from tests.parity import beyond_masking, mrdf, pipeline


def test_the_released_preset_equals_the_published_code(shared, capsys):
    assert beyond_masking.main([str(shared / "fixtures/beyond_masking_reference.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]


@pytest.mark.parametrize(
    "key",
    [
        "expected.eval.logits",
        "expected.train.kl",
        "expected.grad_norm.video_landmark_predictor.predictor.3.weight",
    ],
)
def test_the_parity_command_notices_a_difference(shared, tmp_path, capsys, key):
    path = shared / "fixtures/beyond_masking_reference.safetensors"
    tensors = load_file(path)
    tensors[key] = tensors[key] * (1 + 5e-4)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    save_file(tensors, tmp_path / "other.safetensors", metadata=header["__metadata__"])
    assert beyond_masking.main([str(tmp_path / "other.safetensors")]) == 1
    assert not json.loads(capsys.readouterr().out)["passed"]


def test_the_clip_pipeline_equals_the_published_code(shared, capsys):
    arguments = [str(shared / "fixtures/pipeline_reference.npz"), str(shared / "fixtures/preprocessed")]
    assert pipeline.main(arguments) == 0
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert all(values["video_max"] == 0 for values in differences.values())


def test_the_pipeline_command_notices_a_difference(shared, tmp_path, capsys):
    arrays = dict(np.load(shared / "fixtures/pipeline_reference.npz"))
    arrays["short_48k_mono.mfcc"] = arrays["short_48k_mono.mfcc"] + 0.01
    np.savez(tmp_path / "other.npz", **arrays)
    assert pipeline.main([str(tmp_path / "other.npz"), str(shared / "fixtures/preprocessed")]) == 1
    assert not json.loads(capsys.readouterr().out)["passed"]


def test_parameter_counts_are_the_published_ones():
    released = PRESETS["released"]["model"]
    model = BeyondMaskingDetector(BeyondMaskingConfig(**released))
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_046_721
    torchvision_encoder = BeyondMaskingDetector(BeyondMaskingConfig(**released, video_encoder="r2plus1d_18"))
    millions = sum(parameter.numel() for parameter in torchvision_encoder.video_encoder.parameters()) / 1e6
    assert millions == pytest.approx(31.3, abs=0.1)


def test_the_parity_commands_say_how_they_are_called():
    for module in (beyond_masking, mrdf, pipeline):
        assert re.search(r"python -m tests\.parity\.\w+ FIXTURE", module.__doc__)
    assert torch.get_default_dtype() == torch.float32
