"""Forged segments from training to evaluation: chosen on validation clips, stored, found in test clips."""

import csv
import json
import signal
import time
import zipfile
from pathlib import Path

import pytest

from models.restore import restore_decision, restore_localiser
from tests.clip_factory import write_clip_folder
from tests.commands import ok, run_command, run_processes, start_command
from tests.e2e.test_training import TINY
from utils.checkpoint.export import write_export
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
    content = load_checkpoint(run_dir / "best.pt")
    localiser = Localiser.from_plain(content["localiser"])
    write_export(content, run_dir / "best.pt", tmp_path / "model.safetensors")
    exported = load_checkpoint(tmp_path / "model.safetensors")
    assert restore_localiser(exported, run_dir).as_plain() == localiser.as_plain()
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
    (tmp_path / "segments.json").write_text("{}")  # of an evaluation before
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


def submission(run_dir, planted, file_list, output_dir, *flags):
    words = ["test.py", "--submission", "codabench", "--checkpoint", run_dir / "best.pt", *flags]
    words += ["--file_list", file_list, "--data_root", planted, "--output_dir", output_dir, "--device", "cpu"]
    return [*words, "--num_workers", "0", "--part_clips", "2"]


@pytest.fixture(scope="module")
def file_list(planted, tmp_path_factory) -> Path:
    """The clips of the test part and some more, the last first, without labels."""
    names = [f"{number}/{kind}.mp4" for number in (11, 10, 9, 7, 5, 3) for kind in ("real", "fake")]
    path = tmp_path_factory.mktemp("lists") / "testA_files.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return path


@pytest.fixture(scope="module")
def submitted(run_dir, planted, file_list, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("submission") / "testA"
    ok(run_command(*submission(run_dir, planted, file_list, folder)))
    return folder


def bytes_of(folder):
    names = ("prediction.txt", "prediction.json", "detection.zip", "localisation.zip")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_submission_has_the_scores_and_segments_of_an_evaluation(
    run_dir, planted, file_list, submitted, tmp_path
):
    names = file_list.read_text().split()
    lines = [line.split(";") for line in (submitted / "prediction.txt").read_text().splitlines()]
    assert [name for name, _ in lines] == names
    found = json.loads((submitted / "prediction.json").read_text())
    assert list(found) == names
    for name, inner in (("detection.zip", "prediction.txt"), ("localisation.zip", "prediction.json")):
        with zipfile.ZipFile(submitted / name) as archive:
            assert archive.namelist() == [inner]
            assert archive.read(inner) == (submitted / inner).read_bytes()
    assert (submitted / "without_score.txt").read_text() == ""

    evaluate(run_dir, planted, tmp_path, "--report", "false")
    path = run_dir / "best.pt"
    decision = restore_decision(load_checkpoint(path), path)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    segments = json.loads((tmp_path / "segments.json").read_text())
    probs = dict(lines)
    assert len(rows) == 6
    for row in rows:
        name = row["clip_id"].removeprefix("manifest/") + ".mp4"
        assert float(probs[name]) == pytest.approx(float(decision.clip.prob(float(row["logit"]))), rel=1e-5)
        expected = segments[row["clip_id"]]["clip"]
        assert [row[1:] for row in found[name]] == [pytest.approx(row[1:], abs=6e-4) for row in expected]


def test_a_killed_submission_goes_on_and_writes_the_same_bytes(
    run_dir, planted, file_list, submitted, tmp_path
):
    words = submission(run_dir, planted, file_list, tmp_path / "out")
    first, running = tmp_path / "out/parts/000000.jsonl", start_command(*words)
    while not first.exists() and running.running():
        time.sleep(0.005)
    running.signal(signal.SIGKILL)
    running.wait()
    written = first.stat().st_mtime_ns
    assert not (tmp_path / "out/localisation.zip").exists()
    ok(run_command(*words))
    assert first.stat().st_mtime_ns == written
    assert bytes_of(tmp_path / "out") == bytes_of(submitted)
    refused = run_command(*words, "--batch_size", "3")
    assert refused.returncode == 2
    assert "holds parts of a submission with another batch_size" in refused.stderr
    ok(run_processes(2, *submission(run_dir, planted, file_list, tmp_path / "two")))
    assert bytes_of(tmp_path / "two") == bytes_of(submitted)


def test_files_that_cannot_be_scored_are_counted_and_named(run_dir, planted, tmp_path):
    path = tmp_path / "testB_files.txt"
    path.write_text("3/fake.mp4\n000007.mp4\n3/real.mp4\n")
    words = submission(run_dir, planted, path, tmp_path / "out", "--localise", "false")
    result = run_command(*words)
    assert result.returncode == 1
    assert "1 of 3 listed files are not prepared" in result.stderr
    assert "e.g. 000007.mp4" in result.stderr
    ok(run_command(*words, "--allow_missing"))
    lines = (tmp_path / "out/prediction.txt").read_text().splitlines()
    assert [line.split(";")[0] for line in lines] == path.read_text().split()
    assert lines[1] == "000007.mp4;0.5"
    assert (tmp_path / "out/without_score.txt").read_text() == "000007.mp4\n"
    assert not (tmp_path / "out/prediction.json").exists()
    path.write_text("3/fake.mp4\n3/fake.mp4\n")
    result = run_command(*words)
    assert "line 2: 3/fake.mp4 is listed twice" in result.stderr
