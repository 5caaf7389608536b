"""Checkpoints: whole or refused, whoever wrote them, and the folder of a run, which one run has at a time."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models import MODELS
from models.restore import restore_model
from tests.commands import ROOT, run_command
from utils.checkpoint.export import write_export
from utils.checkpoint.files import (
    content_checksum,
    load_checkpoint,
    newest_checkpoint,
    require_no_bomb,
    save_checkpoint,
)
from utils.config import to_plain
from utils.errors import CheckpointError, UsageError
from utils.files import WriteError, locked_folder, older_version, write_atomically, write_text

STATE = {
    "model": {"weight": torch.arange(2000.0).reshape(40, 50), "count": torch.tensor(3)},
    "config": {"train": {"model": "beyond_masking", "seed": 1}},
    "split_checksums": {"fakeavceleb": "abc"},
    "optimizer": {"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    return path


def refused(path: Path) -> str:
    """Why a checkpoint is not loaded."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def in_child(source: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run Python source in a process of its own, in the project's folder."""
    words = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_what_was_saved_is_what_is_read(checkpoint):
    content = load_checkpoint(checkpoint)
    assert {name: content[name] for name in ("config", "split_checksums")} == {
        name: STATE[name] for name in ("config", "split_checksums")
    }
    assert content_checksum({name: content[name] for name in STATE}) == content_checksum(STATE)
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["last.pt"]


def test_every_flipped_byte_is_found_unless_it_means_nothing(checkpoint):
    whole = checkpoint.read_bytes()
    num_refused = 0
    for place in range(40, len(whole), len(whole) // 150):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        checkpoint.write_bytes(damaged)
        try:
            content = load_checkpoint(checkpoint)
        except CheckpointError:
            num_refused += 1
        else:  # padding, or what zip says twice
            assert content_checksum({name: content[name] for name in STATE}) == content_checksum(STATE)
    assert num_refused > 75


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(checkpoint, share):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in refused(checkpoint)


class _Command:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_code_in_a_checkpoint_does_not_run_and_is_named(tmp_path):
    for name, write in (("zip", torch.save), ("old", lambda obj, path: path.write_bytes(pickle.dumps(obj)))):
        path, target = tmp_path / f"{name}.pt", tmp_path / f"{name}_ran"
        write({**STATE, "format": _Command(target)}, path)
        reason = refused(path)
        assert not target.exists()
        assert "damaged, or holds more than" in reason or "asks for posix.system" in reason
    torch.save(torch.nn.Linear(2, 2), path)
    assert "asks for torch.nn.modules.linear.Linear" in refused(path)


def test_a_file_that_grows_when_it_is_read_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    save_checkpoint(path, {**STATE, "model": {"weight": torch.zeros(3_000_000)}})
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    assert path.stat().st_size < 100_000
    assert "compressed" in refused(path)
    torch.save({"weight": torch.zeros(1).expand(1 << 40)}, path)
    assert "larger than the file" in refused(path)
    torch.save({"weight": torch.zeros(1 << 10).as_strided((1 << 20,), (0,))}, path)
    assert "larger than the file" in refused(path)
    lists: list = [1]
    for _ in range(40):
        lists = [lists, lists]
    torch.save({**STATE, "format": "beyond-masking-checkpoint-1", "more": lists}, path)
    assert "damaged, or holds more" in refused(path)


def test_not_many_more_values_are_looked_through_than_a_file_has_bytes(tmp_path):
    (tmp_path / "small.pt").write_bytes(bytes(100))
    require_no_bomb(tmp_path / "small.pt", [0] * 100)
    with pytest.raises(ValueError, match="more values than any checkpoint has"):
        require_no_bomb(tmp_path / "small.pt", [[0] * 100] * 100)


def test_numbers_that_are_not_finite_and_things_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    for value in (float("nan"), float("inf")):
        save_checkpoint(path, {**STATE, "model": {"weight": torch.tensor([1.0, value])}})
        assert "weight holds values that are not finite" in refused(path)
    torch.save({"weight": torch.tensor([float("nan")])}, path)
    assert "not finite" in refused(path)
    for model in ([torch.zeros(1)], {"weight": 3}, None):
        save_checkpoint(path, {**STATE, "model": model})
        assert "not a dict of Tensor" in refused(path)
    save_checkpoint(path, {**STATE, "config": ["x"]})
    assert "config" in refused(path)
    for content in ({}, [torch.zeros(1)], {"a": 1}, torch.zeros(3)):
        torch.save(content, path)
        assert "neither a checkpoint" in refused(path)


def small_detector() -> tuple[torch.nn.Module, dict]:
    model_type = MODELS["beyond_masking"]
    config = model_type.config_type(
        image_size=16, video_channels=(4, 4, 8), audio_channels=(8, 8, 8), feature_dim=16,
        feedforward_dim=16, classifier_hidden_dim=16,
    )  # fmt: skip
    sections = {"train": {"model": "beyond_masking", "preset": "corrected", "seed": 1, "dataset": ["kodf"],
                          "run_dir": "/home/somebody/run", "data_root": ["/home/somebody/data"],
                          "select_by": "val_auc"},
                "model": to_plain(config), "data": {"window_s": 2.4, "video_fps": 25.0}}  # fmt: skip
    return model_type(config), sections


def test_weights_of_another_shape_are_refused(tmp_path):
    model, config = small_detector()
    state = model.state_dict()
    name = next(name for name, value in state.items() if value.dim() > 1)
    for wrong in (state | {name: state[name][:-1]}, {k: v for k, v in state.items() if k != name}):
        content = {**STATE, "config": config, "model": wrong}
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            restore_model(content, tmp_path / "x.pt")


def test_an_export_holds_the_same_model_and_says_what_it_is(tmp_path):
    model, config = small_detector()
    validation = {"auc": 0.91, "ap": 0.9, "eer": 0.1, "num_real": 5, "num_fake": 7}
    state = {**STATE, "config": config, "model": model.state_dict(), "epoch": 4, "val": validation}
    save_checkpoint(tmp_path / "best.pt", state)
    target = tmp_path / "out" / "model.safetensors"
    result = run_command("-m", "utils.checkpoint", "export", tmp_path / "best.pt", target)
    assert result.returncode == 0, result.stderr
    card = (tmp_path / "out" / "model.md").read_text()
    assert "5 real, 7 fake" in card
    assert "0.9100" in card
    content = load_checkpoint(target)
    restored = restore_model(content, target).state_dict()
    assert all(torch.equal(restored[name], value) for name, value in model.state_dict().items())
    assert content["epoch"] == 4
    assert "somebody" not in card + target.read_bytes()[:20_000].decode("latin-1")
    damaged = target.read_bytes()
    target.write_bytes(damaged[:-100])
    assert "damaged" in refused(target)
    save_file({"weight": torch.zeros(2)}, target)
    assert load_checkpoint(target) == {"released": {"weight": pytest.approx(torch.zeros(2))}}
    save_file({"weight": torch.zeros(2)}, target, {"about": json.dumps({"format": "something else"})})
    assert "neither" in refused(target)
    with pytest.raises(CheckpointError, match="bare state_dict"):
        write_export({"released": {}}, tmp_path / "x.pt", target)


def test_older_versions_stay_and_the_newest_whole_one_is_used(tmp_path, caplog):
    path = tmp_path / "last.pt"
    assert newest_checkpoint(path) is None
    for epoch in range(4):
        save_checkpoint(path, {**STATE, "epoch": epoch}, keep_older=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.1.pt", "last.2.pt", "last.pt"]
    assert newest_checkpoint(path)[1]["epoch"] == 3
    path.write_bytes(path.read_bytes()[:-500])
    version, content = newest_checkpoint(path)
    assert (version.name, content["epoch"]) == ("last.1.pt", 2)
    assert "last.pt: is damaged" in caplog.text
    assert "last.1.pt is used instead" in caplog.text
    path.unlink()  # killed between two renamings
    assert newest_checkpoint(path)[1]["epoch"] == 2
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.1\.pt.*last\.2\.pt"):
        newest_checkpoint(path)


@pytest.mark.parametrize("is_damaged", [True, False])
def test_a_gap_does_not_hide_older_versions(tmp_path, is_damaged):
    path = tmp_path / "last.pt"
    for epoch in range(12):
        save_checkpoint(path, {**STATE, "epoch": epoch}, keep_older=11)
    for number in (1, 3, 4, 5, 6, 7, 8, 9):
        older_version(path, number).unlink()
    for name in ("last.x.pt", "last.02.pt", "lastly.2.pt", "best.pt"):  # not versions of it
        (tmp_path / name).write_bytes(b"")
    path.write_bytes(b"half") if is_damaged else path.unlink()
    version, content = newest_checkpoint(path)
    assert (version.name, content["epoch"]) == ("last.2.pt", 9)
    version.unlink()
    assert newest_checkpoint(path)[0].name == "last.10.pt"  # by number, not by name


def test_a_full_disk_is_an_error_and_leaves_the_checkpoint_before_it(checkpoint):
    before = checkpoint.read_bytes()
    source = """
import resource, sys, torch
from pathlib import Path
from utils.checkpoint.files import save_checkpoint
from utils.errors import run_command
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
state = {"model": {"weight": torch.zeros(1_000_000)}, "config": {}, "split_checksums": {}}
run_command(lambda: save_checkpoint(Path(sys.argv[1]), state, keep_older=1))
"""
    result = in_child(source, checkpoint)
    assert result.returncode == 1
    assert "cannot be written (File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.pt"]
    assert checkpoint.read_bytes() == before


def test_a_full_disk_stops_what_writes_text_too(tmp_path):
    write_text(tmp_path / "metrics.csv", "before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WriteError, match="File too large"):
            write_text(tmp_path / "metrics.csv", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "metrics.csv").read_text() == "before"


def test_a_writer_that_is_killed_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    source = """
import os, signal, sys
from pathlib import Path
from utils.files import write_atomically

def write(target):
    target.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(Path(sys.argv[1]), write)
"""
    assert in_child(source, path).returncode == -signal.SIGKILL
    assert path.read_text() == "before"
    assert {file.name for file in tmp_path.iterdir()} == {"file.txt", "file.txt.partial"}
    with locked_folder(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == {"file.txt", ".lock"}


def test_older_versions_of_any_file(tmp_path):
    path = tmp_path / "a.csv"
    for text in ("1", "2", "3"):
        write_atomically(path, lambda partial, text=text: partial.write_text(text), keep_older=1)
    assert path.read_text() == "3"
    assert older_version(path, 1).read_text() == "2"
    assert not older_version(path, 2).exists()


def test_a_folder_has_one_owner_until_it_dies(tmp_path):
    source = """
import sys, time
from pathlib import Path
from utils.files import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""
    words = [sys.executable, "-c", source, tmp_path]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match=f"in use by process {owner.pid} "), locked_folder(tmp_path):
            pass
        owner.kill()
    with locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        pass
