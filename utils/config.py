"""A frozen dataclass beside the code that uses it becomes a group of flags: one place for name, type, default
and help.

    @dataclass(frozen=True, kw_only=True)
    class LossConfig:
        '''losses/x.py: what the group is about.'''
        temperature: float = opt(0.1, "softmax temperature")

`--temperature` is spelled exactly like the field. Values come from, in falling order: the command line,
`--config FILE`, the preset, the default. Unknown flags, keys and types are errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from utils.errors import UsageError
from utils.names import brief, is_plain

Config = TypeVar("Config")
LARGEST_INT = 2**63 - 1  # of what NumPy and torch take


def opt(default: Any, help: str, *, choices: Sequence[str] | None = None) -> Any:
    """A dataclass field that is a flag: its default, what `--help` says of it, and its allowed values."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def _field_type(config_type: type, name: str) -> tuple[type, bool, bool]:
    """(element type, is a tuple, may be None) of a field."""
    hint = typing.get_type_hints(config_type)[name]
    optional = False
    if isinstance(hint, types.UnionType):
        optional = type(None) in hint.__args__
        (hint,) = (arg for arg in hint.__args__ if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True, optional
    return hint, False, optional


def _parse_bool(text: str) -> bool:
    if text.lower() in {"true", "1", "yes", "on"}:
        return True
    if text.lower() in {"false", "0", "no", "off"}:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations whose errors are one line; `--debug` is read by
    utils.errors.run_command.
    """

    def __init__(self, description: str, *configs: type) -> None:
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        for config in configs:
            add_config(self, config)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines, and shows defaults only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""


def add_config(parser: argparse.ArgumentParser, config_type: type) -> None:
    """Add one flag per field. A flag that was not given leaves no trace in the namespace, so that presets can
    fill it.
    """
    group = parser.add_argument_group(
        config_type.__name__, (config_type.__doc__ or "").strip().splitlines()[0]
    )
    for field in dataclasses.fields(config_type):
        element, is_tuple, _ = _field_type(config_type, field.name)
        required = field.default is dataclasses.MISSING
        shown = "required" if required else f"default: {field.default}"
        if isinstance(field.default, tuple):
            shown = f"default: {' '.join(map(str, field.default)) or 'none'}"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "choices": field.metadata.get("choices")}
        options["help"] = f"{field.metadata['help']} ({shown})".replace("%", "%%")
        if not options["choices"]:
            options["metavar"] = element.__name__.upper()
        if element is bool:
            options |= {"type": _parse_bool, "nargs": "?", "const": True, "metavar": "true|false"}
        else:
            options |= {"type": element}
        if is_tuple:
            options["nargs"] = "+"
        group.add_argument(f"--{field.name}", **options)


def _coerce(config_type: type, name: str, value: Any, origin: str) -> Any:
    """`value` as the field's type, or an error that says where the wrong one came from."""
    element, is_tuple, optional = _field_type(config_type, name)

    def one(item: Any) -> Any:
        if isinstance(item, str) and not is_plain(item):
            raise UsageError(
                f"{name} must be UTF-8 without control characters, got {brief(item)} (from {origin})"
            )
        if element is Path and isinstance(item, str):
            return Path(item)
        if isinstance(item, int) and not -LARGEST_INT <= item <= LARGEST_INT:
            raise UsageError(f"{name} must be between {-LARGEST_INT} and {LARGEST_INT} (from {origin})")
        if element is float and isinstance(item, int) and not isinstance(item, bool):
            return float(item)
        if isinstance(item, float) and not math.isfinite(item):
            raise UsageError(f"{name} must be finite, got {item!r} (from {origin})")
        if isinstance(item, element) and not (element is int and isinstance(item, bool)):
            return item
        raise UsageError(f"{name} must be {element.__name__}, got {brief(item)} (from {origin})")

    if value is None and optional:
        return None
    if is_tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{name} must be a list, got {brief(value)} (from {origin})")
        result: Any = tuple(one(item) for item in value)
    else:
        result = one(value)
    choices = next(f for f in dataclasses.fields(config_type) if f.name == name).metadata.get("choices")
    for item in result if is_tuple else (result,):
        if choices and item not in choices:
            raise UsageError(f"{name} must be one of {', '.join(choices)}, got {brief(item)} (from {origin})")
    return result


def from_args(
    config_type: type[Config], args: argparse.Namespace, *layers: tuple[str, Mapping[str, Any]]
) -> Config:
    """Build the config from the flags that were given and `layers` of (origin, values), the strongest first.

    Raises UsageError for a wrong type, a value outside the choices, a missing required field, or a
    `__post_init__` that refuses the combination.
    """
    values: dict[str, Any] = {}
    for origin, layer in reversed([("the command line", vars(args)), *layers]):
        for field in dataclasses.fields(config_type):
            if field.name in layer:
                values[field.name] = _coerce(config_type, field.name, layer[field.name], origin)
    missing = [
        f.name
        for f in dataclasses.fields(config_type)
        if f.default is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        raise UsageError("missing " + ", ".join(f"--{name}" for name in missing) + "; see --help")
    try:
        return config_type(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


def to_plain(config: object) -> dict[str, Any]:
    """The config as JSON-ready values: paths as strings, tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def parse_command(config_type: type[Config], description: str, argv: Sequence[str] | None = None) -> Config:
    """Parse a command whose flags are the fields of one config (plus `--debug`)."""
    parser = Parser(description, config_type)
    args = parser.parse_args(argv)
    del args.debug
    return from_args(config_type, args)
