"""Runs that are asked to stop: they save, say how to go on, and then end with the bits of an unbroken run.

Runs that are killed: tests/kill.py.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.commands import ONE_THREAD, ROOT, forking_environment, ok, start_command
from tests.e2e.test_distributed import TORCHRUN
from tests.e2e.test_training import TINY
from tests.kill import differences
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.run.log import RunLog

FLAGS = (*TINY, "--epochs", "2", "--save_every_steps", "2", "--precision", "fp32")  # 6 steps an epoch


def start(root, run_dir, *more, processes=1):
    return start_command(
        "train.py", "--data_root", root, "--run_dir", run_dir, *FLAGS, *more, processes=processes
    )


def wait_for_a_save(is_running, run_dir):
    while not (run_dir / "last.pt").exists():
        assert is_running()
        time.sleep(0.002)


def wait_for_the_end(process):
    end = time.monotonic() + 120  # of a run of some seconds
    while process.running():
        if time.monotonic() > end:
            process.signal(signal.SIGKILL, group=True)
            pytest.fail("it hangs")
        time.sleep(0.05)
    return process.wait()


@pytest.fixture(scope="module")
def unbroken(prepared_root, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    run_dir = tmp_path_factory.mktemp("unbroken") / "run"
    ok(start(prepared_root, run_dir).wait())
    return run_dir


@pytest.fixture(scope="module")
def asked_to_stop(prepared_root, tmp_path_factory):
    """(exit status, stderr, folder) of a run that Ctrl-C stopped in the middle of an epoch."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    process = start(prepared_root, run_dir)
    wait_for_a_save(process.running, run_dir)
    process.signal(signal.SIGINT)
    result = process.wait()
    return result.returncode, result.stderr, run_dir


def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(
    prepared_root, asked_to_stop, unbroken, tmp_path
):
    """It goes on with another number of loader workers, and where its data was moved, to the same bits."""
    status, errors, run_dir = asked_to_stop
    assert status == 130
    assert "stopped by SIGINT; --resume goes on from here" in errors
    assert "Traceback" not in errors
    assert torch.load(run_dir / "last.pt", weights_only=True)["progress"]["step"] > 0
    two = start(prepared_root, run_dir, "--resume", processes=2).wait()
    assert two.returncode == 2
    assert "in the middle of an epoch of 1 process(es): go on with as many, not 2" in two.stderr
    moved = shutil.copytree(prepared_root, tmp_path / "elsewhere else")
    ok(start(moved, run_dir, "--resume", "--num_workers", "0").wait())
    assert not differences(run_dir, unbroken)


def test_what_is_no_state_of_the_run_is_refused(prepared_root, asked_to_stop, tmp_path):
    _, _, stopped = asked_to_stop
    state = load_checkpoint(stopped / "last.pt")

    def resume(changed):
        shutil.copytree(stopped, tmp_path / "run", dirs_exist_ok=True)
        save_checkpoint(tmp_path / "run/last.pt", changed)
        result = start(prepared_root, tmp_path / "run", "--resume").wait()
        assert "Traceback" not in result.stderr
        return result.returncode, result.stderr

    status, errors = resume({name: state[name] for name in ("model", "config", "split_checksums")})
    assert status == 1
    assert (
        "last.pt: holds no run to go on with, but other weights (it has no bad_clips, best_value," in errors
    )
    other = state["config"] | {"train": state["config"]["train"] | {"learning_rate": 0.5}}
    status, errors = resume(state | {"config": other})
    assert status == 2
    assert "--learning_rate was 0.5" in errors
    status, errors = resume(state | {"model": state["criterion"]})
    assert status == 1
    assert "the saved state does not fit the run" in errors


def test_lost_rows_of_metrics_are_warned_of(tmp_path, caplog):
    RunLog(tmp_path, num_epochs=2).close()
    assert "metrics.csv: has lost the rows of 2 epochs" in caplog.text


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_cannot_save_ends_though_its_loader_workers_wait(prepared_root, tmp_path, processes):
    (tmp_path / "run/best.pt").mkdir(parents=True)
    process = start(prepared_root, tmp_path / "run", "--num_workers", 2, processes=processes)
    result = wait_for_the_end(process)
    assert result.returncode == 1
    assert "Is a directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_torchrun_is_asked_to_stop(prepared_root, tmp_path):
    run_dir = tmp_path / "run"
    words = [
        sys.executable,
        *TORCHRUN,
        "train.py",
        "--data_root",
        prepared_root,
        "--run_dir",
        run_dir,
        *FLAGS,
    ]
    process = subprocess.Popen(
        list(map(str, words)),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_THREAD | forking_environment(),
        start_new_session=True,
    )
    wait_for_a_save(lambda: process.poll() is None, run_dir)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert "stopped by SIGTERM; --resume goes on from here" in errors
    ok(start(prepared_root, run_dir, "--resume", processes=2).wait())
    ok(start(prepared_root, tmp_path / "unbroken", processes=2).wait())
    assert not differences(run_dir, tmp_path / "unbroken")


HANGS = """
import sys, time
import train
from loaders.batches.windows import ClipDataset
from utils.errors import run_command

read, hangs_in_training = ClipDataset.__getitem__, sys.argv.pop(1) == "training"
num_read = 0  # by this worker, which lives for the whole run

def read_or_hang(dataset, key):
    global num_read
    num_read += 1
    if dataset.training and hangs_in_training and key[1][0] == 1:  # the second epoch
        time.sleep(600)
    if not dataset.training and not hangs_in_training and num_read > 9:
        time.sleep(600)
    return read(dataset, key)

ClipDataset.__getitem__ = read_or_hang
run_command(train.main)
"""


@pytest.mark.parametrize("part", ["training", "validation"])
def test_a_run_whose_loader_hangs_is_asked_to_stop(prepared_root, unbroken, tmp_path, part):
    """It saves and ends at once, not after --loader_timeout_s, and goes on as if nothing had been."""
    run_dir, script = tmp_path / "run", tmp_path / "hangs.py"
    script.write_text(HANGS)
    process = start_command(script, part, "--data_root", prepared_root, "--run_dir", run_dir, *FLAGS)
    wait_for_a_save(process.running, run_dir)
    wait_for_quiet(run_dir)
    process.signal(signal.SIGTERM)
    result = wait_for_the_end(process)
    assert result.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; --resume goes on from here" in result.stderr
    assert "Traceback" not in result.stderr
    progress = torch.load(run_dir / "last.pt", weights_only=True)["progress"]
    place = (progress["epoch"], progress["step"])
    assert place == (1, 0) if part == "training" else place[1] == 6
    ok(start(prepared_root, run_dir, "--resume").wait())
    assert not differences(run_dir, unbroken)


def wait_for_quiet(run_dir, seconds=3.0):
    """Until the run has not saved for some seconds. While it saves, there may be no last.pt for a moment."""
    quiet_since, seen = time.monotonic(), None
    while time.monotonic() - quiet_since < seconds:
        with contextlib.suppress(FileNotFoundError):
            if (now := (run_dir / "last.pt").stat().st_mtime_ns) != seen:
                quiet_since, seen = time.monotonic(), now
        time.sleep(0.1)
