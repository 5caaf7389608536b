"""What a search accepts: every point is checked by train.py's own parser before anything starts."""

import json
import os
from pathlib import Path

import pytest

import train
from utils.errors import UsageError
from utils.search.checks import Checked, differences, elsewhere_of, require_same_search
from utils.search.children import environment_of
from utils.search.definition import Definition, given_flags

ROOT = Path(__file__).resolve().parents[4]
STUDIES = ROOT / "models/beyond_masking/studies"


def define(content, *given, use_base=True):
    words = ["--data_root", str(ROOT), *map(str, given)]
    return Definition(Path("file.json"), content, given_flags(words), use_base=use_base)


def check(content, *given):
    definition = define(content, *given)
    return definition, Checked(definition, train.parse_args).check()


def trials_of(definition):
    return [definition.trial(params, number) for number, params in enumerate(definition.planned())]


def test_a_grid_is_the_product_of_its_values_under_every_seed():
    content = {
        "base": {"epochs": 3, "video_channels": [4, 8]},
        "space": {
            "learning_rate": [1e-3, 0.01],
            "dropout": {"low": 0.1, "high": 0.3, "step": 0.1},
            "audio_channels": [[8, 8, 8]],
        },
        "seeds": [1, 2],
    }
    definition, configs = check(content, "--feature_dim", "32", "--epochs", "5")
    assert len(configs) == len(definition.planned()) == 2 * 3 * 2
    assert [(c["train"]["learning_rate"], c["model"]["dropout"], c["train"]["seed"]) for c in configs] == [
        (rate, dropout, seed) for seed in (1, 2) for rate in (1e-3, 0.01) for dropout in (0.1, 0.2, 0.3)
    ]
    assert {(c["train"]["epochs"], c["model"]["feature_dim"]) for c in configs} == {(5, 32)}
    assert configs[0]["model"]["video_channels"] == [4, 8]
    names = [trial.name for trial in trials_of(definition)]
    assert names[0] == "point_001_seed_1"
    assert names[-1] == "point_006_seed_2"
    assert len(set(names)) == 12


def test_rows_are_configurations_and_may_go_without_a_value_of_the_base():
    rows = [{"name": "all parts"}, {"name": "pooled", "temporal_alignment": False, "stream_layers": None}]
    _, configs = check({"base": {"stream_layers": 1}, "rows": rows})
    assert [c["model"]["stream_layers"] for c in configs] == [1, 2]
    assert [c["model"]["temporal_alignment"] for c in configs] == [True, False]
    definition = define({"base": {"stream_layers": 1}, "rows": rows}, use_base=False)
    assert "stream_layers" not in definition.flags_of(trials_of(definition)[0])


def test_a_head_count_that_does_not_divide_the_width_is_refused_by_the_name_of_its_point():
    content = {"base": {"feature_dim": 128}, "space": {"learning_rate": [1e-3], "transformer_nhead": [2, 3]}}
    with pytest.raises(UsageError, match=r"point_002 \(.*--transformer_nhead 3\): .*128 is not a multiple"):
        check(content)
    content |= {"sampler": "tpe", "num_trials": 2}
    content["space"]["transformer_nhead"] = {"low": 2, "high": 3}
    with pytest.raises(UsageError, match=r"--transformer_nhead 3\): .*128 is not a multiple"):
        check(content)


SPACE = {"space": {"dropout": [0.1, 0.2]}}
ROWS = {"rows": [{"name": "a"}, {"name": "b", "dropout": 0.2}]}


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        ([], (), "must be a JSON object"),
        ({"spaces": {}}, (), "unknown key 'spaces'"),
        ({}, (), 'needs a "space"'),
        ({"space": {"drop_out": [1]}}, (), r"unrecognized arguments: --drop_out"),
        ({"space": {"dropout": ["much"]}}, (), "invalid float value: 'much'"),
        ({"space": {"dropout": [2.0]}}, (), r"point_001 .*dropout must be in \[0, 1\)"),
        ({"space": {"dropout": [0.1, 0.1]}}, (), "names a value twice"),
        ({"space": {"dropout": []}}, (), "must be a list"),
        ({"space": {"dropout": [None]}}, (), "None is not a value"),
        ({"space": {"dropout": {"low": 0.1}}}, (), "must have numbers low and high"),
        (
            {"space": {"dropout": {"low": 0.1, "high": 0.3}}},
            (),
            'a grid takes lists, or ranges with a "step"',
        ),
        ({"space": {"dropout": {"low": 0.3, "high": 0.1, "step": 0.1}}}, (), "space: dropout: "),
        ({"space": {"run_dir": ["x"]}}, (), "'run_dir' is no flag of a trial"),
        ({"space": {"model": ["mrdf --resume"]}}, (), "unknown --model mrdf --resume"),
        ({"base": {"dropout": "--resume"}} | SPACE, (), "base: dropout: '--resume' is not a value"),
        (SPACE | {"sampler": "best"}, (), "sampler must be one of"),
        (SPACE | {"sampler": "tpe"}, (), "needs num_trials"),
        (SPACE | {"sampler": "tpe", "num_trials": 2, "seeds": [1, 2]}, (), "takes one seed"),
        (SPACE | {"num_trials": 2}, (), "num_trials is for"),
        (SPACE | {"seeds": [1, 1]}, (), "seeds must be different integers"),
        (SPACE | {"seeds": [1]}, ("--seed", 3), "give either seeds, or --seed"),
        (SPACE | {"test": {"labels": "any"}}, (), "test: labels is not one of"),
        (SPACE | {"test": {"label_rule": "every"}}, (), "invalid choice: 'every'"),
        (SPACE, ("--dropout", 0.3), "--dropout is what file.json varies"),
        ({"rows": [{"name": "a", "dropout": 0.1}]}, ("--dropout", 0.3), "--dropout is what file.json varies"),
        (SPACE, ("--resume",), "--resume does not go with --search"),
        (SPACE, ("--data_root", "nowhere"), "nowhere: no such folder"),
        (ROWS | SPACE, (), "they do not go with space"),
        (ROWS | {"pruning": True}, (), "pruning ends runs early"),
        ({"rows": [{"name": "a"}, {"name": "a "}]}, (), "another row is called"),
        ({"rows": [{"dropout": 0.1}]}, (), 'must be an object with a "name"'),
        ({"rows": [{"name": "a", "preset": "best"}]}, (), "file.json, a .*unknown --preset best"),
        (
            {"rows": [{"name": "a", "students": "none", "landmark_teacher": "random"}]},
            (),
            "has no effect here",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_reason(content, given, message):
    with pytest.raises(UsageError, match=message):
        check(content, *given)


def test_without_data_a_search_says_so():
    definition = Definition(Path("file.json"), SPACE, {}, use_base=True)
    with pytest.raises(UsageError, match="missing --data_root"):
        Checked(definition, train.parse_args).check()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dfdc"], "takes NAME=ROOT, such as dfdc=prepared/dfdc; got 'dfdc'"),
        (["dfdc=/", "dfdc=/tmp"], "names dfdc twice"),
        (["fakeavceleb=/"], "fakeavceleb: trials are trained on it"),
        (["dfdc=nowhere"], "dfdc=nowhere: no such folder"),
        (["dfcd=/"], "--search_test dfcd: .*invalid choice: 'dfcd'"),
    ],
)
def test_data_sets_elsewhere_are_checked_before_anything_starts(words, message):
    with pytest.raises(UsageError, match=message):
        Checked(define(SPACE | {"test": True}), train.parse_args, elsewhere_of(words)).check()


def test_data_sets_elsewhere_need_a_search_that_tests():
    elsewhere = elsewhere_of(["dfdc=/", "kodf=/"])
    Checked(define(SPACE | {"test": {"label_rule": "any"}}), train.parse_args, elsewhere).check()
    with pytest.raises(UsageError, match='--search_test needs "test" in file.json'):
        Checked(define(SPACE), train.parse_args, elsewhere).check()


def test_a_folder_belongs_to_one_search(tmp_path):
    def require(definition, elsewhere=()):
        require_same_search(tmp_path, Checked(definition, train.parse_args, dict(elsewhere)), ["train.py"])

    space = {"dropout": [0.1, 0.2], "seed": [1, 2]}
    require(define({"space": space}, "--epochs", "3"))
    said = {"space": space, "about": "said better", "test": True}
    again = define(said, "--epochs", "3", "--num_workers", "1")
    require(again, {"dfdc": "/tmp"})
    with pytest.raises(UsageError, match=r"another search \(--epochs, test differs\)"):
        require(define({"space": space}, "--epochs", "4"))
    # the values' order numbers the trials
    turned = {"space": dict(reversed(space.items())), "test": True}
    with pytest.raises(UsageError, match=r"another search \(space differs\)"):
        require(define(turned, "--epochs", "3"))
    require(again, {"dfdc": "/usr"})  # nothing was tested yet
    tested = tmp_path / "trials/point_001/test_elsewhere/dfdc/test_metrics.json"
    tested.parent.mkdir(parents=True)
    tested.touch()
    require(again, {"dfdc": "/usr/../usr", "kodf": "/tmp"})
    with pytest.raises(UsageError, match="--search_test dfdc: trials were tested on /usr, not /tmp"):
        require(again, {"dfdc": "/tmp"})
    (tmp_path / "search.json").write_text("[]")
    with pytest.raises(UsageError, match="is not the record of a search"):
        require(again)
    (tmp_path / "last.pt").touch()
    with pytest.raises(UsageError, match="already holds a run"):
        require(again)
    assert differences({"settings": {}, "definition": {}}, {"settings": {}, "definition": {"seeds": [1]}})


@pytest.mark.parametrize(("name", "rows"), [("ablation", 6), ("deviations", 17)])
@pytest.mark.parametrize("use_base", [True, False])
def test_the_studies_of_beyond_masking_are_configurations(name, rows, use_base):
    given = given_flags(["--data_root", str(ROOT)])
    definition = Definition.read(STUDIES / f"{name}.json", given, use_base=use_base)
    configs = Checked(definition, train.parse_args).check()
    assert len(definition.rows) == rows
    assert len(configs) == 3 * rows
    told_apart = {json.dumps([c[s] for s in ("train", "workers", "data", "model", "loss")]) for c in configs}
    assert len(told_apart) == len(configs)


def test_every_row_of_the_deviations_has_its_released_values():
    """Number by number, against the preset that has all of them at once."""
    given = given_flags(["--data_root", str(ROOT)])
    definition = Definition.read(STUDIES / "deviations.json", given, use_base=False)
    checked = Checked(definition, train.parse_args)
    configs = {trial.point: checked.config(trial) for trial in trials_of(definition)}
    corrected, released = configs.pop("corrected"), configs.pop("released")
    seen = set()
    for config in configs.values():
        changed = {
            (section, flag)
            for section, values in config.items()
            for flag, value in values.items()
            if value != corrected[section][flag]
        }
        assert all(config[section][flag] == released[section][flag] for section, flag in changed)
        assert not seen & changed - {("data", "windows_per_clip")}  # a released window is one per clip
        seen |= changed
    different = {
        (section, flag)
        for section, values in released.items()
        for flag, value in values.items()
        if value != corrected[section][flag]
    }
    assert seen == different - {("train", "preset")}


def test_several_gpus_are_shared_out_and_cores_divided(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    ours = {"CUDA_VISIBLE_DEVICES": "4,7", "PATH": "/bin"}
    gpus = [environment_of(slot, 3, ours)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert gpus == ["4", "7", "4"]
    assert environment_of(0, 3, ours)["OMP_NUM_THREADS"] == "2"
    assert environment_of(0, 1, ours)["CUDA_VISIBLE_DEVICES"] == "4,7"  # one trial at a time may have all
    assert environment_of(0, 3, {"OMP_NUM_THREADS": "5"})["OMP_NUM_THREADS"] == "5"
