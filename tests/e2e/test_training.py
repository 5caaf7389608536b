"""train.py and test.py as commands, on a synthetic prepared tree."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

import train as train_script
from loaders.splits.files import read_split
from models.beyond_masking.config import PRESETS, BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from models.beyond_masking.published_weights import RELEASED_PREFIXES
from tests.clip_factory import write_clip_folder, write_fakeavceleb_tree
from tests.commands import ROOT, ok, run_command
from tests.moving_face import clicks, moving_face, write_video
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import UsageError

SIZES = {
    "image_size": [16],
    "video_channels": [4, 4, 8],
    "audio_channels": [8, 8, 8],
    "feature_dim": [16],
    "feedforward_dim": [16],
    "classifier_hidden_dim": [16],
}
SIZE_FLAGS = [str(word) for name, values in SIZES.items() for word in (f"--{name}", *values)]
TINY = [
    *SIZE_FLAGS,
    *"--window_s 0.6 --windows_per_clip 1 --batch_size 4 --num_workers 1 --val_fraction 0.25".split(),
    *"--test_fraction 0.25 --learning_rate 3e-3 --device cpu --domain_clips 0".split(),
]


command = run_command


def train(root, run_dir, *arguments):
    return command("train.py", "--data_root", root, "--run_dir", run_dir, *TINY, *arguments)


def weights(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="module")
def unbroken(prepared_root, tmp_path_factory):
    """A run of three epochs that nothing interrupted."""
    run_dir = tmp_path_factory.mktemp("runs") / "unbroken"
    ok(train(prepared_root, run_dir, "--epochs", "3"))
    return run_dir


def test_a_run_directory_holds_what_the_readme_says(unbroken):
    rows = list(csv.DictReader((unbroken / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(0 <= float(row["val_auc"]) <= 1 for row in rows)
    config = json.loads((unbroken / "config.json").read_text())
    assert config["config"]["model"]["feature_dim"] == 16
    assert config["environment"]["versions"]["torch"]
    log = (unbroken / "train.log").read_text()
    assert "parameters" in log
    assert "FakeVideo-RealAudio" in log
    assert list(unbroken.glob("events.out.tfevents.*"))
    split = (unbroken / "splits" / "fakeavceleb.csv").read_text()
    assert split.startswith("# sha256=")
    assert split.count("\n") == 3 + 48
    assert {path.name for path in unbroken.iterdir() if path.suffix == ".pt"} == {
        "best.pt",
        "last.pt",
        "last.1.pt",
    }


def test_the_same_seed_gives_the_same_run_and_another_seed_another(prepared_root, unbroken, tmp_path):
    """Also the run of a pack of the same clips."""
    packed = tmp_path / "packed"
    ok(command("-m", "preprocess.pack", "--data_root", prepared_root, "--output", packed))
    ok(train(packed, tmp_path / "again", "--epochs", "3"))
    assert (tmp_path / "again/metrics.csv").read_bytes() == (unbroken / "metrics.csv").read_bytes()
    ok(train(prepared_root, tmp_path / "other", "--epochs", "1", "--seed", "7"))
    first_rows = [(run / "metrics.csv").read_text().splitlines()[1] for run in (unbroken, tmp_path / "other")]
    assert first_rows[0] != first_rows[1]


def test_resuming_with_another_configuration_is_refused(prepared_root, unbroken, tmp_path):
    run_dir = shutil.copytree(unbroken, tmp_path / "run")
    result = train(prepared_root, run_dir, "--resume", "--dropout", "0.5")
    assert result.returncode == 2
    assert "--dropout was 0.3, is 0.5" in result.stderr
    assert (run_dir / "last.pt").read_bytes() == (unbroken / "last.pt").read_bytes()
    result = train(prepared_root, run_dir)
    assert result.returncode == 2
    assert "already holds a run" in result.stderr


def test_evaluation_writes_metrics_predictions_and_plots(prepared_root, unbroken, tmp_path):
    arguments = ("--checkpoint", unbroken / "best.pt", "--data_root", prepared_root, "--output_dir", tmp_path)
    result = ok(command("test.py", *arguments, "--num_workers", "0"))
    metrics = json.loads(result.stdout)
    assert metrics == json.loads((tmp_path / "test_metrics.json").read_text())
    assert metrics["overall"]["num_real"] == 3
    assert metrics["overall"]["num_fake"] == 9
    assert metrics["overall"]["prevalence"] == 0.75
    for category in metrics["per_category"].values():
        assert (category["num_real"], category["num_fake"]) == (3, 3)
    assert metrics["per_category"].keys() == {
        "RealVideo-FakeAudio",
        "FakeVideo-RealAudio",
        "FakeVideo-FakeAudio",
    }
    predictions = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert len(predictions) == 12
    split = read_split(unbroken / "splits" / "fakeavceleb.csv")
    assert all(split.split_of[row["clip_id"]] == "test" for row in predictions)
    assert all(split.identity_of[row["clip_id"]] == row["identity"] for row in predictions)
    assert {row["num_windows"] for row in predictions} == {"1"}
    for name in ("roc.png", "scores.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    columns = [[float(row[name]) for row in predictions] for name in ("label", "logit")]
    assert metrics["overall"]["auc"] == pytest.approx(roc_auc_score(*columns), abs=1e-9)
    low, high = metrics["intervals"]["overall"]["auc"]
    assert 0 <= low <= metrics["overall"]["auc"] <= high <= 1
    assert metrics["intervals"]["num_persons"] == 3
    assert metrics["intervals"]["per_category"].keys() == metrics["per_category"].keys()
    low, high = metrics["intervals"]["macro_auc_category"]
    assert low <= metrics["macro_auc_category"] <= high
    stored = torch.load(unbroken / "best.pt", weights_only=True)["decision"]
    assert metrics["decision"]["stored"] == stored
    assert (stored["rate"], stored["clip"]["num_reals"], stored["clip"]["num_fakes"]) == (0.01, 3, 9)
    assert stored["video"]["num_fakes"] == 6  # of 12 validation clips, the faceswaps and wav2lips
    again = stored["cross_fit"]  # of all epochs, also those after the best
    assert (again["num_epochs"], again["num_reals"], again["num_real_persons"]) == (3, 3, 3)
    promise = metrics["decision"]["promise"]
    assert promise["cross_fit"] == again
    assert promise["false_positive_bound"] == max(again["bound"], stored["clip"]["false_positive_bound"])
    accused = sum(
        float(row["logit"]) > stored["clip"]["threshold"] for row in predictions if row["label"] == "1"
    )
    assert metrics["decision"]["at_threshold"]["true_positives"] == accused


def test_a_checkpoint_from_before_the_decision_is_evaluated_and_resumed(prepared_root, unbroken, tmp_path):
    run_dir = shutil.copytree(unbroken, tmp_path / "old")
    for name in ("best.pt", "last.pt"):
        content = load_checkpoint(run_dir / name)
        del content["decision"], content["config"]["train"]["decision_fpr"]
        save_checkpoint(run_dir / name, content)
    config = json.loads((run_dir / "config.json").read_text())
    for name in ("decision_fpr", "accumulate_steps", "sync_batch_norm", "compile"):
        del config["config"]["train"][name]
    (run_dir / "config.json").write_text(json.dumps(config))
    arguments = ("--checkpoint", run_dir / "best.pt", "--data_root", prepared_root, "--num_workers", "0")
    metrics = json.loads(ok(command("test.py", *arguments, "--report", "false")).stdout)
    assert metrics["decision"] == {"reason": "the checkpoint holds no decision"}
    (run_dir / "val_scores.npz").unlink()
    resumed = ok(train(prepared_root, run_dir, "--epochs", "4", "--resume"))
    assert "the scores of epoch 0, 1, 2 are missing" in resumed.stderr
    decision = torch.load(run_dir / "last.pt", weights_only=True)["decision"]
    assert decision["rate"] == 0.01
    assert isinstance(decision["cross_fit"], str)


def test_two_evaluations_are_compared_without_a_checkpoint(prepared_root, unbroken, tmp_path):
    arguments = ("--checkpoint", unbroken / "best.pt", "--data_root", prepared_root, "--num_workers", "0")
    ok(command("test.py", *arguments, "--output_dir", tmp_path, "--no_thumbnails"))
    assert "data:image" not in (tmp_path / "report.html").read_text()
    file = tmp_path / "predictions.csv"
    result = ok(command("test.py", "--compare", file, tmp_path, "--output_dir", tmp_path / "out"))
    overall = json.loads(result.stdout)["datasets"]["fakeavceleb"]["overall"]
    metrics = json.loads((tmp_path / "test_metrics.json").read_text())
    assert overall["auc_a"] == overall["auc_b"] == pytest.approx(metrics["overall"]["auc"], abs=1e-12)
    assert overall["intervals"]["auc_a"] == metrics["intervals"]["overall"]["auc"]
    assert overall["delong"]["p_value"] == 1
    assert "| fakeavceleb |" in (tmp_path / "out" / "comparison.md").read_text()


def test_scores_from_a_file_give_the_numbers_of_their_evaluation(prepared_root, unbroken, tmp_path):
    """To the last digit, in any order of rows; a file that does not fit is refused in one line."""
    data = ("--data_root", prepared_root)
    arguments = ("--checkpoint", unbroken / "best.pt", *data, "--num_workers", "0", "--report", "false")
    own = json.loads(ok(command("test.py", *arguments, "--output_dir", tmp_path / "own")).stdout)
    rows = list(csv.DictReader((tmp_path / "own/predictions.csv").open()))
    lines = [f"{row['clip_id']},{row['logit']}" for row in rows[::-1]]
    file = tmp_path / "scores.csv"
    file.write_text("\n".join(["clip_id,score", *lines]) + "\n")
    judge = ("test.py", "--scores", file, "--higher_means", "fake", *data)
    judge += ("--output_dir", tmp_path / "theirs", "--split_file", unbroken / "splits/fakeavceleb.csv")
    theirs = json.loads(ok(command(*judge)).stdout)
    same = ("overall", "intervals", "delong", "per_category", "per_method", "per_stratum", "ids_sha256")
    same += ("macro_auc_category", "macro_auc_method", "split_checksum", "caveat")
    assert {name: theirs[name] for name in same} == {name: own[name] for name in same}
    assert theirs.get("donor_disjoint") == own.get("donor_disjoint")
    assert theirs["shortcut_correlations"]["sharpness"]["real"]["num_clips"] == 3
    assert theirs["coverage"]["share"] == 1
    both = (tmp_path / "own", tmp_path / "theirs")
    compared = json.loads(ok(command("test.py", "--compare", *both)).stdout)
    assert compared["datasets"]["fakeavceleb"]["overall"]["difference"] == 0
    file.write_text("\n".join(["clip_id,score", *lines[2:], lines[3], "nobody,1"]) + "\n")
    refused = command(*judge)
    assert refused.returncode == 1
    names = [line.split(",")[0] for line in (lines[0], lines[1], lines[3], "nobody")]
    said = refused.stderr.splitlines()[-1]
    assert all(name in said for name in names), said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing --checkpoint, --data_root"),
        (("--compare", "a", "b", "--checkpoint=x", "--split", "val"), "with --checkpoint, --split"),
    ],
)
def test_flags_of_two_modes_of_test_py_are_a_clear_error(arguments, message):
    result = command("test.py", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def published_run(prepared_root, unbroken, tmp_path_factory):
    """A run on a published protocol whose test part has a training person in it."""
    folder = tmp_path_factory.mktemp("published")
    split = read_split(unbroken / "splits/fakeavceleb.csv")
    persons, moved = sorted(set(split.identity_of.values())), []
    for part, chosen in (("train", persons[:5]), ("val", persons[5:9]), ("test", persons[9:])):
        ids = [clip_id for clip_id, person in split.identity_of.items() if person in chosen]
        names = [f"{clip_id.removeprefix('fakeavceleb/')}.mp4" for clip_id in ids]
        rows = [f"{name},{int('RealVideo-RealAudio' not in name)}" for name in names]
        rows, moved = rows + (moved if part == "test" else []), rows[:1]
        (folder / f"{part}_labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    fractions = "--val_fraction 0.25 --test_fraction 0.25 "
    flags = (*" ".join(TINY).replace(fractions, "").split(), "--epochs", "1", "--allow_leaks")
    lists = ("--protocol", "fakeavceleb_avh", "--protocol_files", folder)
    ok(command("train.py", "--data_root", prepared_root, "--run_dir", folder / "run", *flags, *lists))
    return folder / "run"


def test_a_published_protocol_is_run_and_its_overlap_said(prepared_root, published_run, tmp_path):
    told = "persons on screen: 1 are in both, of 4 of val and 4 of test"
    assert told in (published_run / "train.log").read_text()
    arguments = ("--checkpoint", published_run / "best.pt", "--data_root", prepared_root, "--report", "false")
    result = ok(command("test.py", *arguments, "--num_workers", "0", "--output_dir", tmp_path))
    metrics = json.loads(result.stdout)
    assert metrics["overall"]["num_real"] + metrics["overall"]["num_fake"] == 13
    protocol = metrics["protocol"]
    assert protocol["name"] == "fakeavceleb_avh"
    assert "test has 13 clips, published are 6667" in protocol["misfits"]
    shared = {tuple(row["parts"]): row["number"] for row in protocol["overlaps"]["persons"]["shared"]}
    assert shared == {("train", "val"): 0, ("train", "test"): 0, ("val", "test"): 1}
    assert told in result.stderr
    row = ok(command("-m", "utils.report", "--card", tmp_path)).stdout.splitlines()[-1]
    assert f"fakeavceleb_avh `{protocol['ids_sha256'][:12]}` (not as published), test" in row
    assert f"{metrics['overall']['auc']:.4f}" in row


def test_the_test_split_is_the_runs_own_or_none(prepared_root, unbroken, published_run, tmp_path):
    moved = tmp_path / "best.pt"
    shutil.copy(unbroken / "best.pt", moved)
    result = command("test.py", "--checkpoint", moved, "--data_root", prepared_root)
    assert result.returncode == 2
    assert "--split_file" in result.stderr
    other = tmp_path / "other.csv"
    shutil.copy(published_run / "splits/fakeavceleb.csv", other)
    result = command("test.py", "--checkpoint", moved, "--data_root", prepared_root, "--split_file", other)
    assert result.returncode == 2
    assert "is not the split" in result.stderr


def test_a_checkpoint_of_the_published_code_is_evaluated_by_name(prepared_root, tmp_path):
    torch.manual_seed(0)
    sizes = {name: values[0] if len(values) == 1 else tuple(values) for name, values in SIZES.items()}
    model = BeyondMaskingDetector(BeyondMaskingConfig(**(PRESETS["released"]["model"] | sizes)))

    def published_name(key):
        theirs, ours = next(pair for pair in RELEASED_PREFIXES.items() if key.startswith(pair[1]))
        return theirs + key.removeprefix(ours)

    path = tmp_path / "best_model_epoch_7_loss_3.1.pth"
    published = {published_name(key): value for key, value in model.state_dict().items()}
    torch.save(published, path)
    arguments = (
        "--checkpoint",
        path,
        "--preset",
        "released",
        "--data_root",
        prepared_root,
        "--num_workers",
        "0",
    )
    metrics = json.loads(ok(command("test.py", *arguments, *SIZE_FLAGS, "--report", "false")).stdout)
    assert metrics["data"]["window"] == "released"
    assert metrics["windows_per_clip"] == 1
    assert metrics["overall"]["num_fake"] > 0
    result = command("test.py", *arguments)  # the published sizes are not this file's
    assert result.returncode == 1
    assert "size mismatch" in result.stderr
    wrapped = tmp_path / "wrapped.pth"  # as saved out of DataParallel: it is read without its prefix
    torch.save({"state_dict": {f"module.{key}": value for key, value in published.items()}}, wrapped)
    arguments = ("--checkpoint", wrapped, "--preset", "released", "--data_root", tmp_path / "nowhere")
    result = command("test.py", *arguments, *SIZE_FLAGS)
    assert "nowhere: no such folder" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--data_root", "nowhere"), 1, "nowhere: no such folder"),
        ((), 2, "missing --data_root"),
        (("--data_root", "tests", "--learning_rate", "nan"), 2, "learning_rate must be finite"),
        (("--transformer_nhead", "0"), 2, "transformer_nhead must be >= 1"),
        (("--seed", "-1"), 2, "seed must be >= 0"),
        (("--decision_fpr", "1"), 2, "decision_fpr must be < 0.5"),
        (("--data_root", "tests"), 1, "neither meta_data.csv nor"),
        (("--no_such_flag",), 2, "unrecognized arguments: --no_such_flag"),
        (("--device", "cuda:99"), 2, "usable CUDA devices"),
        (("--preset", "best"), 2, "unknown --preset best"),
        (("--resume",), 2, "config.json"),
    ],
)
def test_wrong_calls_end_with_one_line_and_leave_nothing(tmp_path, arguments, status, message):
    run_dir = tmp_path / "run"
    result = command("train.py", "--run_dir", run_dir, *arguments)
    assert result.returncode == status
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not run_dir.exists()


def test_a_moved_run_is_resumed_and_tested_where_it_lies(prepared_root, unbroken, tmp_path):
    run_dir = shutil.copytree(unbroken, tmp_path / "moved")
    ok(train(prepared_root, run_dir, "--epochs", "4", "--resume", "--schedule", "cosine"))
    arguments = ("--checkpoint", run_dir / "best.pt", "--data_root", prepared_root, "--num_workers", "0")
    metrics = json.loads(
        ok(command("test.py", *arguments, "--label_rule", "video", "--report", "false")).stdout
    )
    assert metrics["overall"]["num_real"] == 6  # a fake voice over a real picture is real under this rule
    assert {row["num_real"] for row in metrics["per_category"].values()} == {6}
    assert metrics["per_category"].keys() == {"FakeVideo-RealAudio", "FakeVideo-FakeAudio"}


def test_a_config_file_with_an_unknown_value_or_another_preset_is_refused(unbroken, tmp_path):
    content = json.loads((unbroken / "config.json").read_text())
    content["config"]["model"]["video_chanels"] = content["config"]["model"].pop("video_channels")
    (tmp_path / "config.json").write_text(json.dumps(content))
    result = command("train.py", "--config", tmp_path / "config.json", "--print_config")
    assert result.returncode == 2
    assert "unknown model value 'video_chanels'" in result.stderr
    result = command(
        "train.py", "--config", unbroken / "config.json", "--preset", "released", "--print_config"
    )
    assert result.returncode == 2
    assert "was made with --preset corrected" in result.stderr


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path, prepared_root):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "text.pt").write_text("a,b,c\n1,2,3\n")
    for name in ("bomb.pt", "text.pt", "absent.pt"):
        result = command("test.py", "--checkpoint", tmp_path / name, "--data_root", prepared_root)
        assert result.returncode == 1
        assert name in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "exploded").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_clips(tmp_path):
    root = write_fakeavceleb_tree(tmp_path / "data", num_identities=6)
    result = train(root, tmp_path / "run", "--epochs", "4", "--learning_rate", "1e30", "--max_grad_norm", "0")
    assert result.returncode == 1
    assert "on the batch of clips fakeavceleb/" in result.stderr
    assert "Traceback" not in result.stderr


def test_training_needs_neither_mediapipe_nor_av(prepared_root, tmp_path):
    """A GPU server without the preprocessing packages trains from prepared clips, through OpenCV."""
    blocked = tmp_path / "blocked"
    for name in ("mediapipe", "av"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is blocked')")
    hide = blocked / "sitecustomize.py"
    hide.write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in ('av', 'mediapipe') else "
        "find(name, *rest)\n"
    )
    result = command(
        "train.py", "--data_root", prepared_root, "--run_dir", tmp_path / "run", *TINY, "--epochs", "1",
        PYTHONPATH=str(blocked),
    )  # fmt: skip
    ok(result)
    assert (tmp_path / "run" / "best.pt").exists()


def write_manifest_tree(root, *, num_persons=8):
    """One's own data, prepared: a real and a fake clip of each person."""
    rows = ["path,label,video_label,audio_label,identity"]
    for i in range(num_persons):
        for label in (0, 1):
            write_clip_folder(root / f"{i}_{label}", seed=100 + 2 * i + label, fake_video=bool(label))
            rows.append(f"{i}_{label}.mp4,{label},{label},0,person{i}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def test_a_union_of_data_sets_is_trained_on_and_each_is_tested(prepared_root, tmp_path):
    own = write_manifest_tree(tmp_path / "own")
    run_dir, sets = tmp_path / "run", ("--dataset", "fakeavceleb", "manifest")
    roots = ("--data_root", prepared_root, own)
    ok(command("train.py", *sets, *roots, "--run_dir", run_dir, *TINY, "--epochs", "1",
               "--dataset_weights", "1", "3"))  # fmt: skip
    assert {path.name for path in (run_dir / "splits").iterdir()} == {"fakeavceleb.csv", "manifest.csv"}
    log = (run_dir / "train.log").read_text()
    assert "manifest split" in log
    assert "fakeavceleb split" in log

    results = tmp_path / "results"
    arguments = ("--checkpoint", run_dir / "best.pt", *sets, *roots, "--output_dir", results)
    metrics = json.loads(ok(command("test.py", *arguments, "--report", "false")).stdout)
    rows = metrics["datasets"]
    assert rows["fakeavceleb"]["overall"]["num_fake"] == 9
    assert (rows["manifest"]["overall"]["num_real"], rows["manifest"]["overall"]["num_fake"]) == (2, 2)
    aucs = [row["overall"]["auc"] for row in rows.values()]
    assert metrics["macro_auc_dataset"] == pytest.approx(sum(aucs) / 2)
    for name in rows:
        alone = json.loads((results / name / "test_metrics.json").read_text())
        assert alone["overall"] == rows[name]["overall"]
        assert (results / name / "predictions.csv").is_file()

    result = command("train.py", *sets, "--data_root", own, "--run_dir", tmp_path / "x", *TINY)
    assert result.returncode == 2
    assert "1 data_root for 2 dataset" in result.stderr


def test_training_refuses_a_leak_unless_told_otherwise(tmp_path):
    own = write_manifest_tree(tmp_path / "own")
    rows = (own / "manifest.csv").read_text().splitlines()
    (own / "0_0/clip.json").write_text(json.dumps({"source_sha256": "5e" * 32}))
    shutil.copytree(own / "0_0", own / "copy")  # the same recording under the name of somebody else
    (own / "manifest.csv").write_text("\n".join([*rows, "copy.mp4,0,0,0,somebody"]) + "\n")
    parts = {f"person{i}": ("train", "val", "test")[max(0, i - 5)] for i in range(8)} | {"somebody": "test"}
    lines = (own / "manifest.csv").read_text().splitlines()
    lines = [lines[0] + ",split", *(f"{line},{parts[line.rpartition(',')[2]]}" for line in lines[1:])]
    (own / "manifest.csv").write_text("\n".join(lines) + "\n")
    arguments = ("train.py", "--dataset", "manifest", "--data_root", own, *TINY, "--epochs", "1")
    result = command(*arguments, "--run_dir", tmp_path / "a")
    assert result.returncode == 1
    assert "manifest/copy" in result.stderr
    assert "manifest/0_0" in result.stderr
    ok(command(*arguments, "--run_dir", tmp_path / "b", "--allow_leaks"))


def test_clips_of_one_class_get_what_can_be_said_without_the_other(prepared_root, unbroken, tmp_path):
    """Only fakes, as in a set of generated videos: no AUC, but everything else."""
    root = shutil.copytree(prepared_root, tmp_path / "data")
    shutil.rmtree(root / "RealVideo-RealAudio")
    flags = ("--checkpoint", unbroken / "best.pt", "--data_root", root, "--split", "all", "--allow_missing")
    flags += ("--device", "cpu", "--num_workers", "0", "--output_dir", tmp_path / "out")
    result = ok(command("test.py", *flags))
    assert "0 real clips: AUC, AP and EER need both" in result.stderr
    assert "The checkpoint was trained on" in result.stderr
    assert "accuracy" in result.stderr.splitlines()[-1]
    content = json.loads((tmp_path / "out" / "test_metrics.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    called_fake = [float(row["logit"]) > 0 for row in rows]
    assert content["overall"]["num_fake"] == len(rows) > 0
    assert content["overall"]["accuracy"] == pytest.approx(sum(called_fake) / len(rows))
    assert content["overall"]["auc"] is None
    assert content["decision"]["at_threshold"]["false_positive_rate"] is None
    assert 0 <= content["decision"]["at_threshold"]["false_negative_rate"] <= 1
    assert "need both" in content["reason"]
    assert not (tmp_path / "out" / "report.html").exists()
    result = command("test.py", *flags, "--shortcuts")
    assert result.returncode == 1
    assert "need both" in result.stderr


def test_an_evaluation_of_training_clips_says_so(prepared_root, unbroken, tmp_path):
    flags = ("--checkpoint", unbroken / "best.pt", "--data_root", prepared_root, "--split", "train")
    flags += ("--device", "cpu", "--num_workers", "0", "--no_thumbnails", "--output_dir", tmp_path)
    result = ok(command("test.py", *flags))
    content = json.loads((tmp_path / "test_metrics.json").read_text())
    num_clips = content["overall"]["num_real"] + content["overall"]["num_fake"]
    assert content["seen_in_training"] == {"num_clips": num_clips, "num_train": num_clips, "num_val": 0}
    told = f"The checkpoint was trained on {num_clips} of these {num_clips} clips: these figures say nothing"
    assert told in result.stderr
    assert told in (tmp_path / "report.html").read_text()


def test_a_place_that_cannot_be_written_is_found_before_the_work(prepared_root, unbroken, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = command(
        "test.py", "--checkpoint", unbroken / "best.pt", "--data_root", prepared_root, "--num_workers", "0",
        "--output_dir", tmp_path / "file" / "out",
    )  # fmt: skip
    assert result.returncode == 1
    assert "out: results cannot be written there (Not a directory)" in result.stderr
    assert "windows of" not in result.stderr  # nothing was scored


@pytest.mark.parametrize(
    "flags", [("--batch_size", "1"), ("--accumulate_steps", "4"), ("--batch_size", "500")], ids=" ".join
)
def test_batches_and_parts_of_one_clip_and_batches_larger_than_the_set(prepared_root, tmp_path, flags):
    result = ok(train(prepared_root, tmp_path / "run", "--epochs", "1", *flags))
    assert "best val_auc" in result.stderr


NOBODY = """
import json, pwd, runpy, sys

def unknown(*arguments):
    raise KeyError("getpwuid(): uid not found")

pwd.getpwuid = pwd.getpwnam = unknown
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
"""


def test_a_user_without_a_name_and_a_home_trains_tests_and_prepares(prepared_root, tmp_path):
    """As in a container that is started with --user 12345."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "OMP_NUM_THREADS": "1"}
    run_dir, video = tmp_path / "run", tmp_path / "face.mp4"
    write_video(video, moving_face(30), waveform=clicks(1.2, [0.5]))
    where = ["--data_root", prepared_root, "--device", "cpu"]
    commands = [
        ["train.py", *where, *TINY, "--epochs", "1", "--run_dir", run_dir],
        ["test.py", *where, "--checkpoint", run_dir / "best.pt", "--num_workers", "0"],
        ["preprocess/prepare.py", "--input", video, "--output", tmp_path / "out", "--num_workers", "1"],
    ]
    words = [sys.executable, "-c", NOBODY, json.dumps(commands, default=str)]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": False, "env": environment}
    result = ok(subprocess.run(words, **options))
    assert "best val_auc" in result.stderr
    assert "1 prepared" in result.stderr
    assert "Traceback" not in result.stderr
    assert (run_dir / "roc.png").exists()


def test_compiling_without_a_compiler_is_a_clear_error(prepared_root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such")
    words = ["train.py", "--data_root", prepared_root, "--run_dir", tmp_path / "run", *TINY, "--compile"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler"):  # status 2, and one line
        train_script.main()
    assert not (tmp_path / "run").exists()
