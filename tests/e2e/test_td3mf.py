"""2D3MF from cached features to a verdict: a method that loads neither picture nor sound."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

from loaders.batches.facts import PICTURE_FACTS, SOUND_FACTS
from models import load_detector
from models.judging.config import JudgeConfig
from tests.commands import ok, run_command, scores
from tests.feature_factory import random_recipe, write_noise_features
from tests.kill import differences, stop_and_resume
from tests.moving_face import clicks, moving_face, write_video
from utils.checkpoint.export import write_export
from utils.checkpoint.files import load_checkpoint
from utils.clip_type import EMOTIONS
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


def test_an_export_knows_all_that_its_checkpoint_does(run_dir, tmp_path):
    best, target = run_dir / "best.pt", tmp_path / "model.safetensors"
    content = load_checkpoint(best)
    write_export(content, best, target)
    exported = load_checkpoint(target)
    assert content.keys() == exported.keys()
    for name in content.keys() - {"config", "model"}:
        assert exported[name] == json.loads(json.dumps(content[name])), name
    assert load_detector(target).model.recipes == load_detector(best).model.recipes


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(root, run_dir, tmp_path):
    stop_and_resume(train(root, tmp_path / "run"), tmp_path / "run")
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


@pytest.fixture(scope="module")
def emotions(prepared_root, tmp_path_factory):
    """A table of eight persons who play four emotions, whose features tell them."""
    root = tmp_path_factory.mktemp("emotions") / "set"
    folders = [video.parent for video in sorted(prepared_root.rglob("cropped_video.mp4"))]
    rows = ["path,label,identity,split,emotion"]
    for number in range(32):
        person, emotion = number // 4, EMOTIONS[2 * (number % 4)]
        split = {6: "val", 7: "test"}.get(person, "train")
        folder = root / f"clips/{number:02}"
        shutil.copytree(folders[number % len(folders)], folder)
        for name in NAMES:
            write_noise_features(folder, name, emotion=emotion, seed=number)
        rows.append(f"clips/{number:02},{number % 2},person {person},{split},{emotion}")
    rows[1:] = [row.replace("person 5,train", "person 5,test") for row in rows[1:]]
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def test_emotions_are_trained_tested_and_reported(emotions, tmp_path):
    flags = (
        "--model td3mf --preset emotion --dataset manifest --audio_features audio_resnet18 --hidden_dim 16 "
        "--batch_size 8 --num_workers 0 --window_s 2.56 --epochs 6 --device cpu --precision fp32 "
        "--select_by val_accuracy --allow_leaks"  # features of noise: the files below them do not matter
    ).split()
    run_dir = tmp_path / "run"
    log = ok(run_command("train.py", "--data_root", emotions, "--run_dir", run_dir, *flags)).stderr
    assert re.search(r"epoch 5: train loss \d\.\d+, val loss \d\.\d+, val AUC \d\.\d+, accuracy \d\.\d+", log)
    with (run_dir / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert max(float(row["val_accuracy"]) for row in epochs) > 0.7
    content = load_checkpoint(run_dir / "best.pt")
    assert "decision" not in content
    assert content["val"]["accuracy"] == max(float(row["val_accuracy"]) for row in epochs)
    words = ("--checkpoint", run_dir / "best.pt", "--dataset", "manifest", "--data_root", emotions)
    where = ("--output_dir", tmp_path / "test", "--num_workers", 0, "--device", "cpu")
    result = json.loads(ok(run_command("test.py", *words, *where)).stdout)
    assert result["overall"]["accuracy"] >= 0.5  # 0.25 by chance
    assert result["overall"]["macro_auc"] > 0.75
    assert result["intervals"]["num_persons"] == 2
    with (tmp_path / "test/predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert {row["emotion"] for row in predictions} == {"neutral", "happy", "angry", "disgust"}
    right = [row["called"] == row["emotion"] for row in predictions]
    assert sum(right) / len(right) == result["classes"]["accuracy"]
    page = (tmp_path / "test/report.html").read_text()
    assert "This model tells emotions apart" in page
    assert (tmp_path / "test/confusion.png").stat().st_size > 1000
    refused = run_command("test.py", *words, *where, "--shortcuts")
    assert "emotions for labels, but real and fake are needed here" in refused.stderr
    video = write_video(tmp_path / "clip.mp4", moving_face(30), waveform=clicks(1.2, (0.3, 0.8)))
    detector = load_detector(run_dir / "best.pt", device="cpu")
    with pytest.raises(UsageError, match="says nothing of real and fake"):
        detector.judge(video)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--preset demo --label_rule emotion", "--label_rule emotion does not go with --task deepfake"),
        ("--preset emotion --label_rule any", "--label_rule any does not go with --task emotion"),
        ("--preset demo --select_by val_accuracy", "val_accuracy is for --task emotion"),
        ("--preset emotion --dataset fakeavceleb", "fakeavceleb does not say the emotion of"),
    ],
)
def test_emotions_where_they_cannot_be(root, tmp_path, flags, said):
    words = ("--data_root", root, "--run_dir", tmp_path / "run", "--audio_features", "audio_resnet18")
    refused = run_command("train.py", "--model", "td3mf", *words, *flags.split())
    assert refused.returncode
    assert said in refused.stderr


def test_another_method_tells_no_emotions(root, tmp_path):
    refused = run_command(
        "train.py", "--data_root", root, "--run_dir", tmp_path / "run", "--label_rule", "emotion"
    )
    assert "is for methods that tell emotions apart" in refused.stderr
