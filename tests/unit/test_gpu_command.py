"""tests/gpu.sh: guarded steps, one JSON and one table; its tests are collected, and skipped with a reason."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as command
from tests.gpu import conftest
from tests.gpu.__main__ import Step
from tests.gpu.plain_files import plain_sound, write_plain_clip

ROOT = Path(__file__).resolve().parents[2]
WRITES = "import json, sys, time; json.dump([{'batch_size': 4, 'clips_per_s': 12.5}], open(sys.argv[1], 'w'))"
REPORTS = "import sys; open(sys.argv[1], 'w').write('<testsuite tests=\"2\" skipped=\"%d\">')"


def step(name, code, limit_s=60.0):
    return Step(name, limit_s, ("-c", code, "{figures}"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run_steps(*steps):
        monkeypatch.setattr(command, "STEPS", steps)
        status = command.main([str(tmp_path / "out"), "--device", "cpu"])
        content = json.loads((tmp_path / "out" / "gpu.json").read_text())
        return status, content, (tmp_path / "out" / "gpu.md").read_text(), capsys.readouterr().out

    return run_steps


def test_a_step_that_fails_or_hangs_is_written_down_and_the_others_go_on(run):
    status, content, table, _ = run(
        step("breaks", "raise ValueError('a | wrong <shape>')"),
        step("hangs", f"{WRITES}; time.sleep(60)", limit_s=3.0),
        step("skips", REPORTS % 2),
        step("works", WRITES),
        step("tests", REPORTS % 1),
    )
    assert status == 1
    by_name = {outcome["name"]: outcome for outcome in content["steps"]}
    assert [name for name, outcome in by_name.items() if outcome["passed"]] == ["works", "tests"]
    assert "ValueError: a | wrong" in by_name["breaks"]["error"]
    assert by_name["hangs"]["error"].startswith("stopped after 3 s")
    assert by_name["hangs"]["figures"] == by_name["works"]["figures"]  # what it had by then
    assert by_name["skips"]["error"] == "no test ran"
    assert "**failed**" in table
    assert "a \\| wrong &lt;shape>" in table
    assert "12.5 clips/s" in table


def test_all_is_well_if_every_step_passes_and_missing_packages_are_said_first(run, monkeypatch):
    wanted = {"numpy": "0.1", "nothing_like_it": "1.0", "nothing.like": "1"}
    monkeypatch.setattr(command, "required_packages", lambda: wanted)
    status, content, _, printed = run(step("works", WRITES))
    assert status == 0
    assert printed.startswith("missing packages: nothing_like_it, nothing.like\n")
    assert content["missing_packages"] == ["nothing_like_it", "nothing.like"]
    assert content["other_versions"] == {"numpy": f"{content['other_versions']['numpy'][:-6]} (0.1)"}
    assert content["rehearsal"] is True


def test_no_step_begins_after_the_limit_and_all_wanted_packages_are_known(run, monkeypatch):
    monkeypatch.setattr(command, "LIMIT_S", 0.5)
    status, content, _, _ = run(step("late", WRITES))
    assert (status, content["steps"][0]["error"]) == (1, "no time was left for it")
    packages = command.required_packages()
    assert {"av", "torch", "pytest"} <= packages.keys()
    assert "ray" not in packages
    assert all(re.fullmatch(r"[\d.]+", version) for version in packages.values())


def test_in_a_complete_environment_no_package_is_missing():
    """Each name of a package is turned into that of its module; versions are the environment's affair."""
    assert command.describe_packages()[0] == []


def test_the_shell_command_says_how_it_is_called():
    shown = subprocess.run(["bash", ROOT / "tests/gpu.sh", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "bash tests/gpu.sh OUTPUT_FOLDER" in shown.stdout
    assert (ROOT / "tests" / "gpu.sh").stat().st_mode & 0o111


def test_without_a_gpu_its_tests_are_skipped_with_the_reason(request, monkeypatch):
    def marks(has_gpu, rehearsal):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
        monkeypatch.setenv("GPU_REHEARSAL_DEVICE", rehearsal)
        item = pytest.Function.from_parent(request.node.parent, name="test_nothing", callobj=lambda: None)
        item.add_marker("gpu")
        conftest.pytest_collection_modifyitems([item])
        return [mark.kwargs["reason"] for mark in item.iter_markers("skip")]

    reason = "needs a CUDA device; GPU_REHEARSAL_DEVICE=cpu runs it on the CPU"
    assert marks(has_gpu=False, rehearsal="") == [reason]
    assert marks(has_gpu=False, rehearsal="cpu") == marks(has_gpu=True, rehearsal="") == []
    files = (ROOT / "tests" / "gpu").glob("test_*.py")
    assert all("\npytestmark = pytest.mark.gpu\n" in path.read_text() for path in files)


def test_clips_are_written_and_read_without_pyav_and_soundfile(tmp_path, monkeypatch):
    import soundfile

    from loaders.batches.data_config import DataConfig
    from loaders.batches.windows import ClipDataset
    from tests.clip_factory import make_clip
    from utils.clip import frames

    clip, data = make_clip(write_plain_clip(tmp_path / "clip", 1)), DataConfig(window_s=0.2)
    expected = ClipDataset([clip], data, training=False)[0, 1]
    monkeypatch.setattr(frames.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(soundfile, "SoundFile", None)
    with plain_sound():
        window = ClipDataset([clip], data, training=False)[0, 1]
    assert window.video.shape == (5, 224, 224, 3)
    torch.testing.assert_close(window.waveform, expected.waveform, rtol=0, atol=1e-6)
    torch.testing.assert_close(window.video.float(), expected.video.float(), rtol=0, atol=4)
