"""The launchers, and `--help` of the preprocessing commands."""

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

import test
import train
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from models import MODELS
from models.beyond_masking.config import BeyondMaskingConfig
from tests.clip_factory import make_clip, write_clip_folder
from tests.commands import run_command, run_launcher
from utils.checkpoint.files import save_checkpoint
from utils.evaluation.scoring import evaluate
from utils.search.checks import Checked
from utils.search.definition import Definition

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = sorted(path.name for path in ROOT.glob("run_*.sh"))


@pytest.fixture
def asked(tmp_path):
    """Function (launcher, *flags, **variables) -> configuration that train.py makes of the launcher's call.

    Python is replaced by a script that prints its arguments, so that a call takes no second.
    """
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$1" != train.py ] || printf "%s\\n" "$@"\n')
    fake.chmod(0o755)

    def ask(launcher, *flags, **variables):
        path = f"{fake.parent}:{os.environ['PATH']}"
        result = run_launcher(
            launcher, *flags, "--print_config", **{"PATH": path, "RUN_DIR": "/run"} | variables
        )
        assert result.returncode == 0, result.stderr
        name, *arguments = result.stdout.splitlines()
        assert name == "train.py"
        return train.parse_args(arguments).as_plain()

    return ask


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_variables_reach_the_configuration_and_flags_win_over_them(asked, launcher):
    config = asked(launcher, "--epochs", "7", ALPHA="0.3", FEATURE_DIM="64", SEED="5")
    assert config["train"]["epochs"] == 7
    assert config["train"]["seed"] == 5
    assert config["train"]["dataset"] == [launcher.removeprefix("run_").removesuffix(".sh")]
    assert config["loss"]["auxiliary_weight"] == 0.3
    assert config["model"]["feature_dim"] == 64


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("model", "preset"), [(m, p) for m in sorted(MODELS) for p in MODELS[m].presets])
def test_a_launcher_has_no_defaults_of_its_own(asked, launcher, model, preset):
    dataset = launcher.removeprefix("run_").removesuffix(".sh")
    flags = ["--model", model, "--preset", preset, "--dataset", dataset, "--run_dir", "/run"]
    assert asked(launcher, MODEL=model, PRESET=preset) == train.parse_args(flags).as_plain()


def test_the_stages_of_m2sd_are_trained_one_after_the_other(asked, tmp_path):
    variables = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "MODEL": "m2sd", "RUN_DIR": "/run"}
    words = ("run_ffpp.sh", "--vit", "small", "--print_config")
    result = run_launcher(*words, STAGES="all", **variables)
    assert result.returncode == 0, result.stderr
    calls = [call.splitlines() for call in result.stdout.split("train.py\n")[1:]]
    models = [train.parse_args(call).as_plain()["model"] for call in calls]
    assert [model["stage"] for model in models] == ["teacher", "expert", "pretrain", "finetune"]
    assert {model["vit"] for model in models} == {"small"}
    files = [tuple(model[name] for name in ("teacher", "expert", "init_from")) for model in models]
    both = ("/run/teacher/best.pt", "/run/expert/best.pt")
    assert files == [(None,) * 3] * 2 + [(*both, None), (*both, "/run/pretrain/best.pt")]
    for wrong in ({"MODEL": "mrdf"}, {"PRESET": "demo"}, {"FOLDS": "1"}):
        result = run_launcher(*words, STAGES="all", **variables | wrong)
        assert result.returncode == 2
        assert "STAGES is for MODEL=m2sd" in result.stderr


def test_a_launcher_leaves_a_methods_own_values_to_its_presets(asked):
    launcher = "run_fakeavceleb.sh"
    config = asked(launcher, MODEL="mrdf", PRESET="released", EPOCHS="7", FOLDS="3")
    assert config["train"]["learning_rate"] == 1e-3
    assert config["train"]["epochs"] == 7
    assert config["workers"]["batch_size"] == 64
    assert (config["split"]["fold"], config["split"]["protocol"]) == ("3/5", "mrdf5")
    assert config["model"]["encoder_layers"] == 0
    result = run_launcher(launcher, "--print_config", FOLDS="0-5")
    assert result.returncode == 2
    assert "FOLDS must be like 1-5" in result.stderr
    result = run_launcher(launcher, "--print_config", "--fold", "2/5", FOLDS="1")
    assert result.returncode == 2
    assert "either FOLDS or --fold" in result.stderr


def test_a_resumed_demo_keeps_its_own_features(asked, tmp_path):
    flags = ["--model", "td3mf", "--audio_features", "mfcc", "--run_dir", str(tmp_path)]
    flags += ["--data_root", str(tmp_path / "prepared")]
    before = train.parse_args(flags).as_plain()
    (tmp_path / "config.json").write_text(json.dumps({"config": before}))
    where = {"MODEL": "td3mf", "RUN_DIR": str(tmp_path), "DEMO_DIR": str(tmp_path)}
    assert asked("run_fakeavceleb.sh", "--demo", "--resume", **where) == before
    model = asked("run_fakeavceleb.sh", "--demo", **where, PRESET="corrected")["model"]
    assert model["audio_features"] == "audio_resnet18"


def test_the_launcher_extracts_the_features_that_it_trains_on(asked, tmp_path):
    fake = tmp_path / "bin" / "python"
    fake.write_text('#!/bin/sh\n[ "$1" = -m ] || [ "$1" = train.py ] || exit 0\necho "$@"\n')
    where = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "DATA_ROOT": "/data", "RUN_DIR": "/run"}

    def calls(*flags, **variables):
        """What each extraction was asked for, and the configuration of the training."""
        result = run_launcher("run_fakeavceleb.sh", *flags, **where | variables)
        assert result.returncode == 0, result.stderr
        *extractions, training = result.stdout.splitlines()
        always = "-m preprocess.extract_features --data_root /data --device auto "
        assert all(call.startswith(always) for call in extractions), extractions
        asked_for = [call.removeprefix(always) for call in extractions]
        return asked_for, train.parse_args(training.split()[1:]).as_plain()["model"]

    weights = {"WEIGHTS_DIR": "/weights"}
    td3mf = {"MODEL": "td3mf", **weights}
    found, model = calls(VIDEO_FEATURES="efficientface", AUDIO_FEATURES="wavlm_base.layer6", **td3mf)
    assert found == [
        "--backbone efficientface --weights_dir /weights",
        "--backbone wavlm_base --layer 6 --weights_dir /weights",
    ]
    assert (model["video_features"], model["audio_features"]) == ("efficientface", "wavlm_base.layer6")
    found, model = calls("--only", "video", **td3mf)
    assert found == ["--backbone marlin_small --weights_dir /weights"]
    found, model = calls("--finetune", "true", AUDIO_FEATURES="mfcc", **td3mf)
    assert (found, model["audio_features"]) == (["--backbone mfcc"], "mfcc")
    found, model = calls(MODEL="probe", FEATURES="mfcc clip_vit_b16", **weights)
    assert found == ["--backbone mfcc", "--backbone clip_vit_b16 --weights_dir /weights"]
    assert model["features"] == ["mfcc", "clip_vit_b16"]
    for flags, variables in (([], {"FEATURES": "mfcc"}), (["--audio_features", "mfcc"], {})):
        result = run_launcher("run_fakeavceleb.sh", *flags, **where | td3mf | variables)
        assert result.returncode == 2
        assert "AUDIO_FEATURES" in result.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_resumes_a_run_of_other_values(asked, launcher, tmp_path):
    flags = ["--model", "mrdf", "--preset", "paper", "--seed", "7", "--batch_size", "3", "--epochs", "5"]
    dataset = launcher.removeprefix("run_").removesuffix(".sh")
    before = train.parse_args([*flags, "--dataset", dataset, "--run_dir", str(tmp_path)]).as_plain()
    (tmp_path / "config.json").write_text(json.dumps({"config": before}))
    assert asked(launcher, "--resume", RUN_DIR=str(tmp_path)) == before
    assert asked(launcher, "--resume", RUN_DIR=str(tmp_path), EPOCHS="9")["train"]["epochs"] == 9


@pytest.mark.parametrize(("model", "preset"), [(m, p) for m in sorted(MODELS) for p in MODELS[m].presets])
def test_the_demo_starts_with_every_preset(asked, model, preset, tmp_path):
    config = asked("run_fakeavceleb.sh", "--demo", MODEL=model, PRESET=preset, DEMO_DIR=str(tmp_path))
    assert (config["train"]["model"], config["train"]["preset"]) == (model, preset)


def test_the_demo_of_the_published_code_scores_a_clip_shorter_than_its_window(asked, tmp_path):
    demo = ("run_fakeavceleb.sh", "--demo")
    config = asked(*demo, PRESET="released", DEMO_DIR=str(tmp_path))
    assert asked(*demo, "--preset", "released", DEMO_DIR=str(tmp_path)) == config
    assert (config["data"]["window"], config["data"]["windows_per_clip"]) == ("released", 1)
    model = MODELS["beyond_masking"](BeyondMaskingConfig(**config["model"]))
    state = {"config": config, "split_checksums": {}, "model": model.state_dict()}
    save_checkpoint(tmp_path / "best.pt", state)
    where = ["--checkpoint", tmp_path / "best.pt", "--data_root", tmp_path, "--device", "cpu"]
    evaluation = test.parse_args([str(word) for word in where])
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=40))
    batches = evaluation_loader([clip], evaluation.data, WorkerConfig(num_workers=0))
    assert np.isfinite(evaluate(evaluation.model, batches, evaluation.device).logits).all()


@pytest.mark.parametrize(
    ("fold", "resume"), [("", ["--resume"]), ("", ["--resume", "true"]), ("1", [])], ids=str
)
@pytest.mark.parametrize(("model", "preset"), [("beyond_masking", "corrected"), ("mrdf", "paper")])
def test_the_demo_resumes_a_run_of_other_values(asked, tmp_path, fold, resume, model, preset):
    """Its small sizes are for new runs: 30 epochs would silently stretch the schedule of a run of 5."""
    run_dir = tmp_path / "fold_1" if fold else tmp_path
    run_dir.mkdir(exist_ok=True)
    flags = ["--model", model, "--preset", preset, "--epochs", "5", "--patience", "3", "--seed", "7"]
    flags += ["--run_dir", str(run_dir), "--data_root", str(tmp_path / "prepared")]
    flags += ["--fold", f"{fold}/5"] if fold else []
    before = train.parse_args(flags).as_plain()
    (run_dir / "config.json").write_text(json.dumps({"config": before}))
    (run_dir / "last.pt").touch()
    variables = {"RUN_DIR": str(tmp_path), "DEMO_DIR": str(tmp_path), "FOLDS": fold}
    assert asked(LAUNCHERS[0], "--demo", *resume, **variables) == before
    assert asked(LAUNCHERS[0], "--demo", *resume, **variables, EPOCHS="9")["train"]["epochs"] == 9


@pytest.mark.parametrize(
    ("study", "row", "preset"),
    [
        ("ablation", "plus temporal alignment", ""),
        ("deviations", "corrected", ""),
        ("deviations", "released", "released"),
    ],
)
def test_the_studies_have_the_sizes_of_the_demo(asked, tmp_path, study, row, preset):
    """But for epochs and domain: the row "released" is `PRESET=released bash run_fakeavceleb.sh --demo`."""
    demo = asked("run_fakeavceleb.sh", "--demo", PRESET=preset, DEMO_DIR=str(tmp_path))
    path, given = ROOT / f"models/beyond_masking/studies/{study}.json", {"run_dir": ("/run",)}
    definition = Definition.read(path, {"data_root": (str(tmp_path / "prepared"),)}, use_base=True)
    trial = next(t for t in map(definition.trial, definition.planned(), [0] * 99) if t.point == row)
    config = Checked(definition, train.parse_args).config(trial, given)
    for values in (config["train"], demo["train"]):
        del values["epochs"], values["domain_clips"]
    config["workers"]["num_workers"] = demo["workers"]["num_workers"]
    assert config == demo


def test_the_demo_is_small_unless_a_variable_says_otherwise(asked, tmp_path):
    config = asked(
        LAUNCHERS[0], "--demo", "--resume", "false", DEMO_DIR=str(tmp_path), EPOCHS="2", ALPHA="0.4"
    )
    assert (config["train"]["epochs"], config["loss"]["auxiliary_weight"]) == (2, 0.4)
    assert (config["model"]["feature_dim"], config["train"]["patience"]) == (64, 0)
    config = asked(LAUNCHERS[0], "--demo", DEMO_DIR=str(tmp_path), MODEL="mrdf")
    assert config["train"]["preset"] == "demo"
    config = asked(LAUNCHERS[0], "--demo", DEMO_DIR=str(tmp_path), MODEL="mrdf", PRESET="paper")
    assert config["train"]["preset"] == "paper"


def test_the_demo_of_segments_locates_by_frames_in_clips_that_are_forged_in_part(asked, tmp_path):
    demo = (LAUNCHERS[0], "--demo_segments")
    config = asked(*demo, DEMO_DIR=str(tmp_path))
    assert config["train"]["dataset"] == ["av_deepfake1m"]
    assert config["model"]["frame_head"]
    other = asked(*demo, "--frame_head", "false", DEMO_DIR=str(tmp_path))
    assert other["model"] == config["model"] | {"frame_head": False}
    assert other["data"] == config["data"]
    without = asked(*demo, "--temporal_alignment", "false", DEMO_DIR=str(tmp_path))
    assert not without["model"]["frame_head"]
    config = asked(*demo, DEMO_DIR=str(tmp_path), MODEL="mrdf")
    assert (config["train"]["preset"], config["train"]["dataset"]) == ("demo", ["av_deepfake1m"])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_without_data_a_launcher_says_what_to_do(launcher):
    result = run_launcher(launcher)
    assert result.returncode == 2
    for words in ("DATA_ROOT is not set", "preprocess.prepare --dataset", "--demo"):
        assert words in result.stderr


def test_paths_in_variables_are_the_callers(tmp_path):
    variables = {"DATA_ROOT": "my dät'a", "RUN_DIR": "my run/ü 1"}
    launcher = str(ROOT / "run_fakeavceleb.sh")
    result = run_launcher(launcher, "--print_config", cwd=tmp_path, **variables)
    config = json.loads(result.stdout)["train"]
    assert config["data_root"] == [str(tmp_path / "my dät'a")]
    assert config["run_dir"] == str(tmp_path / "my run/ü 1")


def test_a_launcher_is_called_from_another_folder_with_paths_that_hold_blanks(tmp_path):
    """Project, data and run are named relatively to it, for the training and for the test."""
    project, fake = tmp_path / "my pröject", tmp_path / "bin/python"
    shutil.copytree(ROOT / "utils/shell", project / "utils/shell")
    shutil.copy(ROOT / "run_fakeavceleb.sh", project)
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "${1%.py}" = "$1" ] || { printf "%s|" "$PWD" "$@"; echo; }\n')
    fake.chmod(0o755)
    variables = {"DATA_ROOT": "my data/prepared", "RUN_DIR": "my runs/run 1", "DEVICE": "cpu"}
    variables["PATH"] = f"{fake.parent}:{os.environ['PATH']}"
    result = run_launcher("my pröject/run_fakeavceleb.sh", "--some_flag", "a b", cwd=tmp_path, **variables)
    assert result.returncode == 0, result.stderr
    data, run_dir = f"fakeavceleb|--data_root|{tmp_path}/my data/prepared|", f"{tmp_path}/my runs/run 1"
    assert result.stdout.splitlines() == [
        f"{project}|train.py|--dataset|{data}--run_dir|{run_dir}|--device|cpu|--some_flag|a b|",
        f"{project}|test.py|--checkpoint|{run_dir}/best.pt|--dataset|{data}--device|cpu|",
    ]


def test_scripts_for_bash_keep_their_line_ends_in_a_checkout_on_windows():
    """git for Windows writes CRLF (core.autocrlf), of which bash in WSL says "$'\\r': command not found"."""
    if not (ROOT / ".git").exists():
        pytest.skip("the project is not a git checkout")
    git = ["git", "-C", ROOT, "-c", "core.autocrlf=true"]
    listed = subprocess.run([*git, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    scripts = [name for name in files if name.endswith(".sh") or (ROOT / name).read_bytes()[:2] == b"#!"]
    assert {".ci/run", "run_ffpp.sh", "utils/shell/launch.sh"} <= set(scripts)
    words = [*git, "check-attr", "eol", "--", *scripts]
    attributes = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line for line in attributes if not line.endswith(": eol: lf")] == []


@pytest.mark.parametrize("flag", ["--run_dir", "--data_root", "--device"])
def test_what_the_launcher_also_tells_the_test_is_a_variable(flag):
    result = run_launcher(LAUNCHERS[0], flag, "x")
    assert result.returncode == 2
    assert "set DATA_ROOT, RUN_DIR or DEVICE" in result.stderr


def test_an_unknown_flag_stops_the_launcher():
    result = run_launcher(LAUNCHERS[0], "--no_such_flag", DATA_ROOT="tests")
    assert result.returncode == 2
    assert "unrecognized arguments: --no_such_flag" in result.stderr


def test_a_failed_training_is_the_launchers_failure(tmp_path):
    result = run_launcher(LAUNCHERS[0], DATA_ROOT=str(tmp_path), RUN_DIR=str(tmp_path / "run"))
    assert result.returncode == 1
    assert "neither meta_data.csv" in result.stderr


def test_an_environment_without_the_requirements_is_named(tmp_path):
    """VENV points to an environment that cannot be filled (it has no pip): the launcher stops and says so."""
    venv.create(tmp_path / "venv", symlinks=True)
    result = run_launcher(
        LAUNCHERS[0], "--print_config", VENV=str(tmp_path / "venv"), PIP_NO_INDEX="1", USE_ACTIVE_ENV=""
    )
    assert result.returncode == 1
    assert "Installing requirements" in result.stderr
    assert "the installation stopped" in result.stderr


def help_of(*script):
    result = run_command(*script, "--help")
    assert result.returncode == 0
    return result.stdout


MODULES = [
    "prepare",
    "verify",
    "crop_faces",
    "extract_landmarks",
    "extract_audio",
    "demo",
    "perturb",
    "pack",
    "extract_features",
]


@pytest.mark.parametrize("module", MODULES)
def test_every_preprocessing_command_explains_itself(module):
    text = help_of("-m", f"preprocess.{module}")
    assert f"preprocess.{module}" in text
    assert "default" in text
