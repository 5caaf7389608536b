"""M2SD from prepared clips to a verdict: aligned clips of 16 frames, trained as a plain detector."""

import numpy as np
import pytest
import torch

from models import load_detector
from models.judging.config import JudgeConfig
from models.judging.render_m2sd import THRESHOLD
from models.m2sd.published import released_names
from tests.commands import ok, run_command, run_processes, scores
from tests.kill import differences, stop_and_resume
from tests.moving_face import clicks, moving_face, write_video
from tests.parity.m2sd import published_names
from utils.checkpoint.files import load_checkpoint

FLAGS = (
    "--model m2sd --preset demo --image_size 32 --batch_size 4 --num_workers 1 --val_fraction 0.25 "
    "--test_fraction 0.25 --epochs 2 --device cpu --domain_clips 0 --precision fp32 --save_every_steps 5 "
    "--real_similarity centre --rs_weight 0.5"
).split()


def train(root, run_dir, *more):
    return ["train.py", "--data_root", root, "--run_dir", run_dir, *FLAGS, *more]


@pytest.fixture(scope="module")
def run_dir(prepared_root, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("m2sd") / "run"
    ok(run_command(*train(prepared_root, folder)))
    return folder


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(prepared_root, run_dir, tmp_path):
    stop_and_resume(train(prepared_root, tmp_path / "run"), tmp_path / "run")
    assert not differences(tmp_path / "run", run_dir)


def test_terms_and_cosines_are_logged_and_the_centre_is_saved(run_dir):
    header = (run_dir / "metrics.csv").read_text().splitlines()[0]
    assert all(f"train_{name}" in header for name in ("ce", "rs", "cosine_real", "cosine_fake"))
    assert load_checkpoint(run_dir / "last.pt")["criterion"]["real_centre.centre"].shape == (48,)


def test_two_processes_train(prepared_root, tmp_path):
    ok(run_processes(2, *train(prepared_root, tmp_path / "two", "--epochs", "1")))
    metrics = (tmp_path / "two/metrics.csv").read_text().splitlines()
    assert len(metrics) == 2


def test_a_run_and_a_published_file_of_its_weights_give_the_same_scores(prepared_root, run_dir, tmp_path):
    where = ("--data_root", prepared_root, "--num_workers", "0", "--device", "cpu", "--precision", "fp32")
    where += ("--report", "false")
    ok(run_command("test.py", "--checkpoint", run_dir / "best.pt", *where, "--output_dir", tmp_path / "own"))
    weights = load_checkpoint(run_dir / "best.pt")["model"]
    names = {name: released_names([name])[name] for name in published_names(2)}
    torch.save({"module": {name: weights[own] for name, own in names.items()}}, tmp_path / "M2SD.pt")
    flags = ("--preset", "demo", "--image_size", "32", "--batch_size", "4")
    flags += ("--split_file", run_dir / "splits/fakeavceleb.csv")
    published = ("--model", "m2sd", "--checkpoint", tmp_path / "M2SD.pt")
    ok(run_command("test.py", *published, *flags, *where, "--output_dir", tmp_path / "published"))
    assert scores(tmp_path / "published") == scores(tmp_path / "own")


def test_the_threshold_is_fitted_on_the_validation_clips(run_dir):
    """Trap T3: the published script's is another detector's. Here it only draws: --render m2sd."""
    detector = load_detector(run_dir / "best.pt", device="cpu")
    with np.load(run_dir / "val_scores.npz") as file:
        labels, epochs = file["labels"], file["logits"]
    logits = epochs[load_checkpoint(run_dir / "best.pt")["epoch"]].astype(float)
    head, reals, fakes = detector.decision.clip, logits[labels == 0], logits[labels == 1]
    assert (head.num_reals, head.num_fakes) == (len(reals), len(fakes))
    # 1 % of so few clips is not one: the highest real, and the lowest fake
    assert head.threshold == pytest.approx(reals.max(), rel=1e-6)
    assert head.acquittal_threshold == pytest.approx(fakes.min(), rel=1e-6)
    assert detector.threshold != pytest.approx(THRESHOLD, rel=0.1)


def test_a_video_without_its_flag_is_refused(tmp_path):
    """Trap T4: the published README gives the script's input and output so, which only takes flags."""
    result = run_command("test.py", "clip.mp4", tmp_path / "out")
    assert result.returncode == 2
    assert "clip.mp4" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_frames", [5, 40])  # fewer than a clip's, and more
def test_a_raw_video_is_judged(run_dir, tmp_path, num_frames):
    detector = load_detector(run_dir / "best.pt", device="cpu")
    waveform = clicks(num_frames / 25, (0.1,))
    video = write_video(tmp_path / "clip.mp4", moving_face(num_frames), waveform=waveform)
    (face,) = detector.judge(video, JudgeConfig(stride_s=0.04)).faces
    assert 0 < face.prob < 1
    assert face.num_windows == max(1, num_frames - 15)
    assert np.isfinite(face.frame_probs).all()
    assert face.lag_curve is None  # it hears nothing
    (features,) = detector.features(video)
    assert features.fused.shape == (48,)
