"""train.py --search from end to end: rows and seeds to their page, stops and kills, pruning."""

import csv
import json
import os
import signal
import time

import numpy as np
import pytest

from tests.browser import Opened
from tests.commands import run_command, start_command
from tests.e2e.test_training import TINY
from utils.report.compare import read_predictions
from utils.search.definition import Definition, given_flags
from utils.search.study import Study

FLAGS = (*TINY, "--num_workers", "0", "--save_every_steps", "2", "--precision", "fp32")


pytestmark = pytest.mark.usefixtures("forked_trials")


def words_of(file, root, run_dir, *more):
    return ("train.py", "--search", file, "--data_root", root, "--run_dir", run_dir, *FLAGS, *more)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def wait_until(condition, command):
    end = time.monotonic() + 60
    while not condition():
        assert command.running(), command.wait().stderr
        assert time.monotonic() < end
        time.sleep(0.01)


ROWS = {
    "name": "two rows",
    "about": "Whether <b>positions</b> matter.",
    "base": {"epochs": 2, "dropout": 0.1},
    "rows": [{"name": "with all"}, {"name": "no positions", "positions_first": False}],
    "seeds": [1, 2],
    "test": {"label_rule": "any"},
}


@pytest.fixture(scope="module")
def searched(prepared_root, tmp_path_factory):
    """(folder, log) of a search over two rows and two seeds, with their tests."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    more = ("--epochs", "1", "--search_jobs", "2")
    result = run_command(*words_of(folder / "rows.json", prepared_root, folder / "out", *more))
    assert result.returncode == 0, result.stderr
    return folder / "out", result.stderr


def test_rows_and_seeds_become_a_table(searched):
    folder, log = searched
    rows = rows_of(folder / "search.csv")
    assert [row["trial"] for row in rows] == [
        "with_all_seed_1", "no_positions_seed_1", "with_all_seed_2", "no_positions_seed_2"
    ]  # fmt: skip
    assert {row["state"] for row in rows} == {"complete"}
    assert [row["positions_first"] for row in rows] == ["", "false", "", "false"]
    for row in rows:
        run_dir = folder / "trials" / row["trial"]
        (epoch,) = rows_of(run_dir / "metrics.csv")  # --epochs wins over the base
        assert (row["val_auc"], row["epochs"]) == (epoch["val_auc"], "1")
        train = json.loads((run_dir / "config.json").read_text())["config"]["train"]
        assert str(train["seed"]) == row["seed"]
        metrics = json.loads((run_dir / "test/test_metrics.json").read_text())
        assert float(row["test_auc_fakeavceleb"]) == metrics["overall"]["auc"]
        assert f"--run_dir saved_models/{row['trial']}" in row["command"]
    assert "best by validation: " in log
    begun = (folder / "search.log").read_text()  # a search that is stopped has figures of what was complete
    assert begun.index("with_all_seed_1: is tested") < begun.index("no_positions_seed_2: starts")
    assert "4/4" in log


def test_points_have_paired_differences_over_their_seeds(searched):
    folder, _ = searched
    first, second = rows_of(folder / "points.csv")
    assert first["difference_fakeavceleb"] == ""
    tests = {row["trial"]: float(row["test_auc_fakeavceleb"]) for row in rows_of(folder / "search.csv")}
    by_seed = [tests[f"no_positions_seed_{seed}"] - tests[f"with_all_seed_{seed}"] for seed in (1, 2)]
    assert float(second["difference_fakeavceleb"]) == pytest.approx(np.mean(by_seed), abs=1e-12)
    assert float(second["low_fakeavceleb"]) <= np.mean(by_seed) <= float(second["high_fakeavceleb"])
    assert float(first["val_auc_lowest"]) <= float(first["val_auc_mean"]) <= float(first["val_auc_highest"])
    clips = read_predictions(folder / "trials/with_all_seed_1/test/predictions.csv")
    assert len(set(clips.text["identity"])) == 3


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_shows_what_the_tables_hold(searched, browser, width):
    folder, _ = searched
    with Opened(browser, folder / "search.html", width=width) as opened:
        assert opened.errors == []
        assert opened.ask("document.documentElement.scrollWidth") <= width
        assert opened.ask("document.querySelectorAll('svg.plot').length") == 1
        text = opened.ask("document.body.innerText")
    assert "Whether <b>positions</b> matter." in text
    assert "4 of 4 trials have ended" in text
    assert "Figures on the test split played no part in it" in text
    for row in rows_of(folder / "points.csv"):
        assert f"{float(row['val_auc_mean']):.3f}" in text
    difference = round(float(row["difference_fakeavceleb"]), 3) + 0.0  # no -0.000
    assert f"{difference:+.3f}" in text
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_that_has_ended_runs_nothing_again(searched, prepared_root):
    folder, _ = searched
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*.pt")}
    table = (folder / "search.csv").read_bytes()
    words = words_of(folder.parent / "rows.json", prepared_root, folder, "--epochs", "1")
    result = run_command(*words)
    assert result.returncode == 0, result.stderr
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*.pt")}
    assert (folder / "search.csv").read_bytes() == table
    result = run_command(*words, "--learning_rate", "0.1")
    assert result.returncode == 2
    assert "holds another search (--learning_rate differs)" in result.stderr


def test_a_search_that_is_killed_and_stopped_gives_the_same_table(prepared_root, tmp_path):
    """The unbroken one is run by two processes, which share its trials."""
    file = tmp_path / "grid.json"
    file.write_text(json.dumps({"space": {"dropout": [0.1, 0.4]}, "base": {"epochs": 1}}))
    together = [start_command(*words_of(file, prepared_root, tmp_path / "unbroken")) for _ in range(2)]
    killed = start_command(*words_of(file, prepared_root, tmp_path / "killed"))
    saved = tmp_path / "killed/trials/{}/last.pt"
    first, second = (saved.parent.parent / name / "last.pt" for name in ("point_001", "point_002"))
    wait_until(first.exists, killed)
    killed.signal(signal.SIGKILL)  # its trial outlives it, and is waited for
    killed.wait()
    stopped = start_command(*words_of(file, prepared_root, tmp_path / "killed"))
    wait_until(second.exists, stopped)
    stopped.signal(signal.SIGINT)
    result = stopped.wait()
    assert result.returncode == 130
    assert "stopped; the same command goes on from here" in result.stderr
    assert "Traceback" not in result.stderr
    result = run_command(*words_of(file, prepared_root, tmp_path / "killed"))
    assert result.returncode == 0, result.stderr
    for command in together:
        result = command.wait()
        assert result.returncode == 0, result.stderr
    tables = [(tmp_path / name / "search.csv").read_bytes() for name in ("unbroken", "killed")]
    assert tables[0] == tables[1]
    assert [row["epochs"] for row in rows_of(tmp_path / "killed/search.csv")] == ["1", "1"]


def test_a_hopeless_trial_is_pruned_by_its_validation(prepared_root, tmp_path):
    """After four trials with a validation AUC that no training reaches."""
    file, run_dir = tmp_path / "tpe.json", tmp_path / "out"
    content = {"space": {"dropout": {"low": 0.1, "high": 0.4}}, "sampler": "tpe", "num_trials": 5}
    content |= {"pruning": True, "base": {"epochs": 40, "patience": 0}}
    file.write_text(json.dumps(content))
    run_dir.mkdir()
    given = given_flags(["--data_root", str(prepared_root), *FLAGS])
    study = Study(run_dir, Definition.read(file, given, use_base=True))
    for _ in range(4):
        taken = study.take(())
        for epoch in range(3):
            taken.record.report(1.0, epoch)
        study.tell(taken, {"epochs": 3, "kept_epoch": 0, "val_auc": 1.01}, is_pruned=False)
    result = run_command(*words_of(file, prepared_root, run_dir))
    assert result.returncode == 0, result.stderr
    row = rows_of(run_dir / "search.csv")[4]
    assert row["state"] == "pruned"
    assert 3 <= int(row["epochs"]) < 40
    assert 0.1 <= float(row["dropout"]) <= 0.4
    assert "pruned" in (run_dir / "search.html").read_text()


def test_a_trial_that_fails_is_named_with_its_reason(prepared_root, tmp_path):
    file = tmp_path / "fails.json"
    content = {"rows": [{"name": "fails", "hold_out_method": "unheard_of"}, {"name": "works"}]}
    file.write_text(json.dumps(content))
    result = run_command(*words_of(file, prepared_root, tmp_path / "out", "--epochs", "1"))
    assert result.returncode == 1
    assert "fails failed: exit status 1: error: " in result.stderr
    assert [row["state"] for row in rows_of(tmp_path / "out/search.csv")] == ["failed", "complete"]
    assert "unheard_of" in (tmp_path / "out/search.html").read_text()


def test_a_contradiction_is_found_before_anything_starts(prepared_root, tmp_path):
    file = tmp_path / "heads.json"
    file.write_text(json.dumps({"space": {"transformer_nhead": [1, 3]}}))
    result = run_command(*words_of(file, prepared_root, tmp_path / "out"))
    assert result.returncode == 2
    assert "point_002 (--transformer_nhead 3): feature_dim 16 is not a multiple" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["heads.json"]
