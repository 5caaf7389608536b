"""M2SD's four stages, each from the checkpoint of the one before, stopped and resumed."""

import shutil
import signal
import time

import pytest

from models import load_detector
from models.judging.config import JudgeConfig
from tests.commands import ok, run_command, run_launcher, run_processes, start_command
from tests.kill import differences
from tests.moving_face import clicks, moving_face, write_video
from utils.checkpoint.files import load_checkpoint

SIZES = "--vit tiny --image_size 32 --mask_ratio 0.5"
FLAGS = (
    "--model m2sd --windows_per_clip 1 --batch_size 4 --num_workers 1 --val_fraction 0.25 --test_fraction "
    "0.25 --epochs 2 --device cpu --domain_clips 0 --precision fp32 --save_every_steps 1 --warmup_epochs 0"
).split()
STAGES = ("teacher", "expert", "pretrain", "finetune")
OF_STAGE = {
    "teacher": SIZES,
    "expert": "--vit tiny --image_size 32",
    "pretrain": f"{SIZES} --stp both --mask_parts",
    "finetune": f"{SIZES} --stp both",
}


def command(root, runs, stage, folder, *more):
    """The training of a stage in `folder`, from the checkpoints that lie in `runs`."""
    words = ["train.py", "--data_root", root, "--run_dir", folder, "--preset", f"m2sd_{stage}"]
    words += [*FLAGS, *OF_STAGE[stage].split()]
    if stage in ("pretrain", "finetune"):
        words += ["--teacher", runs / "teacher/best.pt", "--expert", runs / "expert/best.pt"]
    if stage == "finetune":
        words += ["--init_from", runs / "pretrain/best.pt"]
    return [*words, *more]


@pytest.fixture(scope="module")
def runs(prepared_root, tmp_path_factory):
    """The chain of runs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("stages")
    for stage in STAGES:
        ok(run_command(*command(prepared_root, folder, stage, folder / stage)))
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_stopped_goes_on_to_the_same_bits(prepared_root, runs, tmp_path, stage):
    words = command(prepared_root, runs, stage, tmp_path / "run")
    process = start_command(*words)
    while not (tmp_path / "run/last.pt").exists():
        assert process.running()
        time.sleep(0.002)
    process.signal(signal.SIGTERM)
    process.wait()
    assert load_checkpoint(tmp_path / "run/last.pt")["progress"]["epoch"] < 2
    ok(run_command(*words, "--resume"))
    assert not differences(tmp_path / "run", runs / stage)


@pytest.mark.parametrize("stage", ["expert", "pretrain"])  # batch norm, and frozen networks
def test_two_processes_train_a_stage(prepared_root, runs, tmp_path, stage):
    ok(run_processes(2, *command(prepared_root, runs, stage, tmp_path / "run", "--epochs", "1")))
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 2


def test_the_launcher_goes_on_with_the_next_stage(prepared_root, runs, tmp_path):
    chain = tmp_path / "chain"
    shutil.copytree(runs / "teacher", chain / "teacher")
    config = chain / "teacher/config.json"
    config.write_text(config.read_text().replace(str(runs), str(chain)))
    before = (chain / "teacher/best.pt").read_bytes()
    flags = [flag for flag in (*FLAGS, *OF_STAGE["expert"].split()) if flag not in ("--model", "m2sd")]
    del flags[flags.index("--device") : flags.index("--device") + 2]
    shared = {"MODEL": "m2sd", "DEVICE": "cpu", "DATA_ROOT": prepared_root, "RUN_DIR": chain}
    result = run_launcher("run_fakeavceleb.sh", *flags, STAGES="expert", **shared)
    assert result.returncode == 0, result.stderr
    assert (chain / "expert/best.pt").exists()
    flags += ["--mask_ratio", "0.5"]
    result = run_launcher("run_fakeavceleb.sh", *flags, STAGES="teacher", **shared)  # which is finished
    assert result.returncode == 0, result.stderr
    assert (chain / "teacher/best.pt").read_bytes() == before
    assert not (chain / "teacher/test_metrics.json").exists()


def test_stages_log_their_terms_and_keep_no_teacher(runs):
    terms = {
        "teacher": {"stp_pixels"},
        "expert": {"sync"},
        "pretrain": {"stp_tokens", "stp_pixels", "vac"},
        "finetune": {"stp_tokens", "stp_pixels", "vac", "ce", "rs", "cosine_real"},
    }
    for stage, names in terms.items():
        header = (runs / stage / "metrics.csv").read_text().splitlines()[0].split(",")
        assert {f"{part}_{name}" for name in names for part in ("train", "val")} <= set(header)
        assert ("val_sync_accuracy" in header) == (stage == "expert")
        assert not any(key.startswith("frozen") for key in load_checkpoint(runs / stage / "best.pt")["model"])


def test_the_student_judges_a_video_without_the_files_it_learnt_from(prepared_root, runs, tmp_path):
    where = ("--data_root", prepared_root, "--device", "cpu", "--num_workers", "0", "--report", "false")
    ok(run_command("test.py", "--checkpoint", runs / "finetune/best.pt", *where, "--output_dir", tmp_path))
    video = write_video(tmp_path / "clip.mp4", moving_face(20), waveform=clicks(0.8, (0.1,)))
    for name in ("teacher", "expert"):
        (runs / name / "best.pt").rename(runs / name / "moved.pt")
    (face,) = load_detector(runs / "finetune/best.pt", device="cpu").judge(video, JudgeConfig()).faces
    for name in ("teacher", "expert"):
        (runs / name / "moved.pt").rename(runs / name / "best.pt")
    assert 0 < face.prob < 1
