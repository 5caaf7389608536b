"""Exposing the Deception from prepared clips to a verdict: a method that only sees, frame by frame."""

import json

import numpy as np
import pytest
import torch

from models import load_detector
from models.judging.config import JudgeConfig
from tests.commands import ok, run_command, run_processes, scores
from tests.kill import differences, stop_and_resume
from tests.moving_face import clicks, moving_face, write_video
from tests.parity.exposing_deception import released_name
from utils.checkpoint.files import load_checkpoint

FLAGS = (
    "--model exposing_deception --preset demo --image_size 32 --fusion_dims 16 8 --frames_per_clip 2 "
    "--batch_size 4 --num_workers 1 --val_fraction 0.25 --test_fraction 0.25 --epochs 2 --device cpu "
    "--domain_clips 0 --precision fp32 --save_every_steps 5"
).split()


def train(root, run_dir, *more):
    return ["train.py", "--data_root", root, "--run_dir", run_dir, *FLAGS, *more]


@pytest.fixture(scope="module")
def run_dir(prepared_root, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("exposing") / "run"
    ok(run_command(*train(prepared_root, folder)))
    return folder


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(prepared_root, run_dir, tmp_path):
    stop_and_resume(train(prepared_root, tmp_path / "run"), tmp_path / "run")
    assert not differences(tmp_path / "run", run_dir)


def test_learnt_weights_of_the_terms_are_saved_and_logged(run_dir):
    spreads = load_checkpoint(run_dir / "last.pt")["criterion"]["spreads"]
    assert len(spreads) == 3
    assert (spreads != 1).all()
    header = (run_dir / "metrics.csv").read_text().splitlines()[0]
    for name in ("ce", "gil", "lil", "weight_ce", "weight_gil", "weight_lil"):
        assert f"train_{name}" in header


def test_two_processes_train(prepared_root, tmp_path):
    ok(run_processes(2, *train(prepared_root, tmp_path / "two", "--epochs", "1")))
    metrics = (tmp_path / "two/metrics.csv").read_text().splitlines()
    assert len(metrics) == 2


def test_a_run_and_a_published_file_of_its_weights_give_the_same_scores(prepared_root, run_dir, tmp_path):
    where = ("--data_root", prepared_root, "--num_workers", "0", "--device", "cpu", "--precision", "fp32")
    where += ("--report", "false")
    ok(run_command("test.py", "--checkpoint", run_dir / "best.pt", *where, "--output_dir", tmp_path / "own"))
    weights = load_checkpoint(run_dir / "best.pt")["model"]
    state = {f"module.{released_name(key, 2)}": value for key, value in weights.items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "model_best.pth")
    flags = ("--image_size", "32", "--frames_per_clip", "2", "--batch_size", "4")
    flags += ("--split_file", run_dir / "splits/fakeavceleb.csv")
    published = ("--model", "exposing_deception", "--checkpoint", tmp_path / "model_best.pth")
    ok(run_command("test.py", *published, *flags, *where, "--output_dir", tmp_path / "published"))
    assert scores(tmp_path / "published") == scores(tmp_path / "own")


def test_a_run_is_packed_and_compared(prepared_root, run_dir, tmp_path):
    """A pack of decoded frames gives the same scores as the crops, and one of equalised frames is refused."""
    flags = (
        "--checkpoint",
        run_dir / "best.pt",
        "--num_workers",
        "0",
        "--device",
        "cpu",
        "--report",
        "false",
    )
    roots = {"plain": prepared_root}
    for frames in ("rgb", "equalized"):
        roots[frames] = tmp_path / frames
        where = ("--data_root", prepared_root, "--output", roots[frames])
        ok(run_command("-m", "preprocess.pack", *where, "--frames", frames))
    for name in ("plain", "rgb"):
        ok(
            run_command(
                "test.py", *flags, "--data_root", roots[name], "--output_dir", tmp_path / f"of_{name}"
            )
        )
    assert scores(tmp_path / "of_plain") == scores(tmp_path / "of_rgb")
    refused = run_command(
        "test.py", *flags, "--data_root", roots["equalized"], "--output_dir", tmp_path / "x"
    )
    assert "packed equalised" in refused.stderr
    files = [tmp_path / f"of_{name}" / "predictions.csv" for name in ("plain", "rgb")]
    ok(run_command("test.py", "--compare", *files, "--output_dir", tmp_path / "compared"))
    frames = json.loads((tmp_path / "of_plain/test_metrics.json").read_text())["frame_level"]
    assert frames["num_real"] + frames["num_fake"] == 2 * len(scores(tmp_path / "of_plain"))


def test_a_silent_video_is_judged_like_a_sounding_one(run_dir, tmp_path):
    detector, verdicts = load_detector(run_dir / "best.pt", device="cpu"), []
    for name, waveform in (("silent", None), ("sounding", clicks(1.2, (0.3, 0.8)))):
        video = write_video(tmp_path / f"{name}.mp4", moving_face(30), waveform=waveform)
        verdicts.append(detector.judge(video, JudgeConfig(lag_frames=1)))
    (silent,), (sounding,) = (verdict.faces for verdict in verdicts)
    assert (silent.verdict, silent.prob) == (sounding.verdict, sounding.prob)
    assert 0 < silent.prob < 1
    assert silent.audio_prob is None


@pytest.mark.parametrize("fps", [10, 30])  # a frame is longer, or shorter, than one of the pipeline
def test_every_frame_of_another_rate_has_a_score_and_every_window_features(run_dir, tmp_path, fps):
    detector = load_detector(run_dir / "best.pt", device="cpu")
    video = write_video(tmp_path / "silent.mp4", moving_face(20), fps=fps)
    (face,) = detector.judge(video, JudgeConfig(explain=False)).faces
    assert face.num_frames == 20
    assert np.isfinite(face.frame_probs).all()
    (features,) = detector.features(video)
    assert features.windows.shape == (face.num_windows, len(features.fused)) == (face.num_windows, 1024)
    np.testing.assert_allclose(features.start_s, np.arange(face.num_windows) / fps)
