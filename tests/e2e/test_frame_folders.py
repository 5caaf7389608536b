"""Folders of frames and LMDB stores from their lists to a report."""

import csv
import json

import pytest

from tests.commands import ok, run_command
from tests.frame_trees import AUTHOR, build_deepfakebench, build_frame_lists, move_into_store

FLAGS = (
    "--model exposing_deception --preset demo --image_size 32 --fusion_dims 16 8 --frames_per_clip 3 "
    "--batch_size 4 --num_workers 1 --epochs 1 --device cpu --precision fp32 --domain_clips 0"
).split()
PREFIXES = ("--path_prefix", f"{AUTHOR}=", "FF++/manipulated_sequenceswap=manipulated_sequences/FaceSwap")


def train_and_test(name, root, folder, *flags, report="false"):
    """(test_metrics.json, rows of predictions.csv) of a detector trained and tested on a tree."""
    where = ("--dataset", name, "--data_root", root)
    ok(run_command("train.py", *where, "--run_dir", folder, *FLAGS, *flags))
    evaluate = ("test.py", "--checkpoint", folder / "best.pt", *where, "--num_workers", "1")
    ok(run_command(*evaluate, "--report", report))
    metrics = json.loads((folder / "test_metrics.json").read_text())
    return metrics, list(csv.DictReader((folder / "predictions.csv").open()))


def test_frame_lists_train_and_test(tmp_path):
    root = tmp_path / "FF++"
    build_frame_lists(root, frames=4)
    metrics, rows = train_and_test("frame_lists", root, tmp_path / "run", *PREFIXES, report="true")
    assert len(rows) == metrics["overall"]["num_real"] + metrics["overall"]["num_fake"] == 10
    frames = metrics["frame_level"]
    assert frames["num_real"] + frames["num_fake"] == sum(int(row["num_windows"]) for row in rows) == 30
    report = (tmp_path / "run/report.html").read_text()
    assert "Frame by frame" in report
    assert "over all 30 frames" in report
    wrong = run_command(
        "train.py", "--dataset", "frame_lists", "--data_root", root, "--run_dir", tmp_path / "x", *FLAGS
    )
    assert wrong.returncode == 1
    assert "--path_prefix" in wrong.stderr.splitlines()[-1]
    other = run_command(
        "train.py", "--dataset", "frame_lists", "--data_root", root, "--run_dir", tmp_path / "y", *PREFIXES
    )
    assert "choose a --model that only sees" in other.stderr


@pytest.mark.parametrize("style", ["", "windows"])  # both kinds of keys: test_deepfakebench.py
def test_deepfakebench_trains_and_tests(tmp_path, style):
    build_deepfakebench(tmp_path / "bench", frames=4)
    if style:
        move_into_store(tmp_path / "bench", style=style)
    metrics, rows = train_and_test("deepfakebench", tmp_path / "bench", tmp_path / "run")
    assert len(rows) == 10
    assert metrics["frame_level"]["num_fake"] == 24
    assert metrics["per_method"].keys() == {"FF-DF", "FF-F2F", "FF-FS", "FF-NT"}
