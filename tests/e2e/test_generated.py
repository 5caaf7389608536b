"""A detector of generated clips says so wherever it speaks, and judges no real video."""

import json
import shutil

import av
import cv2
import numpy as np
import pytest

from models import load_detector
from models.judging.annotate import COLORS
from models.judging.command import VideoConfig, judge_video
from models.judging.config import JudgeConfig
from tests.clip_factory import write_clip_folder
from tests.commands import ok, run_command
from tests.e2e.test_training import TINY
from tests.e2e.test_video import write_checkpoint
from tests.trees.media import Media
from utils.checkpoint.files import load_checkpoint
from utils.clip.generated import MANIFEST_NAME, MARK_NAME, TRAINED, mark
from utils.files import file_sha256

QUICK = {"lag_frames": 0, "explain": False}


def test_the_mark_travels_from_the_prepared_set_to_the_report(prepared_root, tmp_path):
    """Through a pack, a training, and an evaluation, whose numbers stay."""
    root, packed, run_dir = tmp_path / "prepared", tmp_path / "packed", tmp_path / "run"
    shutil.copytree(prepared_root, root)
    (root / MARK_NAME).write_bytes(mark())
    ok(run_command("-m", "preprocess.pack", "--data_root", root, "--output", packed, "--num_workers", "1"))
    ok(run_command("train.py", "--data_root", packed, "--run_dir", run_dir, *TINY, "--epochs", "1"))
    for name in ("best.pt", "last.pt"):
        assert load_checkpoint(run_dir / name)["generated_sets"] == ["fakeavceleb"]
    assert f"fakeavceleb: {TRAINED}" in (run_dir / "train.log").read_text()
    flags = ("--checkpoint", run_dir / "best.pt", "--num_workers", "0", "--device", "cpu")
    of_demo = json.loads(ok(run_command("test.py", *flags, "--data_root", packed)).stdout)
    assert of_demo["caveat"] == TRAINED
    assert of_demo["run"]["generated_sets"] == ["fakeavceleb"]
    assert TRAINED.capitalize() in (run_dir / "report.html").read_text()
    flags = (*flags, "--report", "false", "--output_dir", tmp_path / "of_real")
    of_real = json.loads(ok(run_command("test.py", *flags, "--data_root", prepared_root)).stdout)
    assert of_real["caveat"] == TRAINED
    for key in ("overall", "decision", "per_category"):
        assert of_real[key] == of_demo[key]
    matrix = json.loads(ok(run_command("test.py", "--matrix", run_dir, "--output_dir", tmp_path)).stdout)
    assert matrix["groups"][0]["caveat"] == TRAINED
    assert TRAINED in (tmp_path / "matrix.html").read_text()
    both = (run_dir / "predictions.csv", tmp_path / "of_real/predictions.csv")
    comparison = json.loads(ok(run_command("test.py", "--compare", *both)).stdout)
    assert comparison["datasets"]["fakeavceleb"]["caveat"] == TRAINED


def test_an_audit_says_how_many_clips_were_generated(tmp_path):
    root = tmp_path / "set"
    table = "path,label,identity,split\n"
    for name in ("demo/a", "own/b"):
        write_clip_folder(root / name, num_frames=5)
        table += f"{name}.mp4,0,{name[-1]},test\n"
    (root / "manifest.csv").write_text(table)
    (root / "demo" / MARK_NAME).write_bytes(mark())
    flags = ("--data_root", root, "--output_dir", tmp_path, "--num_workers", "1")
    result = ok(run_command("-m", "loaders.audit", "--dataset", "manifest", *flags))
    caveat = "audited on 2 clips, 1 of them generated: these say nothing about real videos"
    assert f"manifest: {caveat}" in result.stderr
    assert json.loads((tmp_path / "audit.json").read_text())["caveat"] == caveat
    assert f'<p class="caveat">{caveat.capitalize()}</p>' in (tmp_path / "audit.html").read_text()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "real/clip.mp4"
    path.parent.mkdir()
    Media(seed=3).video(path, 0)
    return path


@pytest.fixture(scope="module")
def of_generated(tmp_path_factory):
    """A detector that was trained on generated clips, and calls everything else real or fake."""
    path = tmp_path_factory.mktemp("model") / "best.pt"
    return load_detector(write_checkpoint(path, generated_sets=["fakeavceleb"]), device="cpu")


def test_a_detector_of_generated_clips_judges_no_video(of_generated, video):
    verdict = of_generated.judge(video, JudgeConfig(**QUICK))
    assert verdict.verdict == "undecided"
    assert [face.verdict for face in verdict.faces] == ["undecided"]
    assert [face.off_domain for face in verdict.faces] == [[TRAINED]]
    assert set(verdict.faces[0].modalities.values()) <= {"undecided"}
    assert verdict.notes == [TRAINED]
    assert verdict.as_plain()["caveat"] == TRAINED
    assert verdict.faces[0].logit is not None  # which is what experiments look at


def test_the_rule_has_a_switch_and_knows_the_demo_sets_own_videos(of_generated, video):
    free = of_generated.judge(video, JudgeConfig(**QUICK, judge_despite_generated=True))
    assert free.verdict in {"real", "fake"}
    assert free.notes == [TRAINED]  # said all the same
    manifest = video.parents[1] / MANIFEST_NAME
    manifest.write_text(json.dumps({"files": {"real/clip.mp4": file_sha256(video)}}))
    own = of_generated.judge(video, JudgeConfig(**QUICK))
    manifest.unlink()
    assert (own.verdict, own.faces[0].off_domain, own.notes) == (free.verdict, [], [TRAINED])


def test_page_plot_and_video_say_that_the_clips_were_generated(of_generated, video, tmp_path):
    config = VideoConfig(
        video=video, checkpoint=tmp_path, output_dir=tmp_path, clip_timeout_s=60, lag_frames=0, explain=False
    )
    judge_video(of_generated, video, tmp_path, config)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["caveat"] == TRAINED
    assert verdict["faces"][0]["off_domain"] == [TRAINED]
    assert TRAINED.capitalize() in (tmp_path / "report.html").read_text()
    red = cv2.imread(str(tmp_path / "timeline.png"))[-30:].astype(int)
    assert (red[..., 2] > red[..., 0] + 80).sum() > 200  # the text below the plot
    with av.open(str(tmp_path / "annotated.mp4")) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    line = frame[verdict["height"] + 2, : verdict["width"]]
    assert np.abs(line - COLORS["undecided"]).mean() < 12
