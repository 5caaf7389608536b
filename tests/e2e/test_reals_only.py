"""A data set of real videos only: M2SD learns from it before it sees labels, and next to a labelled one."""

import pytest

from tests.clip_factory import write_clip_folder
from tests.commands import ok, run_command
from utils.checkpoint.files import load_checkpoint

FLAGS = (
    "--model m2sd --vit tiny --image_size 32 --windows_per_clip 1 --batch_size 4 --num_workers 0 "
    "--val_fraction 0.25 --test_fraction 0.25 --epochs 1 --device cpu --domain_clips 0 --precision fp32 "
    "--warmup_epochs 0"
).split()


@pytest.fixture(scope="module")
def reals(tmp_path_factory):
    """Eight persons, of whom nothing is forged."""
    root = tmp_path_factory.mktemp("reals")
    rows = ["path,label,identity"]
    for number in range(8):
        write_clip_folder(root / f"clip_{number}", num_frames=20, seed=100 + number)
        rows.append(f"clip_{number},real,person {number}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def command(root, folder, stage, *more):
    where = ("--dataset", "manifest", "--data_root", root, "--run_dir", folder)
    return ["train.py", *where, "--preset", f"m2sd_{stage}", *FLAGS, *more]


def test_stages_without_labels_learn_from_reals_alone(reals, tmp_path):
    masks = ("--mask_ratio", "0.5")
    ok(run_command(*command(reals, tmp_path / "teacher", "teacher", *masks)))
    ok(run_command(*command(reals, tmp_path / "expert", "expert")))
    files = ("--teacher", tmp_path / "teacher/best.pt", "--expert", tmp_path / "expert/best.pt")
    ok(run_command(*command(reals, tmp_path / "pretrain", "pretrain", *masks, *files)))
    for stage in ("teacher", "expert", "pretrain"):
        columns = (tmp_path / stage / "metrics.csv").read_text().splitlines()[0].split(",")
        assert "val_loss" in columns
        assert "val_auc" not in columns
        content = load_checkpoint(tmp_path / stage / "best.pt")
        assert content["val"] == {}
        assert "decision" not in content


@pytest.mark.parametrize(("stage", "flags"), [("finetune", ()), ("teacher", ("--select_by", "val_auc"))])
def test_what_needs_labels_refuses_reals_alone(reals, tmp_path, stage, flags):
    result = run_command(*command(reals, tmp_path / "run", stage, *flags))
    assert result.returncode == 2
    assert "the train split of manifest has one class only: {0.0: 4} (1 = fake); what learns" in result.stderr
    assert not (tmp_path / "run").exists()


def test_more_reals_are_mixed_with_a_labelled_set(prepared_root, reals, tmp_path):
    both = ("--dataset", "fakeavceleb", "manifest", "--data_root", prepared_root, reals)
    shares = ("--dataset_weights", "1", "1", "--fake_prior", "0.25")
    run_dir = tmp_path / "run"
    ok(run_command("train.py", *both, "--run_dir", run_dir, "--preset", "corrected", *FLAGS, *shares))
    log = (run_dir / "train.log").read_text()
    assert "manifest split" in log
    assert "val_auc" in (run_dir / "metrics.csv").read_text().splitlines()[0]
    assert load_checkpoint(run_dir / "best.pt")["decision"]["clip"]["num_fakes"] > 0
