"""Forged segments from training to evaluation: chosen on validation clips, stored, found in test clips."""

import csv
import json
from pathlib import Path

import pytest

from tests.clip_factory import write_clip_folder
from tests.commands import ok, run_command, run_processes
from tests.e2e.test_training import TINY
from utils.checkpoint.files import load_checkpoint
from utils.evaluation.segments import Localiser

SPAN = (0.6, 1.2)
FLAGS = [*TINY, "--epochs", "2", "--segment_stride_s", "0.12"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A prepared manifest: per person a real clip of 2 s, and one with a picture that is forged in a SPAN."""
    root = tmp_path_factory.mktemp("planted")
    rows = ["path,label,video_label,audio_label,identity,split,video_fake_segments"]
    for number in range(12):
        part = ("train", "train", "val", "test")[number % 4]
        write_clip_folder(root / f"{number}/real", seed=number, num_frames=50)
        write_clip_folder(
            root / f"{number}/fake", seed=number, num_frames=50, fake_video=True, fake_span=SPAN
        )
        rows.append(f"{number}/real.mp4,real,0,0,{number},{part},")
        rows.append(f"{number}/fake.mp4,fake,1,0,{number},{part},{SPAN[0]}-{SPAN[1]}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def run_dir(planted, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "planted"
    data = "--dataset", "manifest", "--data_root", planted
    ok(run_command("train.py", *data, "--run_dir", folder, *FLAGS))
    return folder


def evaluate(run_dir, planted, output_dir, *flags, processes=1):
    words = ["test.py", "--checkpoint", run_dir / "best.pt", "--dataset", "manifest", "--data_root", planted]
    words += ["--output_dir", output_dir, "--device", "cpu", "--num_workers", "0", *flags]
    result = ok(run_command(*words) if processes == 1 else run_processes(processes, *words))
    return json.loads((output_dir / "test_metrics.json").read_text()), result.stderr


def test_rules_are_stored_and_test_py_prints_the_metric(run_dir, planted, tmp_path):
    localiser = Localiser.from_plain(load_checkpoint(run_dir / "best.pt")["localiser"])
    assert (localiser.stride_s, localiser.num_clips) == (0.12, 6)
    assert localiser.rules.keys() == {"clip", "video"}  # no sound is forged
    assert "challenge score of their segments: clip" in (run_dir / "train.log").read_text()
    metrics, said = evaluate(run_dir, planted, tmp_path / "one", "--trimmed", "both")
    located = metrics["localisation"]
    assert located.keys() == {"stride_s", "clip", "video"}
    assert (located["clip"]["num_files"], located["clip"]["num_segments"]) == (6, 3)
    assert located["clip"]["intervals"].keys() == {"ap", "ar", "score"}
    assert "segments: AP@0.5 / 0.75 / 0.9 / 0.95" in said
    segments = json.loads((tmp_path / "one/segments.json").read_text())
    assert len(segments) == 6
    assert all(0 <= start < end <= 2 for of in segments.values() for _, start, end in of["clip"])
    page = (tmp_path / "one/report.html").read_text()
    assert "<h2>Forged segments</h2>" in page
    assert page.count('<rect class="forged"') >= 2 * 3  # of picture, and of picture or sound
    assert "Forged segments and proposals over 2.0 seconds" in page
    trimmed = tmp_path / "one/trimmed"  # segments are looked for once
    assert "localisation" not in json.loads((trimmed / "test_metrics.json").read_text())
    assert not (trimmed / "segments.json").exists()
    together, _ = evaluate(run_dir, planted, tmp_path / "two", processes=2)
    assert together["localisation"] == located


def test_no_window_slides_if_segments_are_not_asked_for(run_dir, planted, tmp_path):
    metrics, _ = evaluate(run_dir, planted, tmp_path, "--localise", "false", "--report", "false")
    assert metrics["overall"]["num_fake"] == 3
    assert "localisation" not in metrics
    assert not (tmp_path / "segments.json").exists()


def test_a_finished_run_that_is_resumed_has_the_same_rules(run_dir, planted):
    before = load_checkpoint(run_dir / "best.pt")["localiser"]
    data = "--dataset", "manifest", "--data_root", planted
    ok(run_command("train.py", *data, "--run_dir", run_dir, *FLAGS, "--resume"))
    assert load_checkpoint(run_dir / "best.pt")["localiser"] == before


def test_a_head_of_frames_is_trained_and_its_scores_become_the_segments(planted, tmp_path):
    data = "--dataset", "manifest", "--data_root", planted
    ok(run_command("train.py", *data, "--run_dir", tmp_path / "run", *FLAGS, "--frame_head", "true"))
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert all(0 < float(row[f"{part}_frame_bce"]) < 2 for row in rows for part in ("train", "val"))
    metrics, _ = evaluate(tmp_path / "run", planted, tmp_path / "out")
    assert metrics["localisation"]["clip"]["num_segments"] == 3


def test_rules_can_be_left_out(planted, tmp_path):
    data = "--dataset", "manifest", "--data_root", planted
    flags = [*TINY, "--epochs", "1", "--segment_clips", "0"]
    ok(run_command("train.py", *data, "--run_dir", tmp_path / "run", *flags))
    assert "localiser" not in load_checkpoint(tmp_path / "run/best.pt")
    metrics, _ = evaluate(tmp_path / "run", planted, tmp_path / "out")
    assert metrics["localisation"] == {"reason": "the checkpoint holds no rules for segments"}
    page = (tmp_path / "out/report.html").read_text()
    assert "Nothing was located: the checkpoint holds no rules for segments." in page
