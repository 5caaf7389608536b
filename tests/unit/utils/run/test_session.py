"""What a run does with best.pt when its epochs are done."""

from types import SimpleNamespace

import torch

from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.run.session import Run


def test_the_best_checkpoint_is_amended_once_all_epochs_are_done(tmp_path, caplog):
    path = tmp_path / "best.pt"
    state = {"model": {"w": torch.ones(3)}, "config": {}, "split_checksums": {}, "epoch": 1}
    save_checkpoint(path, state | {"decision": {"cross_fit": "no"}})
    before = path.read_bytes()
    run, stopped = (
        SimpleNamespace(run_dir=tmp_path, request=SimpleNamespace(heard=lambda number=number: number))
        for number in (0, 15)
    )
    Run.amend_best(stopped, lambda content: {"decision": {}})  # a signal leaves no time for it
    Run.amend_best(run, lambda content: {"decision": content["decision"]})  # nothing to change
    assert path.read_bytes() == before
    Run.amend_best(run, lambda content: {"decision": {"cross_fit": content["epoch"]}})
    content = load_checkpoint(path)
    assert content["decision"] == {"cross_fit": 1}
    assert content["model"]["w"].tolist() == [1, 1, 1]
    path.write_bytes(before[:100])
    Run.amend_best(run, lambda content: {})
    assert "best.pt" in caplog.text
    path.unlink()
    Run.amend_best(run, lambda content: {})
    assert not path.exists()
