"""Configuration: a frozen dataclass next to the code that uses it becomes a group of flags.

A field is the only place of a flag's name, type, default and help.

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
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from utils.errors import UsageError
from utils.names import brief, is_plain

Config = TypeVar("Config")
Sections = Mapping[str, Mapping[str, Any]]  # group -> field -> plain value
LARGEST_INT = 2**63 - 1  # of what NumPy and torch take
_HINTS: dict[type[Any], dict[str, Any]] = {}  # which a search asks for in each of hundreds of trials


def opt(default: Any, help: str, *, choices: Sequence[str] | None = None) -> Any:
    """A dataclass field that is a flag: its default, its text in `--help`, and its allowed values."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def require_above(config: Any, bound: float, *names: str) -> None:
    """Raise ValueError, for a config's __post_init__, unless all of these fields are > `bound`."""
    for name in names:
        if not getattr(config, name) > bound:
            raise ValueError(f"{name} must be > {bound}, got {getattr(config, name)}")


def require_at_least(config: Any, bound: float, *names: str) -> None:
    """Raise ValueError, for a config's __post_init__, unless all of these fields are >= `bound`."""
    for name in names:
        if not getattr(config, name) >= bound:
            raise ValueError(f"{name} must be >= {bound}, got {getattr(config, name)}")


def require_between(config: Any, low: float, high: float, *names: str) -> None:
    """Raise ValueError, for a config's __post_init__, unless all of these fields are in [`low`, `high`]."""
    for name in names:
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"{name} must be between {low} and {high}, got {getattr(config, name)}")


def _field_type(config_type: type[Any], name: str) -> tuple[type, bool, bool]:
    """(element type, is a tuple, may be None) of a field."""
    if config_type not in _HINTS:
        _HINTS[config_type] = typing.get_type_hints(config_type)
    hint = _HINTS[config_type][name]
    optional = isinstance(hint, types.UnionType)
    if optional:
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
    """A parser of flag groups: no abbreviations, errors of one line, `--help` for all groups or for one.

    `groups`: name -> dataclass, the main one first. `--debug` is read by utils.errors.run_command.
    """

    def __init__(self, description: str | None, groups: Mapping[str, type[Any]]) -> None:
        super().__init__(
            prog=_program(),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        fields = (field for kind in groups.values() for field in dataclasses.fields(kind))
        required = [f"--{f.name} {f.name.upper()}" for f in fields if f.default is dataclasses.MISSING]
        self.usage = " ".join(["%(prog)s", *required, "[flags]"])
        self.groups = {name: add_config(self, kind, name) for name, kind in groups.items()}
        text = f"show all flags, or those of one group: {', '.join(groups)}"
        self.add_argument("-h", "--help", nargs="?", action=_Help, metavar="GROUP", help=text)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def format_help(self, group: str | None = None) -> str:
        """Usage, then description and all groups, or the one group that is asked for."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        if group is None:
            formatter.add_text(self.description)
        for section in [self.groups[group]] if group else [*self.groups.values(), self._optionals]:
            formatter.start_section(section.title)
            formatter.add_text(section.description)
            formatter.add_arguments(section._group_actions)
            formatter.end_section()
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


class _Help(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values is not None and values not in parser.groups:
            parser.error(f"--help {values}: there are the groups {', '.join(parser.groups)}")
        sys.stdout.write(parser.format_help(values))
        parser.exit()


def _program() -> str:
    """How this process was called: `python train.py`, `python -m preprocess.prepare`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python {sys.argv[0]}" if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def add_config(parser: argparse.ArgumentParser, config_type: type[Any], name: str) -> argparse._ArgumentGroup:
    """Add a group with one flag per field. A flag that is not given is missing from the namespace, so that
    presets can fill it.
    """
    group = parser.add_argument_group(name, (config_type.__doc__ or "").strip().splitlines()[0])
    for field in dataclasses.fields(config_type):
        element, is_tuple, _ = _field_type(config_type, field.name)
        shown = f"default: {field.default}"
        if field.default is dataclasses.MISSING:
            shown = "required"
        elif isinstance(field.default, tuple):
            shown = f"default: {' '.join(map(str, field.default)) or 'none'}"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "type": element}
        options["help"] = f"{field.metadata['help']} ({shown})".replace("%", "%%")
        if choices := field.metadata.get("choices"):
            options["choices"] = choices
        else:
            options["metavar"] = element.__name__.upper()
        if element is bool:
            options |= {"type": _parse_bool, "nargs": "?", "const": True, "metavar": "true|false"}
        if is_tuple:
            options["nargs"] = "+"
        group.add_argument(f"--{field.name}", **options)
    return group


def _coerce(config_type: type[Any], field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the field's type. Raises ValueError that says what it must be."""
    element, is_tuple, optional = _field_type(config_type, field.name)
    choices = field.metadata.get("choices")

    def one(item: Any) -> Any:
        if isinstance(item, str) and not is_plain(item):
            raise ValueError("UTF-8 without control characters")
        if isinstance(item, int) and not -LARGEST_INT <= item <= LARGEST_INT:
            raise ValueError(f"between {-LARGEST_INT} and {LARGEST_INT}")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError("finite")
        if (element, type(item)) in ((Path, str), (float, int)):
            item = element(item)
        if not isinstance(item, element) or (element is int and isinstance(item, bool)):
            raise ValueError(element.__name__)
        if choices and item not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return item

    if value is None and optional:
        return None
    if not is_tuple:
        return one(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list")
    return tuple(one(item) for item in value)


def from_args(
    config_type: type[Config], args: argparse.Namespace, *layers: tuple[str, Mapping[str, Any]]
) -> Config:
    """Build the config from the flags that were given and `layers` of (origin, values), the strongest first.

    Raises UsageError for a wrong type, a value outside the choices, a missing required field, or a
    `__post_init__` that refuses the combination.
    """
    values: dict[str, Any] = {}
    fields = dataclasses.fields(config_type)  # type: ignore[arg-type]  # a dataclass by contract
    for origin, layer in reversed([("the command line", vars(args)), *layers]):
        for field in (field for field in fields if field.name in layer):
            value = layer[field.name]
            try:
                values[field.name] = _coerce(config_type, field, value)
            except ValueError as error:
                raise UsageError(
                    f"{field.name} must be {error}, got {brief(value)} (from {origin})"
                ) from None
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise UsageError("missing " + ", ".join(f"--{name}" for name in missing) + "; see --help")
    try:
        return config_type(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


def to_plain(config: Any) -> dict[str, Any]:
    """The config as JSON-ready values: paths as strings, tuples as lists."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return values


def first_look(argv: Sequence[str] | None, *names: str) -> dict[str, str | None]:
    """Values of the flags on which it depends which flags there are; "true" for one without a value."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", nargs="?", const="true")
    return vars(parser.parse_known_args(argv)[0])


def parse_sections(
    description: str | None,
    groups: Mapping[str, type[Any]],
    *layers: tuple[str, Sections],
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Group name -> config, from the flags and `layers` of (origin, sections), the strongest first.

    Raises UsageError as `from_args` does, and for a flag without effect: a config may have `unused()`, which
    gives the fields that do nothing in this configuration, and why.
    """
    args = Parser(description, groups).parse_args(argv)
    configs: dict[str, Any] = {
        name: from_args(kind, args, *((origin, sections.get(name, {})) for origin, sections in layers))
        for name, kind in groups.items()
    }
    for config in configs.values():
        unused: Mapping[str, str] = config.unused() if hasattr(config, "unused") else {}
        for name, reason in unused.items():
            if name in vars(args) and getattr(args, name) != getattr(type(config), name):
                raise UsageError(f"--{name} has no effect here: {reason}")
    return configs


def parse_groups(
    description: str | None, *config_types: type[Any], argv: Sequence[str] | None = None
) -> list[Any]:
    """Parse a command whose flags are the fields of several configs, the main one first."""
    groups = {kind.__name__.removesuffix("Config").lower(): kind for kind in config_types}
    return list(parse_sections(description, groups, argv=argv).values())


def parse_command(
    config_type: type[Config], description: str | None, argv: Sequence[str] | None = None
) -> Config:
    """Parse a command whose flags are the fields of one config."""
    config: Config = parse_groups(description, config_type, argv=argv)[0]
    return config
