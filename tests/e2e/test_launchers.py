"""The launchers, and what the preprocessing commands say of themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = sorted(path.name for path in ROOT.glob("run_*.sh"))


def bash(*words, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in {"DATA_ROOT", "RUN_DIR"}}
    environment |= {
        "USE_ACTIVE_ENV": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    } | variables
    return subprocess.run(
        ["bash", *words], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_variables_reach_the_configuration_and_flags_win_over_them(launcher):
    result = bash(launcher, "--print_config", "--epochs", "7", ALPHA="0.3", FEATURE_DIM="64", SEED="5")
    assert result.returncode == 0, result.stderr
    config = json.loads(result.stdout)
    assert config["train"]["epochs"] == 7
    assert config["train"]["seed"] == 5
    assert config["train"]["dataset"] == [launcher.removeprefix("run_").removesuffix(".sh")]
    assert config["loss"]["auxiliary_weight"] == 0.3
    assert config["model"]["feature_dim"] == 64


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_without_data_a_launcher_says_what_to_do(launcher):
    result = bash(launcher)
    assert result.returncode == 2
    for words in ("DATA_ROOT is not set", "preprocess.prepare --dataset", "--demo"):
        assert words in result.stderr


def test_paths_in_variables_are_the_callers(tmp_path):
    variables = {"USE_ACTIVE_ENV": "1", "DATA_ROOT": "my data", "RUN_DIR": "my run"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", str(ROOT / "run_fakeavceleb.sh"), "--print_config"]
    result = subprocess.run(
        words,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables | {"PATH": path},
    )
    config = json.loads(result.stdout)["train"]
    assert config["data_root"] == [str(tmp_path / "my data")]
    assert config["run_dir"] == str(tmp_path / "my run")


@pytest.mark.parametrize("flag", ["--run_dir", "--data_root", "--device"])
def test_what_the_launcher_also_tells_the_test_is_a_variable(flag):
    result = bash(LAUNCHERS[0], flag, "x")
    assert result.returncode == 2
    assert "set DATA_ROOT, RUN_DIR or DEVICE" in result.stderr


def test_an_unknown_flag_stops_the_launcher():
    result = bash(LAUNCHERS[0], "--no_such_flag", DATA_ROOT="tests")
    assert result.returncode == 2
    assert "unrecognized arguments: --no_such_flag" in result.stderr


def test_a_failed_training_is_the_launchers_failure(tmp_path):
    result = bash(LAUNCHERS[0], DATA_ROOT=str(tmp_path), RUN_DIR=str(tmp_path / "run"))
    assert result.returncode == 1
    assert "neither meta_data.csv" in result.stderr


def test_an_environment_without_the_requirements_is_named(tmp_path):
    """VENV points to an environment that pip cannot fill (no index): the launcher stops and says so."""
    result = bash(
        LAUNCHERS[0], "--print_config", VENV=str(tmp_path / "venv"), PIP_NO_INDEX="1", USE_ACTIVE_ENV=""
    )
    assert result.returncode == 1
    assert "Installing requirements.txt" in result.stderr
    assert "the installation stopped" in result.stderr


def help_of(*script):
    result = run_command(*script, "--help")
    assert result.returncode == 0
    return result.stdout


MODULES = ["prepare", "verify", "crop_faces", "extract_landmarks", "extract_audio", "demo", "perturb", "pack"]


@pytest.mark.parametrize("module", MODULES)
def test_every_preprocessing_command_explains_itself(module):
    text = help_of("-m", f"preprocess.{module}")
    assert f"preprocess.{module}" in text
    assert "default" in text
