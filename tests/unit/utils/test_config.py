import argparse
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import pytest

import train
from losses import LOSSES
from models import MODELS
from utils.config import add_config, from_args, opt, parse_command, parse_groups, to_plain
from utils.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Example:
    """test_config.py: an example."""

    rate: float = opt(0.5, "a rate, 50% by default")
    flag: bool = opt(False, "a flag")
    widths: tuple[int, ...] = opt((1, 2), "widths")
    path: Path | None = opt(None, "a path")
    kind: str = opt("a", "a kind", choices=("a", "b"))

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must be >= 0, got {self.rate}")


def test_flags_are_the_fields():
    config = parse_command(
        Example, "", ["--rate", "2", "--flag", "--widths", "3", "4", "5", "--path", "x", "--kind", "b"]
    )
    assert config == Example(rate=2.0, flag=True, widths=(3, 4, 5), path=Path("x"), kind="b")


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset():
    parser = argparse.ArgumentParser()
    add_config(parser, Example, "example")
    args = parser.parse_args(["--rate", "3"])
    config = from_args(
        Example, args, ("file", {"rate": 1.0, "kind": "b"}), ("preset", {"kind": "a", "flag": True})
    )
    assert (config.rate, config.kind, config.flag) == (3.0, "b", True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "fast"}, "rate must be float"),
        ({"flag": 1}, "flag must be bool"),
        ({"kind": "c"}, "one of a, b"),
        ({"widths": [1, "2"]}, "widths must be int"),
        ({"rate": -1.0}, "rate must be >= 0"),
    ],
)
def test_a_wrong_value_in_a_file_is_refused_by_name(values, message):
    with pytest.raises(UsageError, match=message):
        from_args(Example, argparse.Namespace(), ("config.json", values))


def test_plain_values_rebuild_the_config():
    config = Example(widths=(7,), path=Path("a/b"))
    assert from_args(Example, argparse.Namespace(), ("json", to_plain(config))) == config


def test_an_unknown_flag_is_an_error():
    with pytest.raises(SystemExit) as error:
        train.parse_args(["--data_root", ".", "--learnin_rate", "1"])
    assert error.value.code == 2


def test_a_flag_without_effect_is_an_error():
    with pytest.raises(UsageError, match="teacher_momentum has no effect"):
        train.parse_args(["--landmark_teacher", "random", "--teacher_momentum", "0.9"])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_presets_name_fields_that_exist_and_no_two_groups_share_one(name):
    groups = {
        "train": train.TrainConfig,
        "loop": train.LoopConfig,
        "workers": train.WorkerConfig,
        "data": train.DataConfig,
        "listing": train.ListingConfig,
        "split": train.SplitConfig,
        "model": MODELS[name].config_type,
        "loss": LOSSES[name].config_type,
    }
    names = [field.name for group in groups.values() for field in fields(group)]
    assert len(names) == len(set(names))
    for preset in MODELS[name].presets.values():
        for group, values in preset.items():
            kinds = [groups[group], *([groups["loop"]] if group == "train" else [])]
            assert values.keys() <= {field.name for kind in kinds for field in fields(kind)}


def test_the_released_preset_reaches_every_group():
    config = train.parse_args(["--preset", "released"])
    assert (config.loop.optimizer, config.loop.select_by, config.loop.precision) == (
        "adam",
        "val_loss",
        "fp32",
    )
    assert (config.model.landmark_teacher, config.model.mfcc_columns) == ("random", 600)
    assert (config.loss.lbd_reduction, config.data.window, config.data.label_rule) == (
        "sum",
        "released",
        "video",
    )


def test_an_explicit_flag_wins_over_the_preset():
    assert train.parse_args(["--preset", "released", "--optimizer", "adamw"]).loop.optimizer == "adamw"


def test_several_groups_become_several_configs():
    example, plan = parse_groups("", Example, Other, argv=["--rate", "2", "--size", "3"])
    assert (example, plan) == (Example(rate=2.0), Other(size=3))


@dataclass(frozen=True, kw_only=True)
class Other:
    """test_config.py: another group."""

    size: int = opt(MISSING, "a size")


def test_help_begins_with_one_line_of_usage_and_the_main_group(capsys):
    with pytest.raises(SystemExit) as end:
        parse_groups("What it does.", Other, Example, argv=["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    usage, blank, about = text.split("\n")[:3]
    assert usage.endswith("--size SIZE [flags]")
    assert (blank, about) == ("", "What it does.")
    assert text.index("other:") < text.index("example:") < text.index("--debug")


def test_help_of_one_group_shows_its_flags_alone(capsys):
    with pytest.raises(SystemExit):
        parse_groups("What it does.", Other, Example, argv=["--help", "example"])
    text = capsys.readouterr().out
    assert "--rate" in text
    assert "--size INT" not in text
    assert "What it does" not in text


def test_help_of_an_unknown_group_names_the_groups(capsys):
    with pytest.raises(SystemExit) as end:
        parse_groups("", Other, Example, argv=["--help", "others"])
    assert end.value.code == 2
    assert "there are the groups other, example" in capsys.readouterr().err
