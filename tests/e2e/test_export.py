"""Exported networks: each method's gives the framework's scores, and the example needs no framework."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from loaders.batches.collate import Collate
from loaders.batches.windows import ClipDataset
from models import MODELS
from models.export import command
from models.export.judge_onnx import judge
from models.judging.batches import unlabelled_clip
from models.method import needs_of
from tests.checkpoint_factory import ENCODER, write_small_checkpoint
from tests.clip_factory import write_clip_folder
from tests.commands import ROOT
from tests.feature_factory import write_noise_features
from utils.checkpoint.__main__ import main
from utils.checkpoint.files import load_checkpoint
from utils.clip.files import LANDMARKS_NAME
from utils.errors import CheckpointError, UsageError
from utils.evaluation.scoring import POOLS

INPUTS = {
    "beyond_masking": {"video", "waveform"},
    "exposing_deception": {"video"},
    "m2sd": {"video", "landmarks"},
    "mrdf": {"video", "waveform"},
    "probe": {"features_eat", "features_marlin_small"},
    "td3mf": {"features_eat", "features_marlin_small"},
}
MORE = {
    "mrdf": ENCODER,
    "exposing_deception": ("--num_libs", "2"),
    "m2sd": ("--stp", "none", "--vac", "none"),
}


@pytest.fixture(autouse=True, scope="module")
def untraced():
    """pytest's capture of logs would write down each step of torch's tracer, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Clips of different lengths, one of them shorter than a window, with frames without a face."""
    root = tmp_path_factory.mktemp("prepared")
    for number, num_frames in enumerate((70, 40)):
        folder = write_clip_folder(root / f"clip_{number}", num_frames=num_frames, seed=number)
        for name in ("eat", "marlin_small"):
            write_noise_features(folder, name, seed=number)
        landmarks = np.load(folder / LANDMARKS_NAME)
        landmarks[20:33] = np.nan
        np.save(folder / LANDMARKS_NAME, landmarks)
    return root


def write_checkpoint(path, model, *flags):
    decision = {"clip": {"threshold": 0.5}}
    return write_small_checkpoint(path, model, *MORE.get(model, ()), *flags, decision=decision)


def framework_score(method, data, folder):
    """The clip's logit as test.py has it."""
    needs = needs_of(method, method.config)
    dataset = ClipDataset([unlabelled_clip(folder.name, folder)], data, training=False, **needs)
    collate = Collate(data.video_fps, bool(data.frames_per_clip))
    with torch.no_grad():
        logits = [method(collate([dataset[key]])).logits.item() for key in dataset.clip_keys(0)]
    return POOLS[data.pooling](np.array(logits), axis=0)


def export(checkpoint, target, prepared, monkeypatch):
    words = ["checkpoint", "export", checkpoint, target, "--data_root", prepared]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    assert main() == 0


@pytest.mark.parametrize("model", sorted(MODELS))
def test_the_network_of_each_method_gives_the_frameworks_scores(model, prepared, tmp_path, monkeypatch):
    method, data = write_checkpoint(tmp_path / "best.pt", model)
    export(tmp_path / "best.pt", tmp_path / "model.onnx", prepared, monkeypatch)
    for folder in sorted(prepared.iterdir()):
        expected = framework_score(method, data, folder)
        assert judge(tmp_path / "model.onnx", folder) == pytest.approx(expected, abs=1e-3)
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["inputs"].keys() == INPUTS[model]
    assert card["parity"]["num_clips"] == 2
    assert card["decision"] == {"clip": {"threshold": 0.5}}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_torch_program_has_free_axes(prepared, tmp_path, monkeypatch):
    method, _ = write_checkpoint(tmp_path / "best.pt", "td3mf")
    export(tmp_path / "best.pt", tmp_path / "model.pt2", prepared, monkeypatch)
    network = torch.export.load(tmp_path / "model.pt2").module()
    for count, eat, marlin in ((1, 3, 7), (3, 12, 5)):
        rows = torch.randn(count, eat, 6144), torch.randn(count, marlin, 384)
        assert network(*rows)[0].shape == (count,)


def test_a_network_that_differs_is_not_written(prepared, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best.pt", "probe")
    content = load_checkpoint(tmp_path / "best.pt")
    monkeypatch.setattr(command, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(CheckpointError, match="a logit differs by .* more than -1"):
        command.export_network(content, tmp_path / "best.pt", tmp_path / "model.pt2", prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_what_cannot_be_exported_is_named(prepared, tmp_path):
    write_checkpoint(tmp_path / "best.pt", "td3mf", "--finetune", "true")
    content = load_checkpoint(tmp_path / "best.pt")
    with pytest.raises(UsageError, match="planned clip by clip"):
        command.export_network(content, tmp_path / "best.pt", tmp_path / "model.pt2", prepared)


def test_the_example_refuses_what_it_cannot_cut(prepared, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best.pt", "td3mf", "--trim_silence", "true")
    export(tmp_path / "best.pt", tmp_path / "model.onnx", prepared, monkeypatch)
    with pytest.raises(ValueError, match="trim_silence"):
        judge(tmp_path / "model.onnx", prepared / "clip_0")


def test_the_example_loads_no_pytorch():
    source = "import models.export.judge_onnx, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False, cwd=ROOT).returncode == 0
