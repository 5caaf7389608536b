"""The journal of a search: draws that a restart repeats, trials of dead searches, several processes."""

import multiprocessing
from pathlib import Path

import pytest

import train
from utils.errors import DatasetError
from utils.run.resume import StopRequest
from utils.search.checks import Checked
from utils.search.definition import Definition
from utils.search.loop import Search, curves_of
from utils.search.results import best_of, group, read_outcomes
from utils.search.study import JOURNAL, Study

SPACE = {
    "dropout": {"low": 0.0, "high": 0.5},
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "stream_layers": {"low": 1, "high": 4},
    "optimizer": ["adam", "adamw"],
    "audio_channels": [[8, 8, 8], [4, 4, 4]],
}


def define(**content):
    return Definition(Path("file.json"), content, {}, use_base=True)


def finish(study, taken, value, *, is_pruned=False):
    taken.record.report(value, taken.num_reported)
    study.tell(taken, {"epochs": 1, "kept_epoch": 0, "val_auc": value}, is_pruned=is_pruned)


def values(trial):
    return {name: words[0] for name, words in trial.changes.items()}


def test_a_search_that_dies_goes_on_with_the_draws_of_an_unbroken_one(tmp_path):
    """TPE, past the trials that it draws at random: with the same values, of the trial under way too."""
    definition = define(space=SPACE, sampler="tpe", num_trials=14)
    drawn = {}
    for name, restarts in (("unbroken", False), ("killed", True)):
        (tmp_path / name).mkdir()
        study = Study(tmp_path / name, definition)
        drawn[name] = []
        while taken := study.take(()):
            if restarts:  # as if killed now: the claim goes with the process, the trial stays
                taken.claim.close()
                study = Study(tmp_path / name, definition)
                again = study.take(())
                assert again.trial == taken.trial
                taken = again
            drawn[name].append(taken.trial)
            finish(study, taken, 1 - abs(float(values(taken.trial)["dropout"]) - 0.2))
        assert [record.state.name for record in study.records()] == ["COMPLETE"] * 14
    assert drawn["killed"] == drawn["unbroken"]
    assert len({str(trial.changes) for trial in drawn["killed"]}) == 14
    assert drawn["killed"][0].name == "trial_000"
    later = [float(values(trial)["dropout"]) for trial in drawn["killed"][10:]]
    assert max(abs(value - 0.2) for value in later) < 0.3
    assert {len(trial.changes["audio_channels"]) for trial in drawn["killed"]} == {3}


def test_a_reported_epoch_is_remembered_and_reported_once(tmp_path):
    definition = define(space={"dropout": [0.1]}, sampler="random", num_trials=1)
    study = Study(tmp_path, definition)
    taken = study.take(())
    taken.record.report(0.5, 0)
    taken.claim.close()
    assert study.take({0}) is None
    assert Study(tmp_path, definition).take(()).num_reported == 1


def take_and_wait(folder, definition, connection):
    taken = Study(folder, definition).take(())
    connection.send(taken.trial.name)
    connection.recv()


def test_processes_share_the_trials_and_take_over_those_of_the_dead(tmp_path):
    definition = define(space={"dropout": [0.1, 0.2]})
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=take_and_wait, args=(tmp_path, definition, theirs))
    process.start()
    assert ours.recv() == "point_001"
    study = Study(tmp_path, definition)
    mine = study.take(())
    assert mine.trial.name == "point_002"
    assert study.take({mine.record.number}) is None  # the first is under way elsewhere
    process.kill()
    process.join()
    assert study.take({mine.record.number}).trial.name == "point_001"


def test_a_line_that_was_not_written_whole_is_cut_off(tmp_path):
    definition = define(space={"dropout": [0.1, 0.2]})
    study = Study(tmp_path, definition)
    finish(study, study.take(()), 0.5)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "worker')
    study = Study(tmp_path, definition)
    finish(study, study.take(()), 0.6)
    assert [record.value for record in Study(tmp_path, definition).records()] == [0.5, 0.6]


@pytest.mark.parametrize(
    ("content", "tested"),
    [
        ({"space": {"dropout": [0.1, 0.2]}}, ["point_002_seed_1", "point_002_seed_2"]),
        ({"rows": [{"name": "a"}, {"name": "b"}]}, ["a_seed_1", "b_seed_1", "a_seed_2", "b_seed_2"]),
    ],
)
def test_of_a_space_only_the_best_by_validation_is_tested(tmp_path, content, tested):
    study = Study(tmp_path, define(**content, seeds=[1, 2], test=True))
    for value in (0.6, 0.5, 0.7, 0.9):  # the mean over the seeds decides
        finish(study, study.take(()), value)
    checked = Checked(study.definition, train.parse_args)
    best = best_of(group(read_outcomes(study, checked, {}), checked), num_seeds=2)
    assert best.num_complete == 2
    assert best.values() == [0.5, 0.9]
    search = Search(study, checked, Path(), 1, StopRequest())
    assert [trial.name for trial in search.to_test(best.name)] == tested


@pytest.mark.parametrize("pruning", [True, False])
def test_a_trial_below_the_median_of_the_others_is_hopeless(tmp_path, pruning):
    study = Study(tmp_path, define(space=SPACE, sampler="random", num_trials=6, pruning=pruning))
    for _ in range(4):
        taken = study.take(())
        for epoch in range(3):
            taken.record.report(0.9, epoch)
        study.tell(taken, {"epochs": 3, "kept_epoch": 0, "val_auc": 0.9}, is_pruned=False)
    taken, hopeless = study.take(()), []
    for epoch in range(3):
        taken.record.report(0.4, epoch)
        hopeless.append(taken.record.should_prune())
    assert hopeless == [False, False, pruning]
    study.tell(taken, {"epochs": 3, "kept_epoch": 0, "val_auc": 0.4}, is_pruned=pruning)
    assert study.records()[4].state.name == ("PRUNED" if pruning else "COMPLETE")


def test_trials_without_fakes_cannot_be_compared(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,val_loss\n0,0.5\n")
    with pytest.raises(DatasetError, match="has no validation AUC, by which a search compares trials"):
        curves_of(tmp_path)
