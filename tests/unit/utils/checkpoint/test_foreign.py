"""Weights out of other programs' checkpoints: nothing in them is run."""

import collections
import logging
import subprocess
import types

import numpy as np
import pytest
import torch

from utils.checkpoint.files import load_checkpoint
from utils.checkpoint.foreign import read_foreign_weights
from utils.errors import CheckpointError

STATE = {"weight": torch.arange(3.0)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, *words):
        self.words = words

    def __reduce__(self):
        return subprocess.check_call, (self.words,)


@pytest.mark.parametrize("wrapped", [STATE, {"state_dict": STATE}, {"model": STATE, "cfg": {"lr": 1.0}}])
def test_weights_are_found_bare_or_where_lightning_and_fairseq_keep_them(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "x.ckpt")
    assert torch.equal(read_foreign_weights(tmp_path / "x.ckpt")["weight"], STATE["weight"])


class Settings(dict):
    """A dict as configuration packages make them."""


@pytest.mark.parametrize("read", [read_foreign_weights, lambda path: load_checkpoint(path)["released"]])
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("wrapped", "place"),
    [
        (collections.OrderedDict(STATE), ""),
        ({"model_state_dict": STATE, "epoch": 7, "loss": torch.tensor(3.1)}, "'model_state_dict'"),
        ({"net": STATE, "acc": 91.5, "optimizer": OPTIMIZER}, "'net'"),
        ({"detector_weights": STATE, "args": ["--lr", 1]}, "'detector_weights'"),
        ({"checkpoint": {"model": STATE, "step": 3}}, "'checkpoint.model'"),
        ({"rng": {"cpu": torch.ones(2)}, "all": {"net": STATE}}, "'all.net'"),
        ({"ema": {"weight": torch.zeros(3)}, "model": STATE}, "'model' in it; not taken: \"'ema'\""),
        ({"model": {**STATE, "_ema": {"weight": torch.zeros(3)}}, "cfg": {"lr": 1.0}}, "'model' in it\n"),
    ],
)
def test_the_state_dict_is_found_wherever_it_lies_and_named(tmp_path, caplog, wrapped, place, is_zip, read):
    path = tmp_path / "x.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=is_zip)
    with caplog.at_level(logging.INFO):
        assert torch.equal(read(path)["weight"], STATE["weight"])
    assert (f"x.pth: the weights are taken from {place}" in caplog.text) == bool(place)


def test_several_state_dicts_without_a_known_name_are_not_chosen_from(tmp_path):
    torch.save({"generator": STATE, "critic": STATE}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"holds the state_dicts .*'generator', 'critic'.*of its own"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("is_zip", [True, False])
def test_foreign_objects_are_dropped_from_files_of_both_formats(tmp_path, is_zip):
    others = {
        "args": types.SimpleNamespace(lr=1.0),
        "settings": Settings(lr=1.0, more=Settings(depth=3)),
        "history": collections.defaultdict(list, loss=[1.0]),
        "best": np.float64(0.9),
        "callbacks": [Command("touch", str(tmp_path / "touched"))],
    }
    path = tmp_path / "x.pth"
    torch.save({**others, "state_dict": STATE}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match="asks for"):
        load_checkpoint(path)
    assert torch.equal(read_foreign_weights(path)["weight"], STATE["weight"])
    assert not (tmp_path / "touched").exists()


def test_a_whole_model_is_refused_with_what_to_do(tmp_path):
    path, module = tmp_path / "x.pth", torch.nn.Linear(2, 2)
    for save in (
        lambda: torch.save(module, path),
        lambda: torch.save(module, path, _use_new_zipfile_serialization=False),
        lambda: torch.jit.script(module).save(str(path)),
    ):
        save()
        with pytest.raises(CheckpointError, match=r"(linear\.Linear|code).*save .* state_dict"):
            read_foreign_weights(path)


def test_a_checkpoints_objects_are_neither_needed_nor_run(tmp_path):
    config = types.SimpleNamespace(path=tmp_path, nested=[types.SimpleNamespace()])
    command = Command("touch", str(tmp_path / "touched"))
    torch.save({"callbacks": [command], "config": config, "state_dict": STATE}, tmp_path / "x.ckpt")
    assert torch.equal(read_foreign_weights(tmp_path / "x.ckpt")["weight"], STATE["weight"])
    assert not (tmp_path / "touched").exists()
    torch.save(Command("false"), tmp_path / "bad.ckpt")
    with pytest.raises(subprocess.CalledProcessError):  # torch's plain loading does run it
        torch.load(tmp_path / "bad.ckpt", weights_only=False)


def test_weights_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    for value, reason in (
        (torch.tensor([1.0, torch.nan]), "weight holds values that are not finite"),
        (torch.zeros(1).expand(10**6), "holds a tensor that is larger than the file"),
    ):
        torch.save({"state_dict": {"weight": value}}, path)
        with pytest.raises(CheckpointError, match=rf"x\.ckpt: {reason}"):
            read_foreign_weights(path)


def test_what_holds_no_weights_is_named(tmp_path):
    path = tmp_path / "x.ckpt"
    with pytest.raises(CheckpointError, match=r"x\.ckpt: no such checkpoint"):
        read_foreign_weights(path)
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CheckpointError, match=r"x\.ckpt: is damaged"):
        read_foreign_weights(path)
    for content in (
        [1],
        {},
        {"state_dict": {"a": 1}},
        {"format": "beyond-masking-checkpoint-1", "model": STATE},
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"x\.ckpt: is neither .* nor holds a state_dict"):
            read_foreign_weights(path)
