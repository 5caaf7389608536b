"""Runs that are killed or asked to stop at any step and go on: the same bits as a run that was left alone."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.e2e.test_distributed import TORCHRUN
from tests.e2e.test_training import ONE_THREAD, ROOT, TINY, ok

EPOCHS = ("--epochs", "2", "--save_every_steps", "2")
# of 6 steps an epoch (3 in the second case)
CASES = {
    "one process": ([], ("--num_workers", "2", "--precision", "fp32")),
    "parts, by category": ([], ("--accumulate_steps", "2", "--balance", "category", "--batch_size", "8")),
    "two processes": (TORCHRUN, ("--balance", "none", "--precision", "fp32")),
}


def words(case, root, run_dir, *more):
    launcher, flags = CASES[case]
    arguments = ("--data_root", root, "--run_dir", run_dir, *TINY, *flags, *EPOCHS, *more)
    return [sys.executable, *launcher, "train.py", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(arguments, check=False, cwd=ROOT, capture_output=True, text=True, env=ONE_THREAD)


def start(arguments):
    return subprocess.Popen(
        arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ONE_THREAD, start_new_session=True
    )


def wait_for_saves(process, run_dir, count):
    """Until last.pt has been written `count` times."""
    last, seen = run_dir / "last.pt", set()
    while len(seen) < count:
        assert process.poll() is None, process.stderr.read()
        if last.exists():
            seen.add(last.stat().st_ino)
        time.sleep(0.002)


def curves(run_dir):
    """Tag -> [(step, value)] of the TensorBoard curves but the ones of speed."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("speed/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def assert_same_run(one, two):
    assert (one / "metrics.csv").read_bytes() == (two / "metrics.csv").read_bytes()
    assert curves(one) == curves(two)
    assert len(curves(one)["val/auc"]) == 2
    for name in ("last.pt", "best.pt"):
        first, second = (torch.load(run_dir / name, weights_only=True) for run_dir in (one, two))
        assert first["model"].keys() == second["model"].keys()
        assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])
    assert first["val"] == second["val"]


@pytest.fixture(scope="module", params=CASES)
def unbroken(request, prepared_root, tmp_path_factory):
    """(case, folder of a run that nothing interrupted)."""
    run_dir = tmp_path_factory.mktemp("unbroken") / "run"
    ok(run(*words(request.param, prepared_root, run_dir)))
    return request.param, run_dir


def test_a_run_that_is_killed_twice_ends_with_the_same_bits(prepared_root, unbroken, tmp_path):
    case, expected = unbroken
    run_dir = tmp_path / "run"
    for number, resume in enumerate(((), ("--resume",))):
        process = start(words(case, prepared_root, run_dir, *resume))
        wait_for_saves(process, run_dir, 1 + number)
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)  # torchrun's, or loaders
        process.kill()
        process.wait()
    progress = torch.load(run_dir / "last.pt", weights_only=True)["progress"]
    assert progress["step"] > 0 or progress["epoch"] == 1  # in the middle, and not yet at the end
    assert "resumed before step" in ok(run(*words(case, prepared_root, run_dir, "--resume"))).stderr
    assert_same_run(run_dir, expected)


def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(prepared_root, unbroken, tmp_path):
    case, expected = unbroken
    number, status = (signal.SIGINT, 130) if case == "one process" else (signal.SIGTERM, 143)
    run_dir = tmp_path / "run"
    process = start(words(case, prepared_root, run_dir))
    wait_for_saves(process, run_dir, 1)
    process.send_signal(number)
    _, errors = process.communicate()
    assert f"stopped by {number.name}; --resume goes on from here" in errors
    if case != "two processes":  # torchrun has a status of its own
        assert process.returncode == status
        assert "Traceback" not in errors
    ok(run(*words(case, prepared_root, run_dir, "--resume")))
    assert_same_run(run_dir, expected)


def test_the_middle_of_an_epoch_needs_as_many_processes(prepared_root, tmp_path):
    run_dir = tmp_path / "run"
    process = start(words("one process", prepared_root, run_dir))
    wait_for_saves(process, run_dir, 1)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert torch.load(run_dir / "last.pt", weights_only=True)["progress"]["step"] > 0
    arguments = words("one process", prepared_root, run_dir, "--resume")
    result = run(arguments[0], *TORCHRUN, *arguments[1:])
    assert result.returncode == 1
    assert "in the middle of an epoch of 1 process(es): go on with as many, not 2" in result.stderr
