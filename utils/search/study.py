"""The trials of a search in Optuna's journal, which several processes and machines may share.

A trial of the journal is RUNNING until it is complete or pruned; a search that runs it holds the lock of its
claim. A lock ends with its process, so a trial without one was left by a search that died: the next one goes
on with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from utils.errors import UsageError
from utils.files import locked_folder
from utils.search.definition import Definition, Range, Trial

JOURNAL = "study.journal"
TRIALS, CLAIMS = "trials", "claims"
FIRST_WHOLE, FIRST_EPOCHS = 4, 2  # trials and epochs before anything is pruned


class ProcessLock(JournalFileOpenLock):
    """A lock that is free again when its process dies; those of Optuna are waited for half a minute."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._file = path, -1

    def acquire(self) -> bool:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._file)  # and with it the lock


@contextlib.contextmanager
def held(lock: ProcessLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Taken:
    """A trial that this process runs, and nobody else as long as it holds the claim."""

    trial: Trial
    record: optuna.Trial
    claim: contextlib.ExitStack
    num_reported: int  # epochs that the journal knows


class Study:
    """The trials of `definition` in the folder of a search."""

    def __init__(self, run_dir: Path, definition: Definition) -> None:
        self.run_dir, self.definition = run_dir, definition
        self._lock = ProcessLock(run_dir / "study.lock")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with held(self._lock):
            journal, lock = run_dir / JOURNAL, ProcessLock(run_dir / f"{JOURNAL}.lock")
            with held(lock):
                mend(journal)
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal), lock)),
                study_name="search",
                direction="maximize",
                pruner=make_pruner(definition),
                load_if_exists=True,
            )
        self._planned = definition.planned()

    def records(self) -> list[FrozenTrial]:
        """All trials of the journal, in their order."""
        return self._study.get_trials(deepcopy=False)

    @property
    def num_planned(self) -> int:
        """How many trials there are to be."""
        return len(self._planned) or self.definition.num_trials

    def folder(self, trial: Trial) -> Path:
        """Where a trial is run."""
        return self.run_dir / TRIALS / trial.name

    def describe(self, record: FrozenTrial) -> Trial:
        """The trial of a record."""
        params = self._planned[record.number] if self._planned else record.params
        return self.definition.trial(params, record.number)

    def take(self, known: Collection[int]) -> Taken | None:
        """The next trial for this process: one that a dead search has left, or else a new one; None if there
        is nothing to do at the moment. Passes over the numbers in `known`.
        """
        with held(self._lock):
            records = self.records()
            for record in records:
                if record.state == TrialState.RUNNING and record.number not in known:
                    self._prepare(record.number)
                    if taken := self._claim(optuna.Trial(self._study, record._trial_id)):
                        return taken
            number = len(records)
            if any(record.state == TrialState.WAITING for record in records):
                number -= 1  # of a search that died right here
            elif number >= self.num_planned:
                return None
            elif self._planned:
                self._study.enqueue_trial(self._planned[number])
            self._prepare(number)
            return self._claim(self._study.ask())

    def _prepare(self, number: int) -> None:
        """Have trial `number` drawn as it always is, whatever this process drew before."""
        seed = (self.definition.seeds[0] if self.definition.seeds else 0) + number
        sampler = TPESampler if self.definition.kind == "tpe" else RandomSampler
        self._study.sampler = sampler(seed=seed)

    def _claim(self, record: optuna.Trial) -> Taken | None:
        params = {name: suggest(record, name, found) for name, found in self.definition.parameters.items()}
        trial = self.definition.trial(params, record.number)
        claim = contextlib.ExitStack()
        try:
            claim.enter_context(locked_folder(self.run_dir / CLAIMS / trial.name))
            # a training that has outlived its search holds the lock of its own folder
            with locked_folder(self.folder(trial)):
                num_reported = len(self.records()[record.number].intermediate_values)
                return Taken(trial, record, claim, num_reported)
        except UsageError:
            claim.close()
            return None

    def tell(self, taken: Taken, result: dict[str, float], *, is_pruned: bool) -> None:
        """Write down that a trial has ended, and free its claim."""
        taken.record.set_user_attr("result", result)
        state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE
        self._study.tell(taken.record, None if is_pruned else result["val_auc"], state)
        taken.claim.close()


def suggest(record: optuna.Trial, name: str, found: CategoricalDistribution | Range) -> Any:
    """The value of a parameter in a trial: the same as before if it has one."""
    if isinstance(found, CategoricalDistribution):
        return record.suggest_categorical(name, found.choices)
    if isinstance(found, IntDistribution):
        return record.suggest_int(name, found.low, found.high, step=found.step, log=found.log)
    return record.suggest_float(name, found.low, found.high, step=found.step, log=found.log)


def make_pruner(definition: Definition) -> BasePruner:
    """Stops trials whose best epoch so far is below the median of other trials at that epoch."""
    if not definition.pruning:
        return NopPruner()
    return MedianPruner(n_startup_trials=FIRST_WHOLE, n_warmup_steps=FIRST_EPOCHS)


def mend(journal: Path) -> None:
    """Cut off a last line that was not written whole, as a full disk or a lost connection leaves it."""
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
