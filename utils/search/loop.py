"""A search at work: its trials as children, watched until all have ended, and their tests after them."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from utils.errors import DatasetError, UsageError
from utils.evaluation.metrics import Floats
from utils.files import locked_folder
from utils.report.page import read_training_curves
from utils.run.resume import StopRequest
from utils.search.checks import ELSEWHERE, METRICS, TEST, Checked
from utils.search.children import Child, Children
from utils.search.definition import Trial, words_of
from utils.search.study import CLAIMS, Study, Taken

log = logging.getLogger("search")
PAUSE_S = 0.2  # between two looks at the children
WAIT_S = 2.0  # the same while only other processes work
BAR = {"mininterval": 10.0, "smoothing": 0.0}  # seconds, as logs are files, too; the ETA is of the mean rate
WRITE_S = 60.0  # between two versions of the page


@dataclass
class Training:
    """A trial under way."""

    taken: Taken
    child: Child
    select_by: str
    num_reported: int
    is_hopeless: bool = False


class Search:
    """Runs the trials of a study and, where the definition says so, their tests."""

    def __init__(
        self, study: Study, checked: Checked, scripts: Path, num_jobs: int, request: StopRequest
    ) -> None:
        """scripts: the folder of train.py and test.py."""
        self.study, self.checked, self.scripts, self.request = study, checked, scripts, request
        self.children = Children(num_jobs)
        self.failed: dict[str, str] = {}  # name of a trial -> why
        self._trainings: list[Training] = []
        self._tests: dict[str, tuple[Child, contextlib.ExitStack]] = {}  # name of a trial -> its test
        self._failed_numbers: set[int] = set()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """While active, an error ends the children at once; a stop request is left to `train` and `test`."""
        try:
            yield
        finally:
            for child in self.children.running:
                child.kill()

    def train(self, on_end: Callable[[], object]) -> None:
        """Run trials until all have ended, or a stop is asked for. Calls `on_end` after some of them.

        Rows are tested as soon as they are complete: a search that is stopped has figures to show.
        """
        due = time.monotonic() + WRITE_S
        num_done = sum(record.state.is_finished() for record in self.study.records())
        with tqdm(total=self.study.num_planned, initial=num_done, desc="trials", unit="trial", **BAR) as bar:
            while not self.request.heard():
                for training in list(self._trainings):
                    self._report(training)
                    if training.child.process.poll() is not None:
                        self._end(training)
                        if time.monotonic() > due:
                            on_end()
                            due = time.monotonic() + WRITE_S
                if self.checked.definition.rows and self.checked.definition.test is not None:
                    self._tend_tests(self.to_test(None))
                while self.children.has_room and (taken := self.study.take(self._known())):
                    self._begin(taken)
                records = self.study.records()
                bar.update(sum(record.state.is_finished() for record in records) - bar.n)
                if not self._trainings and not self._left(records):
                    return
                time.sleep(PAUSE_S if self._trainings else WAIT_S)
        self._stop()

    def _known(self) -> set[int]:
        return self._failed_numbers | {training.taken.record.number for training in self._trainings}

    def _left(self, records: list[FrozenTrial]) -> bool:
        """Whether trials are missing, or with other processes."""
        waiting = [r for r in records if not r.state.is_finished() and r.number not in self._failed_numbers]
        return bool(waiting) or len(records) < self.study.num_planned

    def _begin(self, taken: Taken) -> None:
        trial, folder = taken.trial, self.study.folder(taken.trial)
        try:
            select_by = self.checked.config(trial)["train"]["select_by"]
        except UsageError as error:  # of a drawn point that is not at the edges, which were checked
            self._fail(taken, str(error))
            return
        if taken.num_reported and taken.record.should_prune():
            self.study.tell(taken, result_of(folder, select_by, taken.num_reported), is_pruned=True)
            return
        resumes = any(folder.glob("last*.pt"))
        log.info("%s: %s", trial.name, "goes on" if resumes else "starts")
        words = [*self.checked.flags(trial), "--run_dir", str(folder), *(["--resume"] if resumes else [])]
        child = self.children.start([str(self.scripts / "train.py"), *words], folder)
        self._trainings.append(Training(taken, child, select_by, taken.num_reported))

    def _report(self, training: Training) -> None:
        """Tell the study of new epochs, and stop a trial that it calls hopeless."""
        folder = self.study.folder(training.taken.trial)
        if training.is_hopeless or not (folder / "metrics.csv").is_file():
            return
        record = training.taken.record
        for step, value in enumerate(curves_of(folder)["val_auc"]):
            if step < training.num_reported:
                continue
            record.report(float(value), step)
            training.num_reported = step + 1
            if record.should_prune():
                training.is_hopeless = True
                training.child.ask_to_stop()
                return

    def _end(self, training: Training) -> None:
        """Write down how a trial has ended."""
        self._report(training)  # epochs since the last look
        self._trainings.remove(training)
        self.children.running.remove(training.child)
        trial, status = training.taken.trial, training.child.process.returncode
        if status and not training.is_hopeless:
            self._fail(training.taken, f"exit status {status}: {training.child.last_words()}")
            return
        result = result_of(self.study.folder(trial), training.select_by, training.num_reported)
        self.study.tell(training.taken, result, is_pruned=training.is_hopeless)
        what = "pruned after" if training.is_hopeless else "complete after"
        text = "%s: %s %d epochs, validation AUC %.4f"
        log.info(text, trial.name, what, result["epochs"], result["val_auc"])

    def test(self, trials: list[Trial]) -> None:
        """Evaluate the best epoch of each of these trials, on the test splits that are not done yet."""
        num_all = len(self._untested(trials))
        with tqdm(total=num_all, desc="tests", unit="test", disable=not num_all, **BAR) as bar:
            while (num_left := self._tend_tests(trials)) and not self.request.heard():
                bar.update(num_all - num_left - bar.n)
                time.sleep(PAUSE_S)
            bar.update(num_all - num_left - bar.n)
        self._stop()

    def _untested(self, trials: list[Trial]) -> list[Trial]:
        return [trial for trial in trials if trial.name not in self.failed and not self.tested(trial)]

    def _tend_tests(self, trials: list[Trial]) -> int:
        """See which tests have ended, and begin those of `trials` that there is room for; the number left."""
        for name, (child, claim) in list(self._tests.items()):
            if child.process.poll() is None:
                continue
            self.children.running.remove(child)
            claim.close()
            del self._tests[name]
            if child.process.returncode:
                self.failed[name] = child.last_words()
                log.warning("the test of %s failed: %s", name, self.failed[name])
        left = self._untested(trials)
        for trial in left:
            if trial.name not in self._tests and self.children.has_room and (held := self._claim_test(trial)):
                log.info("%s: is tested", trial.name)
                self._tests[trial.name] = self._start_test(trial), held
        return len(left)

    def _fail(self, taken: Taken, reason: str) -> None:
        """Leave a trial to the next search: it stays unfinished in the journal."""
        self.failed[taken.trial.name] = reason
        self._failed_numbers.add(taken.record.number)
        taken.claim.close()
        log.warning("%s failed: %s", taken.trial.name, reason)

    def to_test(self, best: str | None) -> list[Trial]:
        """The complete trials of all rows, or of the best point by validation alone."""
        complete = [r for r in self.study.records() if r.state == TrialState.COMPLETE]
        trials = [self.study.describe(record) for record in complete]
        return [trial for trial in trials if self.checked.definition.rows or trial.point == best]

    def tested(self, trial: Trial) -> bool:
        """Whether a trial has been evaluated on all test splits."""
        return self._is_tested(trial) and not self._missing(trial)

    def _is_tested(self, trial: Trial) -> bool:
        return (self.study.folder(trial) / TEST / METRICS).is_file()

    def _missing(self, trial: Trial) -> dict[str, str]:
        """The data sets elsewhere on which a trial has not been evaluated, with their roots."""
        folder = self.study.folder(trial) / ELSEWHERE
        return {
            name: root
            for name, root in self.checked.elsewhere.items()
            if not (folder / name / METRICS).is_file()
        }

    def _claim_test(self, trial: Trial) -> contextlib.ExitStack | None:
        claim = contextlib.ExitStack()
        try:
            claim.enter_context(locked_folder(self.study.run_dir / CLAIMS / trial.name))
        except UsageError:
            return None
        return claim

    def _start_test(self, trial: Trial) -> Child:
        """Evaluate a trial on the data sets that it was trained on, or, after that, on those elsewhere."""
        folder, train = self.study.folder(trial), self.checked.config(trial)["train"]
        datasets, output_dir = dict(zip(train["dataset"], train["data_root"], strict=True)), folder / TEST
        if self._is_tested(trial):
            datasets, output_dir = self._missing(trial), folder / ELSEWHERE
            if len(datasets) == 1:  # test.py gives a data set a folder of its own if there are several
                output_dir /= next(iter(datasets))
        flags = {
            "checkpoint": [str(folder / "best.pt")],
            "dataset": list(datasets),
            "data_root": list(datasets.values()),
            "output_dir": [str(output_dir)],
            "device": [train["device"]],
            "precision": [train["precision"]],
            "report": ["false"],
            **(self.checked.definition.test or {}),
        }
        return self.children.start([str(self.scripts / "test.py"), *words_of(flags)], folder)

    def _stop(self) -> None:
        """Have the children save and end, if a signal asks for it."""
        if not (number := self.request.heard()):
            return
        log.info("%s: the trials save and stop ...", signal.Signals(number).name)
        for child in self.children.running:
            child.ask_to_stop()
        for child in self.children.running:
            child.process.wait()
        self.children.running.clear()


def curves_of(folder: Path) -> dict[str, Floats]:
    """The columns of a trial's metrics.csv. Raises DatasetError if there is no validation AUC among them."""
    columns = read_training_curves(folder / "metrics.csv")
    if "val_auc" not in columns:
        what = "has no validation AUC, by which a search compares trials: it needs clips of both classes"
        raise DatasetError(f"{folder / 'metrics.csv'}: {what}")
    return columns


def result_of(folder: Path, select_by: str, num_epochs: int) -> dict[str, float]:
    """What a trial's first epochs came to: their number, the epoch that was kept, and its validation AUC."""
    columns = curves_of(folder)
    find = np.argmin if select_by == "val_loss" else np.argmax  # the first of equals, as training has it
    kept = int(find(columns[select_by][:num_epochs]))
    return {"epochs": num_epochs, "kept_epoch": kept, "val_auc": float(columns["val_auc"][kept])}
