"""A run describes its training clips, and what is unlike them is undecided."""

import csv
import json

import pytest
import torch

from loaders.batches.domain import sample_by_person
from models import load_detector
from models.judging.config import JudgeConfig
from tests.clip_factory import make_clip
from tests.commands import ok, run_command
from tests.e2e.test_training import TINY
from tests.moving_face import clicks, moving_face, write_video
from utils.checkpoint.files import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def run_dir(prepared_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("domain") / "run"
    flags = (*TINY, "--domain_clips", "200", "--epochs", "1")
    result = ok(run_command("train.py", "--data_root", prepared_root, "--run_dir", folder, *flags))
    assert "described by 36 clips of 9 persons: too few to call anything unlike them" in result.stderr
    return folder


def with_domain(run_dir, path, **changes):
    """A copy of best.pt, as if its training clips had been of 30 persons."""
    content = load_checkpoint(run_dir / "best.pt")
    path.parent.mkdir()
    save_checkpoint(path, content | {"domain": content["domain"] | {"num_persons": 30} | changes})
    return path


def evaluate(checkpoint, prepared_root, run_dir):
    flags = ("--data_root", prepared_root, "--num_workers", "0", "--report", "false", "--device", "cpu")
    split = ("--split_file", run_dir / "splits/fakeavceleb.csv")
    result = run_command("test.py", "--checkpoint", checkpoint, *flags, *split)
    with (checkpoint.parent / "predictions.csv").open() as file:
        return json.loads(ok(result).stdout), list(csv.DictReader(file))


def test_an_evaluation_says_what_abstaining_does(prepared_root, run_dir, tmp_path):
    near = with_domain(run_dir, tmp_path / "near/best.pt")
    metrics, rows = evaluate(near, prepared_root, run_dir)
    domain = metrics["domain"]
    outside = [float(row["domain_p"]) <= domain["p_value"] for row in rows]
    assert domain["share"] == pytest.approx(sum(outside) / len(rows))
    assert domain["all"]["num_clips"] == len(rows) == 12
    assert domain["all"]["auc"] == pytest.approx(metrics["overall"]["auc"])
    assert domain["risk_coverage"][-1] == [1.0, pytest.approx(domain["all"]["error"])]

    center = torch.tensor(load_checkpoint(near)["domain"]["center"]) + 50
    far = with_domain(run_dir, tmp_path / "far/best.pt", center=center.tolist())
    metrics, rows = evaluate(far, prepared_root, run_dir)
    assert metrics["domain"]["share"] == 1
    assert metrics["domain"]["decided"] == {"num_clips": 0, "error": None, "auc": None}
    assert {float(row["domain_p"]) for row in rows} == {round(1 / 31, 6)}


def test_nine_persons_cannot_call_anything_unlike_them(prepared_root, run_dir, tmp_path):
    metrics, rows = evaluate(run_dir / "best.pt", prepared_root, run_dir)
    assert "does not describe" in metrics["domain"]["reason"]
    assert {row["domain_p"] for row in rows} == {""}


def test_a_face_unlike_the_training_clips_is_undecided(run_dir, tmp_path):
    video = write_video(tmp_path / "talk.mp4", moving_face(25), waveform=clicks(1.0, (0.3, 0.8)))
    detector = load_detector(with_domain(run_dir, tmp_path / "near/best.pt"), device="cpu")
    verdict = detector.judge(video, JudgeConfig(lag_frames=0, explain=False))
    (face,) = verdict.faces
    assert (verdict.verdict, face.verdict) == ("undecided", "undecided")
    (reason,) = [reason for reason in face.off_domain if "unlike" in reason]
    assert "standard deviations too" in reason
    unchecked = detector.judge(video, JudgeConfig(lag_frames=0, explain=False, check_domain=False))
    assert not any("unlike" in reason for reason in unchecked.faces[0].off_domain)


def test_a_resumed_run_keeps_its_description(prepared_root, run_dir):
    before = load_checkpoint(run_dir / "best.pt")["domain"]
    flags = (*TINY, "--domain_clips", "200", "--epochs", "2", "--resume")
    result = ok(run_command("train.py", "--data_root", prepared_root, "--run_dir", run_dir, *flags))
    assert "described by" not in result.stderr
    assert load_checkpoint(run_dir / "last.pt")["domain"] == before


def test_persons_are_sampled_evenly_and_without_chance(tmp_path):
    clips = [
        make_clip(tmp_path / f"{person:02}_{number:02}", identity=f"test/{person:02}")
        for person in range(40)
        for number in range(1 + person)
    ]
    chosen = sample_by_person(clips, 80)
    persons = [clip.identity for clip in chosen]
    assert len(set(persons)) == 10
    assert max(map(persons.count, persons)) == 8
    assert {"test/00", "test/39"} <= set(persons)
    assert sample_by_person(clips[::-1], 80) == chosen
    assert len(sample_by_person(clips, 10_000)) == sum(min(8, 1 + person) for person in range(40))
