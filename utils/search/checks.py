"""What is refused before the first trial starts: contradictory flags, missing data, another search."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UsageError
from utils.files import write_text
from utils.names import brief, parse_json
from utils.run.config_file import RESUMABLE
from utils.run.resume import require_no_run
from utils.search.definition import Definition, Flags, Trial, words_of
from utils.search.study import TRIALS

RECORD = "search.json"
TEST = "test"  # folder of a trial's evaluation on what it was trained on
ELSEWHERE = "test_elsewhere"  # folder of those on other data sets, each in a folder of its own
METRICS = "test_metrics.json"
# settings that may change while a search goes on: they do not change what a trial becomes
FREE = RESUMABLE - {"epochs", "patience", "decision_fpr"}
Plain = dict[str, dict[str, Any]]  # sections of a run's configuration, as in config.json


@dataclass(frozen=True)
class Checked:
    """A definition with train.py's own parser, by which it was checked."""

    definition: Definition
    parse: Callable[[list[str]], Any]
    # data sets that no trial is trained on -> the prepared roots: trials are tested on them, too
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def flags(self, trial: Trial) -> list[str]:
        """The words of a trial's training, but for its --run_dir."""
        return words_of(self.definition.flags_of(trial))

    def config(self, trial: Trial, more: Flags | None = None) -> Plain:
        """The configuration of a trial. Raises UsageError, naming the trial, if its flags are not valid."""
        try:
            return self._parsed({**self.definition.flags_of(trial), **(more or {})})
        except UsageError as error:
            shown = shown_changes(trial)
            where = f"{self.definition.path}, {trial.point}{f' ({shown})' if shown else ''}"
            raise UsageError(f"{where}: {error}") from None

    def _parsed(self, flags: Mapping[str, Sequence[str]]) -> Plain:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                plain: Plain = self.parse(words_of(flags)).as_plain()
                return plain
        except SystemExit as error:  # of argparse
            raise UsageError(said.getvalue().strip().removeprefix("error: ")) from error

    def check(self) -> list[Plain]:
        """Check all trials of a grid or of rows, of other samplers the edges. Returns their configurations.

        Raises UsageError for the first that train.py or test.py would refuse, or whose data are not there.
        """
        planned = self.definition.planned() or self.definition.corners()
        trials = [self.definition.trial(params, number) for number, params in enumerate(planned)]
        found = [self.config(trial) for trial in trials]
        for root in {root: None for plain in found for root in plain["train"]["data_root"] or [None]}:
            if root is None:
                raise UsageError("missing --data_root, the output of preprocess.prepare; see --search --help")
            if not Path(root).exists():
                raise UsageError(f"--data_root {root}: no such folder")
        self._check_elsewhere({name for plain in found for name in plain["train"]["dataset"]})
        if tested := self.definition.test:
            if unknown := tested.keys() - found[0]["data"].keys():
                name = sorted(unknown)[0]
                raise UsageError(f"{self.definition.path}: test: {name} is not one of train.py --help data")
            for trial in trials:
                self.config(trial, tested)
        return found

    def _check_elsewhere(self, trained: Collection[str]) -> None:
        if self.elsewhere and self.definition.test is None:
            raise UsageError(f'--search_test needs "test" in {self.definition.path}')
        for name, root in self.elsewhere.items():
            if name in trained:
                raise UsageError(f"--search_test {name}: trials are trained on it, and tested on it anyway")
            if not Path(root).exists():
                raise UsageError(f"--search_test {name}={root}: no such folder")
            try:
                self._parsed({"dataset": [name]})
            except UsageError as error:
                raise UsageError(f"--search_test {name}: {error}") from None


def elsewhere_of(words: Sequence[str]) -> dict[str, str]:
    """{NAME: ROOT} of the words NAME=ROOT after --search_test. Raises UsageError for others."""
    found: dict[str, str] = {}
    for word in words:
        name, _, root = word.partition("=")
        if not name or not root:
            raise UsageError(f"--search_test takes NAME=ROOT, such as dfdc=prepared/dfdc; got {brief(word)}")
        if name in found:
            raise UsageError(f"--search_test names {name} twice")
        found[name] = root
    return found


def shown_changes(trial: Trial) -> str:
    """What sets a trial apart, in one line."""
    return " ".join(
        f"--{name} {' '.join(words)}" if words is not None else f"no --{name}"
        for name, words in trial.changes.items()
    )


def require_same_search(run_dir: Path, checked: Checked, command: Sequence[str]) -> None:
    """Write down what is searched.

    Raises UsageError if the folder holds another search, or a run, or if its trials were tested elsewhere on
    another folder under the same name.
    """
    path, definition = run_dir / RECORD, checked.definition
    require_no_run(run_dir)
    settings = {name: list(words) for name, words in definition.settings.items()}
    now = {"definition": definition.content, "settings": settings, "command": shlex.join(command)}
    roots = {name: str(Path(root).resolve()) for name, root in checked.elsewhere.items()}
    if path.is_file():
        try:
            before = parse_json(path.read_bytes())
            changed = differences(before, now)
            roots_before = dict(before.get("elsewhere", {}))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: is not the record of a search ({error!r})") from error
        if changed:
            what = ", ".join(changed)
            raise UsageError(f"{run_dir} holds another search ({what} differs): choose another --run_dir")
        for name in sorted(roots.keys() & roots_before.keys()):
            tests = f"{TRIALS}/*/{ELSEWHERE}/{name}"
            if roots[name] != roots_before[name] and any(run_dir.glob(f"{tests}/{METRICS}")):
                raise UsageError(
                    f"--search_test {name}: trials were tested on {roots_before[name]}, not {roots[name]}: "
                    f"delete {run_dir}/{tests}, or choose another --run_dir"
                )
        roots = roots_before | roots
    now["elsewhere"] = roots
    write_text(path, json.dumps(now, indent=1) + "\n")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two records of a search differ in, as far as it changes a trial."""
    settings = [{k: v for k, v in record["settings"].items() if k not in FREE} for record in (before, now)]
    names = sorted(settings[0].keys() | settings[1].keys())
    changed = [f"--{name}" for name in names if settings[0].get(name) != settings[1].get(name)]
    definitions = [dict(record["definition"]) for record in (before, now)]
    for content in definitions:  # a trial's number is its place among the values in their order
        content["space"] = json.dumps(content.get("space"))
    keys = ["sampler", "space", "rows", "seeds", "pruning"]
    if definitions[0].get("test"):  # what was not tested may be tested later
        keys.append("test")
    return changed + [key for key in keys if definitions[0].get(key) != definitions[1].get(key)]
