"""What a search is: FILE.json and the flags next to --search, as trials with names."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from utils.errors import UsageError
from utils.names import brief, is_plain, parse_json

Flags = dict[str, tuple[str, ...]]  # flag -> the words that follow it on a command line
Range = IntDistribution | FloatDistribution
Changes = dict[str, tuple[str, ...] | None]  # the same; None: without the base's value
KEYS = ("name", "about", "base", "sampler", "space", "rows", "seeds", "num_trials", "pruning", "test")
DRAWN = ("random", "tpe")  # samplers that draw trials one by one
SAMPLERS = ("grid", *DRAWN)
# each trial has its own, or they belong to the search
NOT_SEARCHED = {"run_dir", "resume", "config", "print_config", "help", "debug"}
NOT_SEARCHED |= {"search", "search_jobs", "search_test", "search_base", "row"}
MAX_CORNERS = 2000  # combinations of a random or tpe search that are checked before it starts
MAX_PLANNED = 100_000


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a search."""

    name: str  # of its folder
    point: str  # what it shares with its repetitions under other seeds: a row's name, or point_003
    changes: Changes  # flags that set it apart: the point's, and the seed


def words_of(flags: Mapping[str, Sequence[str]]) -> list[str]:
    """Flags as the words of a command line."""
    return [word for name, words in flags.items() for word in (f"--{name}", *words)]


def given_flags(words: Sequence[str]) -> Flags:
    """The words of a command line as flags. Raises UsageError for a word that belongs to no flag."""
    found: Flags = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            found[name] = (value,) if equals else ()
        elif not name:
            raise UsageError(f"{brief(word)} belongs to no flag; see --search --help")
        else:
            found[name] += (word,)
    return found


def as_words(value: Any) -> tuple[str, ...]:
    """A JSON value as the words after its flag. Raises ValueError if it is not one or a list of them."""
    words = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool):
            words.append(str(item).lower())
        elif isinstance(item, int | float) or (
            isinstance(item, str) and is_plain(item) and item and not item.startswith("-")
        ):
            words.append(str(item))
        else:
            raise ValueError(f"{brief(item)} is not a value of a flag")
    if not words:
        raise ValueError("an empty list is not a value of a flag")
    return tuple(words)


def _choice(value: Any) -> Any:
    """A value as Optuna stores it: lists as JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def _words_of_choice(choice: Any) -> tuple[str, ...]:
    return as_words(json.loads(choice) if isinstance(choice, str) and choice.startswith("[") else choice)


class Definition:
    """A search, checked but for the values of its flags, which train.py's own parser checks.

    Raises UsageError, naming the file and what is wrong in it. `given`: flags of the command line, which win
    over the file's "base".
    """

    def __init__(self, path: Path, content: Any, given: Flags, *, use_base: bool) -> None:
        self.path = path
        if not isinstance(content, dict):
            raise UsageError(f"{path}: must be a JSON object with some of the keys {', '.join(KEYS)}")
        self.content: dict[str, Any] = content
        if unknown := content.keys() - set(KEYS):
            raise self._error(f"unknown key {', '.join(map(brief, sorted(unknown)))}")
        self.name = self._get("name", str, path.stem)
        self.about = self._get("about", str, "")
        self.pruning = self._get("pruning", bool, False)
        self.seeds = tuple(self._get("seeds", list, []))
        if not all(type(seed) is int for seed in self.seeds) or len(set(self.seeds)) != len(self.seeds):
            raise self._error(f"seeds must be different integers, got {brief(list(self.seeds))}")
        base = self._flags(self._get("base", dict, {}), "base") if use_base else {}
        self.settings: Flags = {**base, **given}
        self.test = self._test()
        self.rows = self._rows()
        self.space: dict[str, list[Any] | Range] = {}
        self.kind = "rows"
        if not self.rows:
            self.kind = self._get("sampler", str, "grid")
            self.space = {name: self._values(name, value) for name, value in self._space().items()}
        self.num_trials = self._get("num_trials", int, 0)
        self._require_fitting(given)

    @classmethod
    def read(cls, path: Path, given: Flags, *, use_base: bool) -> Definition:
        """The search of a file. Raises UsageError if it cannot be read."""
        try:
            content = parse_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UsageError(f"{path}: is not JSON ({error})") from error
        return cls(path, content, given, use_base=use_base)

    @property
    def searched(self) -> list[str]:
        """The flags in which trials differ, seeds aside."""
        return list(dict.fromkeys((*self.space, *(name for row in self.rows.values() for name in row))))

    @property
    def parameters(self) -> dict[str, CategoricalDistribution | Range]:
        """What Optuna sees: "seed"; and the searched flags, or "row".

        The seed first, so that a search that is stopped has compared all points under its first seeds.
        """
        found: dict[str, CategoricalDistribution | Range] = {}
        if self.seeds:
            found["seed"] = CategoricalDistribution(self.seeds)
        if self.rows:
            found["row"] = CategoricalDistribution(list(self.rows))
        for name, values in self.space.items():
            if isinstance(values, list):
                found[name] = CategoricalDistribution(list(map(_choice, values)))
            else:
                found[name] = values
        return found

    def planned(self) -> list[dict[str, Any]]:
        """The parameters of all trials of a grid or of rows, in their order; none for other samplers."""
        return [] if self.kind in DRAWN else list(self._combinations())

    def corners(self) -> Iterator[dict[str, Any]]:
        """The parameters of a random or tpe search at its edges: listed values and ends of ranges, in all
        combinations or in MAX_CORNERS of them, drawn at random.
        """
        values = self._edges()
        if math.prod(map(len, values.values())) <= MAX_CORNERS:
            yield from self._combinations()
            return
        draw = random.Random(0)
        for _ in range(MAX_CORNERS):
            yield {name: draw.choice(several) for name, several in values.items()}

    def trial(self, params: Mapping[str, Any], number: int) -> Trial:
        """The trial of these parameters, number `number` of a random or tpe search."""
        changes: Changes = {name: _words_of_choice(value) for name, value in params.items() if name != "row"}
        if self.kind in DRAWN:
            point = f"trial_{number:03d}"
            return Trial(name=point, point=point, changes=changes)
        point = params["row"] if self.rows else f"point_{self._number_of(params):03d}"
        if self.rows:
            changes = {**self.rows[point], **changes}
        seed = f"_seed_{params['seed']}" if self.seeds else ""
        return Trial(name=folder_name(point) + seed, point=point, changes=changes)

    def flags_of(self, trial: Trial) -> Flags:
        """All flags of a trial's training but its --run_dir."""
        merged = {**self.settings, **trial.changes}
        return {name: words for name, words in merged.items() if words is not None}

    def _edges(self) -> dict[str, Sequence[Any]]:
        """The listed values and the ends of the range of each parameter."""
        return {
            name: found.choices if isinstance(found, CategoricalDistribution) else (found.low, found.high)
            for name, found in self.parameters.items()
        }

    def _combinations(self) -> Iterator[dict[str, Any]]:
        values = self._edges()
        return (dict(zip(values, row, strict=True)) for row in itertools.product(*values.values()))

    def _number_of(self, params: Mapping[str, Any]) -> int:
        """The number of a grid's point, from 1, the last flag changing fastest."""
        number = 0
        for name, values in self.space.items():
            assert isinstance(values, list)
            number = number * len(values) + list(map(_choice, values)).index(params[name])
        return number + 1

    def _error(self, text: str) -> UsageError:
        return UsageError(f"{self.path}: {text}")

    def _get(self, key: str, kind: type, default: Any) -> Any:
        value = self.content.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._error(f"{key} must be of type {kind.__name__}, got {brief(value)}")
        return value

    def _flags(self, values: Mapping[str, Any], where: str) -> Flags:
        found = {}
        for name, value in values.items():
            self._require_searchable(name, where)
            try:
                found[name] = as_words(value)
            except ValueError as error:
                raise self._error(f"{where}: {name}: {error}") from error
        return found

    def _require_searchable(self, name: str, where: str) -> None:
        if name in NOT_SEARCHED or not re.fullmatch(r"\w+", name):
            raise self._error(f"{where}: {brief(name)} is no flag of a trial")

    def _test(self) -> Flags | None:
        """Flags of test.py; None if nothing is tested."""
        test = self.content.get("test", False)
        if isinstance(test, bool):
            return {} if test else None
        if not isinstance(test, dict):
            raise self._error(f"test must be true, false or flags of test.py, got {brief(test)}")
        return self._flags(test, "test")

    def _rows(self) -> dict[str, Changes]:
        """{name: flags} of the named configurations."""
        rows: dict[str, Changes] = {}
        for number, row in enumerate(self._get("rows", list, []), 1):
            name = row.get("name") if isinstance(row, dict) else None
            if not isinstance(name, str) or not is_plain(name) or not folder_name(name):
                raise self._error(f'row {number} must be an object with a "name", got {brief(row)}')
            if folder_name(name) in map(folder_name, rows):
                raise self._error(f"row {number}: another row is called {brief(name)}, or nearly so")
            flags = {key: value for key, value in row.items() if key != "name"}
            given = self._flags({k: v for k, v in flags.items() if v is not None}, f"row {brief(name)}")
            rows[name] = {key: given.get(key) for key in flags}
        return rows

    def _space(self) -> dict[str, Any]:
        space: dict[str, Any] = self._get("space", dict, {})
        if not space:
            raise self._error('needs a "space" of flags to search, or "rows" to compare')
        if self.kind not in SAMPLERS:
            raise self._error(f"sampler must be one of {', '.join(SAMPLERS)}, got {brief(self.kind)}")
        return space

    def _values(self, name: str, values: Any) -> list[Any] | Range:
        """The values of a searched flag: a list, or a range (of a grid as a list)."""
        self._require_searchable(name, "space")
        try:
            if isinstance(values, dict):
                found = as_range(values)
                return steps_of(found) if self.kind == "grid" else found
            if not isinstance(values, list) or not values:
                raise ValueError(f"must be a list, or a range with low and high, got {brief(values)}")
            choices = [_choice(value) for value in values]
            words = list(map(_words_of_choice, choices))
            if len(set(words)) != len(words) or len(set(choices)) != len(choices):
                raise ValueError(f"names a value twice: {brief(values)}")
            return values
        except ValueError as error:
            raise self._error(f"space: {name}: {error}") from error

    def _require_fitting(self, given: Flags) -> None:
        """Raise UsageError for parts of the search that do not go together."""
        if self.rows and (key := next((k for k in ("space", "sampler") if k in self.content), None)):
            raise self._error(f"rows are run as they are: they do not go with {key}")
        if self.kind in DRAWN and self.num_trials < 1:
            raise self._error(f"sampler {self.kind} needs num_trials, at least 1")
        if self.kind in DRAWN and len(self.seeds) > 1:
            raise self._error(f"sampler {self.kind} takes one seed")
        if self.kind not in DRAWN and "num_trials" in self.content:
            raise self._error("num_trials is for the samplers random and tpe: a grid and rows are run whole")
        if self.pruning and (self.rows or len(self.seeds) > 1):
            raise self._error("pruning ends runs early: it goes with a space and one seed, not with means")
        if self.seeds and "seed" in (*self.searched, *self.settings):
            raise self._error("seed: give either seeds, or --seed for all trials")
        # what rows leave out may be given to the others, as a checkpoint that only the command knows
        changed = {name for row in self.rows.values() for name, words in row.items() if words is not None}
        if both := (self.space.keys() | changed) & given.keys():
            raise UsageError(f"--{sorted(both)[0]} is what {self.path} varies: it cannot be given next to it")
        if forbidden := NOT_SEARCHED & given.keys():
            raise UsageError(f"--{sorted(forbidden)[0]} does not go with --search")
        if math.prod(map(len, self._edges().values())) > MAX_PLANNED and self.kind not in DRAWN:
            raise self._error(f"has more than {MAX_PLANNED} points: use the sampler random or tpe")


def folder_name(name: str) -> str:
    """A row's name as the name of a folder."""
    return re.sub(r"[^\w.+=-]+", "_", name).strip("._")


def as_range(values: Mapping[str, Any]) -> Range:
    """{"low", "high", "log", "step"} as a range of integers, if all of its numbers are, or of floats.

    Raises ValueError for other values.
    """
    numbers = [values[key] for key in ("low", "high", "step") if key in values]
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
    log = values.get("log", False)
    known = values.keys() <= {"low", "high", "log", "step"} and {"low", "high"} <= values.keys()
    if not known or not is_number or not isinstance(log, bool):
        raise ValueError(f'must have numbers low and high, maybe step, or "log": true; got {brief(values)}')
    if all(isinstance(value, int) for value in numbers):
        return IntDistribution(values["low"], values["high"], log, values.get("step", 1))
    return FloatDistribution(values["low"], values["high"], log, values.get("step"))


def steps_of(found: Range) -> list[Any]:
    """The values of a range for a grid. Raises ValueError if it has no steps."""
    if found.step is None or found.log:
        raise ValueError('a grid takes lists, or ranges with a "step"')
    low, high, step = (Decimal(str(value)) for value in (found.low, found.high, found.step))
    count = int((high - low) / step) + 1
    if count > MAX_PLANNED:
        raise ValueError(f"has {count} values")
    kind = int if isinstance(found, IntDistribution) else float
    return [kind(low + number * step) for number in range(count)]
