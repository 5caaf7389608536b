"""Weights out of other programs' checkpoints: nothing in them is run."""

import subprocess
import types

import pytest
import torch

from utils.checkpoint.foreign import read_foreign_weights
from utils.errors import CheckpointError

STATE = {"weight": torch.arange(3.0)}


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
        with pytest.raises(CheckpointError, match=r"x\.ckpt: holds no state_dict"):
            read_foreign_weights(path)
