"""MRDF through the commands that know nothing of it: training, resuming, evaluation, raw videos, folds."""

import csv
import json

import pytest
import torch

from models import load_detector
from models.judging.config import JudgeConfig
from tests.commands import ok, run_command, run_launcher, scores
from tests.kill import differences, stop_and_resume
from tests.moving_face import clicks, moving_face, write_video
from tests.unit.models.mrdf.test_detector import published_state

SIZES = (
    "--image_size 16 --crop_size 14 --feature_dim 16 --video_channels 4 4 8 8 --encoder_layers 1 "
    "--transformer_nhead 4 --feedforward_dim 16 --position_kernel 8 --position_groups 4"
).split()
RUN = (
    "--window_s 0.6 --batch_size 4 --num_workers 1 --val_fraction 0.25 --device cpu --precision fp32".split()
)
RUN += ["--domain_clips", "0"]
PUBLISHED = ["--model", "mrdf", "--preset", "released", *SIZES]


def train(root, run_dir, *more):
    flags = [*PUBLISHED, *RUN, "--test_fraction", "0.25", "--epochs", "2", "--save_every_steps", "2", *more]
    return ["train.py", "--data_root", str(root), "--run_dir", str(run_dir), *flags]


@pytest.fixture(scope="module")
def run_dir(prepared_root, tmp_path_factory):
    """A run of two epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("mrdf") / "run"
    ok(run_command(*train(prepared_root, folder)))
    return folder


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(prepared_root, run_dir, tmp_path):
    stop_and_resume(train(prepared_root, tmp_path / "run"), tmp_path / "run")
    assert not differences(tmp_path / "run", run_dir)


@pytest.mark.slow
def test_a_run_and_a_published_file_of_its_weights_give_the_same_scores(prepared_root, run_dir, tmp_path):
    where = ("--data_root", prepared_root, "--num_workers", "0", "--device", "cpu", "--precision", "fp32")
    own = ("--checkpoint", run_dir / "best.pt", "--output_dir", tmp_path / "own", "--shortcuts")
    metrics = json.loads(ok(run_command("test.py", *where, *own)).stdout)
    assert metrics["run"]["model"] == "mrdf"
    assert {row["change"] for row in metrics["shortcuts"]} >= {"untouched"}
    assert (tmp_path / "own/report.html").is_file()
    rows = list(csv.DictReader((tmp_path / "own/predictions.csv").open()))
    assert all(0 <= float(row["video_prob"]) <= 1 for row in rows)

    model = load_detector(run_dir / "best.pt", device="cpu").model
    checkpoint = tmp_path / "MRDF_CE_model_train_1_epoch=1-val_loss=2.00.ckpt"
    torch.save({"epoch": 1, "state_dict": published_state(model), "callbacks": {}}, checkpoint)
    sizes = (
        "--image_size",
        "16",
        "--crop_size",
        "14",
        "--transformer_nhead",
        "4",
    )  # the file tells the others
    split = ("--split_file", run_dir / "splits/fakeavceleb.csv", "--window_s", "0.6", "--batch_size", "4")
    published = ("--model", "mrdf", "--checkpoint", checkpoint, "--output_dir", tmp_path / "published")
    ok(run_command("test.py", *where, *published, *sizes, *split, "--report", "false"))
    assert scores(tmp_path / "published") == scores(tmp_path / "own")


def test_a_raw_video_is_judged(run_dir, tmp_path):
    video = write_video(tmp_path / "talk.mp4", moving_face(30), waveform=clicks(1.2, (0.3, 0.8)))
    verdict = load_detector(run_dir / "best.pt", device="cpu").judge(video, JudgeConfig(lag_frames=1))
    (face,) = verdict.faces
    assert 0 < face.prob < 1
    assert face.video_prob is not None
    assert len(face.lag_curve["logit"]) == 3


@pytest.mark.slow
def test_folds_go_on_where_they_stopped_and_are_summed_up(prepared_root, tmp_path):
    variables = {"DATA_ROOT": str(prepared_root), "RUN_DIR": str(tmp_path), "EPOCHS": "1", "DEVICE": "cpu",
                 "MODEL": "mrdf"}  # fmt: skip
    flags = [*SIZES, *RUN[:-6], *RUN[-4:]]
    fold_2 = ["--epochs", "1", "--protocol", "mrdf5", "--fold", "2/5", *flags]
    where = ["--data_root", prepared_root, "--device", "cpu"]
    ok(run_command("train.py", "--model", "mrdf", *where, "--run_dir", tmp_path / "fold_2", *fold_2))
    ok(run_command("test.py", "--checkpoint", tmp_path / "fold_2/best.pt", *where, "--report", "false"))
    result = ok(run_launcher("run_fakeavceleb.sh", *flags, **variables, FOLDS="2-3"))
    assert "fold 2 is already done" in result.stderr
    assert "fold 3 -> " in result.stderr
    protocol = json.loads((tmp_path / "fold_2/test_metrics.json").read_text())["protocol"]
    assert (protocol["name"], protocol["misfits"]) == ("mrdf5", "its folds are drawn by --split_seed")
    matrix = json.loads((tmp_path / "folds/matrix.json").read_text())
    (group,) = matrix["groups"]
    assert [run["fold"] for run in group["runs"]] == ["2/5", "3/5"]
    for name in ("auc", "accuracy", "balanced_accuracy"):
        assert group["summary"]["fakeavceleb"][name]["num_runs"] == 2
    assert "mean of 2 runs: auc " in result.stderr
    (tmp_path / "fold_1").mkdir()  # a fold that stopped, and whose run cannot be resumed
    (tmp_path / "fold_1/last.pt").touch()
    result = run_launcher("run_fakeavceleb.sh", *flags, **variables, FOLDS="1-3")
    assert result.returncode == 2
    assert "fold_1/config.json: no such configuration" in result.stderr
