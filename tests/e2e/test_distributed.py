"""Two real processes, connected by gloo, against a single one; torchrun starts them where that matters."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loaders.batches.samplers import TrainingBatches, TrainingSampler
from tests.clip_factory import write_clip_folder
from tests.commands import ONE_THREAD, forking_environment, ok, run_command, run_launcher, run_processes
from tests.e2e.test_training import TINY, command
from utils.checkpoint.files import load_checkpoint
from utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
NUM_CLIPS = 41
BIAS_BEFORE_BATCH_NORM = re.compile(r"(video_encoder\.encoder|audio_encoder)\.layers\.(0|4|8)\.bias")


def torchrun(*arguments, **environment):
    words = [sys.executable, *TORCHRUN, *map(str, arguments)]
    options = {
        "cwd": ROOT,
        "capture_output": True,
        "text": True,
        "env": ONE_THREAD | forking_environment() | environment,
    }
    return subprocess.run(words, check=False, timeout=300, **options)


@pytest.fixture(scope="module")
def one_process(clips, tmp_path_factory):
    """work(...) in a single process, done once for all cases that compare with the same training."""
    folder, made = tmp_path_factory.mktemp("one"), {}

    def result(**options):
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            made[key] = work(clips, folder / f"{len(made)}.pt", processes=1, **options)
        return made[key]

    return result


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """41 clips of different lengths, some shorter than the window of 0.6 s: batches differ in T."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(NUM_CLIPS):
        write_clip_folder(
            root / f"{number:03d}", num_frames=9 + number % 11, size=32, seed=number,
            fake_video=bool(number % 2),
        )  # fmt: skip
    return root


def work(clips, output, *, processes, **options):
    words = ["-m", "tests.e2e.distributed_worker", clips, output, json.dumps(options)]
    if processes == 1:
        ok(command(words[0], *words[1:]))
    else:
        ok(run_processes(2, *words))
    return torch.load(output, weights_only=True)


def largest_differences(one, two):
    """Of the weights: relative to each tensor's largest value, and to how far training moved it.

    Biases before batch norm are left out: it takes them away again, their gradient is rounding noise.
    """
    of_weights, of_changes = {}, {}
    for name, first in one["after"].items():
        if BIAS_BEFORE_BATCH_NORM.search(name):
            continue
        if not first.is_floating_point():
            assert torch.equal(first, two["after"][name]), name
            continue
        difference = (first - two["after"][name]).abs().max().item()
        moved = (first - one["before"][name]).abs().max().item()
        of_weights[name] = difference / max(first.abs().max().item(), 0.01)  # some start at 0
        if moved > 1e-5:  # less than that is rounding
            of_changes[name] = difference / moved
    return of_weights, of_changes


FAIR = {"model": {"landmark_teacher": "random"}, "loss": {"lbd_temperature": 1.0}}
NO_BATCH_NORM = FAIR | {
    "running_statistics": True,
    "loss": {"contrastive_weight": 0.0, "lbd_reduction": "sum", "lbd_temperature": 1.0},
}


@pytest.mark.parametrize("case", ["batch norm", "accumulation", "double precision", "checkpointed"])
def test_two_processes_train_as_one_with_the_same_batches(clips, one_process, tmp_path, case):
    options = NO_BATCH_NORM if case == "accumulation" else FAIR
    changes = {
        "accumulation": {"accumulate_steps": 2},
        "checkpointed": {"model": FAIR["model"] | {"checkpoint_activations": True}},
    }.get(case, {})
    double = case in {"double precision", "checkpointed"}
    largest = 1e-10 if double else 1e-5
    # In float32, rounding may tip a ReLU or a max pool over, and weights jump by more than that: on one CPU
    # from 1e-6 in step 18 of seed 3 to 2e-5 in step 19, on another not. It will not do so with every seed.
    for seed in (3,) if double else range(3, 8):
        one = one_process(seed=seed, double=double, **options)
        two = work(clips, tmp_path / "two.pt", processes=2, seed=seed, double=double, **options | changes)
        assert one["clip_ids"] == two["clip_ids"]
        assert len(one["losses"]) == 12
        of_weights, of_changes = largest_differences(one, two)
        if max(of_weights.values()) <= largest:
            break
    assert max(of_weights.values()) <= largest, max(of_weights.items(), key=lambda item: item[1])
    assert len(of_changes) > 50
    assert max(of_changes.values()) <= 1e-3, max(of_changes.items(), key=lambda item: item[1])
    if case != "accumulation":
        torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=0)
    # scored before training: every clip once, in order, bit for bit
    assert two["scored"] == one["scored"] == [f"test/{number:03d}" for number in range(NUM_CLIPS)]
    for name in ("logits", "terms", "num_windows"):
        assert two[name] == one[name]


@pytest.mark.parametrize(
    ("terms", "untrained"),
    [({}, ()), ({"gil_loss": False, "lil_loss": False}, ("all_head", "left_out_heads"))],
)
def test_two_processes_train_frames_as_one(clips, one_process, tmp_path, terms, untrained):
    """Three steps: small networks under batch norm multiply rounding by 100 in each."""
    options = {"method": "exposing_deception", "loss": terms, "seed": 3, "double": True}
    options |= {"num_steps": 3, "num_clips": 17}
    one, two = one_process(**options), work(clips, tmp_path / "two.pt", processes=2, **options)
    assert one["clip_ids"] == two["clip_ids"]
    assert two["logits"] == one["logits"]
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-8, atol=0)
    of_weights, _ = largest_differences(one, two)
    assert max(of_weights.values()) <= 1e-6, max(of_weights.items(), key=lambda item: item[1])
    # a head without a loss has no gradient, rather than one of 0, which Adam would let its weights decay by
    assert one["untrained"] == two["untrained"]
    assert {name.split(".")[0] for name in one["untrained"]} == set(untrained)


def test_without_synchronised_batch_norm_the_steps_are_others(clips, one_process, tmp_path):
    options = FAIR | {"seed": 3, "double": False}
    one = one_process(**options)
    two = work(clips, tmp_path / "two.pt", processes=2, sync_batch_norm=False, **options)
    of_weights, _ = largest_differences(one, two)
    assert max(of_weights.values()) > 1e-3


def test_an_error_in_one_process_ends_both_and_says_what_it_was(clips, tmp_path):
    words = ("-m", "tests.e2e.distributed_worker", clips, tmp_path / "x.pt")
    result = torchrun(*words, json.dumps(FAIR | {"fail": [1, 3]}))
    assert result.returncode == 1
    assert "error: the disk: is broken" in result.stderr
    assert not (tmp_path / "x.pt").exists()


@pytest.fixture(scope="module")
def run_dir(prepared_root, tmp_path_factory):
    """A run of train.py in two processes."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    arguments = ("--data_root", prepared_root, "--run_dir", folder, *TINY, "--epochs", "2")
    result = ok(run_processes(2, "train.py", *arguments, "--precision", "fp32", "--accumulate_steps", "2"))
    assert result.stderr.count("epoch 1: train loss") == 1  # only the main process says so
    return folder


def test_a_run_of_two_processes_is_a_run_like_any_other(prepared_root, run_dir, tmp_path):
    assert len(list(csv.DictReader((run_dir / "metrics.csv").open()))) == 2
    assert len(list(run_dir.glob("events.out.tfevents.*"))) == 1
    assert "2 process(es)" in (run_dir / "train.log").read_text()
    moved = shutil.copytree(run_dir, tmp_path / "moved")
    arguments = ("--data_root", prepared_root, "--run_dir", moved, *TINY, "--precision", "fp32")
    ok(run_processes(2, "train.py", *arguments, "--accumulate_steps", "2", "--epochs", "3", "--resume"))
    assert len(list(csv.DictReader((moved / "metrics.csv").open()))) == 3
    ok(run_command("train.py", *arguments, "--accumulate_steps", "2", "--epochs", "4", "--resume"))  # in one
    assert len(list(csv.DictReader((moved / "metrics.csv").open()))) == 4
    # scores of validation are kept by one process of two, and by the only one
    assert load_checkpoint(moved / "best.pt")["decision"]["cross_fit"]["num_epochs"] == 4


def test_two_processes_test_as_one(prepared_root, run_dir, tmp_path):
    arguments = ("--checkpoint", run_dir / "best.pt", "--data_root", prepared_root, "--num_workers", "0",
                 "--batch_size", "5", "--precision", "fp32", "--report", "false",
                 "--trimmed", "both")  # fmt: skip
    one = json.loads(ok(command("test.py", *arguments, "--output_dir", tmp_path / "one")).stdout)
    two = json.loads(ok(run_processes(2, "test.py", *arguments, "--output_dir", tmp_path / "two")).stdout)
    assert {name for name in one if one[name] != two[name]} == {"command"}
    for file in ("predictions.csv", "trimmed/predictions.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_batch_that_cannot_be_shared_out_is_a_clear_error(prepared_root, tmp_path):
    arguments = ("--data_root", prepared_root, "--run_dir", tmp_path / "run", *TINY, "--batch_size", "6")
    result = run_processes(2, "train.py", *arguments, "--accumulate_steps", "2")
    assert result.returncode == 2
    assert "--batch_size 6 cannot be divided" in result.stderr
    assert "a multiple of 4" in result.stderr
    assert not (tmp_path / "run").exists()


def test_perturbing_videos_is_refused_in_several_processes(run_dir, prepared_root):
    arguments = ("--checkpoint", run_dir / "best.pt", "--data_root", prepared_root)
    result = run_processes(2, "test.py", *arguments, "--robustness", "--raw_root", prepared_root)
    assert result.returncode == 2
    assert "--robustness prepares videos in a single process" in result.stderr


def test_the_launcher_starts_a_process_for_each_gpu(prepared_root, tmp_path):
    """From another folder, with a path of its own that has a blank."""
    variables = {
        "DATA_ROOT": str(prepared_root), "RUN_DIR": "my runs/run 1", "DEVICE": "cpu", "GPUS": "2",
        "BATCH_SIZE": "4", "EPOCHS": "1", "FEATURE_DIM": "16",
    }  # fmt: skip
    flags = [word for word in TINY if word not in {"--device", "cpu"}]
    ok(run_launcher(str(ROOT / "run_fakeavceleb.sh"), *flags, cwd=tmp_path, **variables))
    run_dir = tmp_path / "my runs/run 1"
    assert "2 process(es)" in (run_dir / "train.log").read_text()
    assert (run_dir / "predictions.csv").is_file()


def test_mid_epoch_the_order_goes_on_where_it_stopped():
    sampler = TrainingSampler(["all"] * 21, seed=3)
    whole = list(TrainingBatches(sampler, batch_size=4, accumulate_steps=2))
    assert len(whole) == 10
    assert [draw for part in whole for draw in part] == list(sampler)[:20]
    rest = TrainingBatches(sampler, batch_size=4, accumulate_steps=2)
    rest.first_step = 3
    assert (len(rest), list(rest)) == (4, whole[6:])
    with pytest.raises(UsageError, match="a multiple of 3"):
        TrainingBatches(sampler, batch_size=4, accumulate_steps=3)
