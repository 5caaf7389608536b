"""2D3MF from cached features to a verdict: a method that loads neither picture nor sound."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from loaders.batches.facts import PICTURE_FACTS, SOUND_FACTS
from models import load_detector
from models.judging.detector import JudgeConfig
from tests.commands import ok, run_command, scores, start_command
from tests.feature_factory import random_recipe, write_noise_features
from tests.kill import differences
from tests.moving_face import clicks, moving_face, write_video
from utils.checkpoint.files import load_checkpoint
from utils.errors import UsageError
from utils.evaluation.domain import Domain

NAMES = ("marlin_small", "audio_resnet18")
FLAGS = (
    "--model td3mf --preset demo --hidden_dim 16 --batch_size 4 --num_workers 1 --val_fraction 0.25 "
    "--test_fraction 0.25 --epochs 2 --device cpu --precision fp32 --save_every_steps 5"
).split()


def train(root, run_dir, *more):
    return ["train.py", "--data_root", root, "--run_dir", run_dir, *FLAGS, *more]


@pytest.fixture(scope="module")
def root(prepared_root, tmp_path_factory):
    """The prepared tree with features, which say a little about the clip's label."""
    root = tmp_path_factory.mktemp("features") / "set"
    shutil.copytree(prepared_root, root)
    for number, video in enumerate(sorted(root.rglob("cropped_video.mp4"))):
        is_fake = "RealVideo-RealAudio" not in str(video)
        for name in NAMES:
            write_noise_features(video.parent, name, fake=is_fake, seed=number)
    return root


@pytest.fixture(scope="module")
def run_dir(root, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("td3mf") / "run"
    ok(run_command(*train(root, folder)))
    return folder


def test_a_run_says_what_it_learnt_from_and_describes_the_signals(run_dir):
    content = load_checkpoint(run_dir / "best.pt")
    assert content["features"] == {f"features/{name}": random_recipe(name) for name in NAMES}
    assert {"noise", "bandwidth"} <= set(content["domain"]["names"])


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(root, run_dir, tmp_path):
    process = start_command(*train(root, tmp_path / "run"))
    while not (tmp_path / "run/last.pt").exists():
        assert process.running()
        time.sleep(0.002)
    process.signal(signal.SIGTERM)
    process.wait()
    assert load_checkpoint(tmp_path / "run/last.pt")["progress"]["epoch"] < 2
    ok(run_command(*train(root, tmp_path / "run", "--resume")))
    assert not differences(tmp_path / "run", run_dir)


def test_a_run_is_tested_from_folders_and_from_a_pack_but_not_with_other_features(root, run_dir, tmp_path):
    packed, other = tmp_path / "packed", tmp_path / "other"
    ok(run_command("-m", "preprocess.pack", "--data_root", root, "--output", packed, "--num_workers", 1))
    flags = ("--num_workers", 0, "--device", "cpu", "--precision", "fp32", "--report", "false")
    for place in (root, packed):
        words = ("--data_root", place, "--output_dir", tmp_path / place.name)
        ok(run_command("test.py", "--checkpoint", run_dir / "best.pt", *words, *flags))
    found = [scores(tmp_path / place.name) for place in (root, packed)]
    assert found[0] == found[1]
    metrics = json.loads((tmp_path / "set/test_metrics.json").read_text())
    assert metrics["overall"]["auc"] > 0.9
    shutil.copytree(root, other)
    for info in other.rglob("marlin_small.json"):
        info.write_text(info.read_text().replace('"weights_sha256": "random"', '"weights_sha256": "0123"'))
    words = ("--checkpoint", run_dir / "best.pt", "--data_root", other, "--output_dir", tmp_path / "none")
    refused = run_command("test.py", *words, *flags)
    assert refused.returncode
    assert "marlin_small.npy: was made by" in refused.stderr
    one = next(iter(sorted(other.rglob("marlin_small.json"))))
    one.write_text(one.read_text().replace("0123", "random"))
    refused = run_command(*train(other, tmp_path / "mixed"))
    assert "extract all in one way" in refused.stderr


def test_a_video_is_judged_by_features_that_are_extracted_for_it(run_dir, tmp_path, monkeypatch):
    video = write_video(tmp_path / "clip.mp4", moving_face(30), waveform=clicks(1.2, (0.3, 0.8)))
    detector = load_detector(run_dir / "best.pt", device="cpu")
    assert detector.domain is None  # nine persons tell nobody apart: their description is used all the same
    detector.domain = Domain.from_plain(load_checkpoint(run_dir / "best.pt")["domain"])
    seen = []
    monkeypatch.setattr(Domain, "reasons", lambda _, facts: seen.append(facts) or ["unlike them"])
    (face,) = detector.judge(video, JudgeConfig()).faces
    assert np.isfinite(face.logit)
    assert "unlike them" in face.off_domain
    (facts,) = seen  # of picture and sound, which the method itself does not load
    assert len(facts) == len(detector.domain.names)
    assert np.isfinite(facts[: len(PICTURE_FACTS + SOUND_FACTS)]).all()
    (features,) = detector.features(video)
    assert features.windows.shape == (1, 32)
    detector.model.recipes["features/marlin_small"] |= {"weights": "marlin.pt"}
    with pytest.raises(UsageError, match=r"give --weights_dir.*marlin.pt"):
        detector.judge(video)


def test_the_backbone_is_trained_from_raw_frames(root, tmp_path):
    words = train(root, tmp_path / "run", "--finetune", "true", "--video_features", "efficientface")
    ok(run_command(*words, "--epochs", 1, "--window_s", 0.08, "--domain_clips", 0, "--num_steps", 8))
    content = load_checkpoint(tmp_path / "run/best.pt")
    assert content["features"].keys() == {"features/audio_resnet18"}
    assert any(key.startswith("video_backbone.") for key in content["model"])
