"""Validation of a run, epoch after epoch: its scores are kept, and become metrics and a decision."""

from __future__ import annotations

import dataclasses
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.clip_type import Clip
from utils.evaluation.bootstrap import NoStatisticError
from utils.evaluation.classes import class_metrics
from utils.evaluation.cross_fit import CrossFit, cross_fit
from utils.evaluation.decision import NOT_CROSS_FITTED, Decision, decision_of_scores
from utils.evaluation.metrics import detection_metrics, lacks_a_class
from utils.evaluation.scoring import ClipScores, validation_row
from utils.files import write_atomically
from utils.run.distributed import is_main
from utils.run.resume import Best

log = logging.getLogger(__name__)
NAME = "val_scores.npz"
PART = "the validation split"
COLUMNS = ("auc", "ap", "eer", "balanced_accuracy")
NOT_CHOSEN = "this is not the epoch that was chosen"


class EpochScores:
    """Logits of the validation clips in every epoch of a run, kept in NAME in its folder.

    The file (numpy's, without code): "about", JSON with the clip_ids and persons of n clips, in UTF-8 bytes;
    "labels" (n,) int8, 1 = fake; "epochs" (E,) int32, numbered from 0; "logits" (E, n) float32, NaN for clips
    that could not be read then. Only the main process reads and writes it.
    """

    def __init__(self, run_dir: Path, first_epoch: int) -> None:
        """The scores of the epochs before `first_epoch`, as far as the run has kept them."""
        self.path = run_dir / NAME
        self.clip_ids: list[str] = []
        self.persons: list[str] = []
        self.labels = np.empty(0, np.int8)
        self.logits: dict[int, npt.NDArray[np.float32]] = {}  # epoch -> (n,)
        if not (first_epoch and is_main()):
            return
        try:
            self._read(first_epoch)
        except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s: cannot be read (%s)", self.path, error)
        if missing := [str(epoch) for epoch in range(first_epoch) if epoch not in self.logits]:
            why = "how the choice of the epoch fares on persons that it was made without will not be known"
            log.warning("%s: the scores of epoch %s are missing: %s", self.path, ", ".join(missing), why)

    def _read(self, first_epoch: int) -> None:
        with np.load(self.path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            labels, epochs, logits = file["labels"], file["epochs"].tolist(), file["logits"]
        clip_ids, persons = list(map(str, about["clip_ids"])), list(map(str, about["persons"]))
        if not len(clip_ids) == len(persons) == len(labels) or logits.shape != (len(epochs), len(labels)):
            raise ValueError("its parts do not fit together")
        self.clip_ids, self.persons, self.labels = clip_ids, persons, labels.astype(np.int8)
        # an epoch that was begun again has its scores again
        rows = zip(epochs, logits.astype(np.float32), strict=True)
        self.logits = {epoch: row for epoch, row in rows if epoch < first_epoch}

    def add(self, epoch: int, clips: Sequence[Clip], scores: ClipScores) -> None:
        """Keep the scores of an epoch, and write the file."""
        if not is_main():
            return
        place = {clip_id: number for number, clip_id in enumerate(self.clip_ids)}
        new = [row for row, clip_id in enumerate(scores.clip_ids) if clip_id not in place]
        ordered = scores.in_order(clips)
        place |= {scores.clip_ids[row]: len(place) + number for number, row in enumerate(new)}
        self.clip_ids += [scores.clip_ids[row] for row in new]
        self.persons += [ordered[row].identity for row in new]
        self.labels = np.append(self.labels, scores.labels[new].astype(np.int8))
        more = np.full(len(new), np.nan, np.float32)
        self.logits = {number: np.append(row, more) for number, row in self.logits.items()}
        self.logits[epoch] = np.full(len(self.clip_ids), np.nan, np.float32)
        self.logits[epoch][[place[clip_id] for clip_id in scores.clip_ids]] = scores.logits
        about = json.dumps({"clip_ids": self.clip_ids, "persons": self.persons}).encode()
        parts: dict[str, Any] = {
            "about": np.frombuffer(about, np.uint8),
            "labels": self.labels,
            "epochs": np.array(list(self.logits), np.int32),
            "logits": np.array(list(self.logits.values())),
        }

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez_compressed(file, **parts)

        write_atomically(self.path, write)

    def cross_fit(self, rate: float, *, chosen: int, by_loss: bool) -> CrossFit | str:
        """`cross_fit` of the epochs so far, on the clips that were scored in all of them; or why not."""
        epochs = sorted(self.logits)
        if chosen not in epochs or epochs != list(range(len(epochs))):
            return NOT_CROSS_FITTED
        logits = np.array([self.logits[epoch] for epoch in epochs])
        known = np.isfinite(logits).all(axis=0)
        persons = np.array(self.persons, str)[known]
        try:
            return cross_fit(
                logits[:, known], self.labels[known], persons, rate, chosen=chosen, by_loss=by_loss
            )
        except NoStatisticError as error:
            return str(error)


class Validation:
    """What is made of the scores of each epoch of a run, and of all of them at its end."""

    def __init__(
        self, run_dir: Path, first_epoch: int, *, rate: float, select_by: str, needs_classes: bool = True
    ) -> None:
        self.kept = EpochScores(run_dir, first_epoch)
        self.rate, self.select_by, self.needs_classes = rate, select_by, needs_classes

    def end_epoch(
        self, epoch: int, clips: Sequence[Clip], scores: ClipScores, best: Best
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """(row of metrics.csv, what the checkpoints hold of it: {"epoch", "val", "decision"}).

        A model of classes has no decision, and nor has one that needs no labels where all clips are of one
        class: its loss is all there is.
        """
        if not self.needs_classes and lacks_a_class(scores.labels, PART):
            self.kept.add(epoch, clips, scores)
            return validation_row(scores, {}), {"epoch": epoch, "val": {}}
        if scores.emotion_logits is not None:
            found = class_metrics(scores.labels, scores.emotion_logits, PART)
            kept = {"auc": found["macro_auc"], "accuracy": found["accuracy"]}
            return validation_row(scores, kept), {"epoch": epoch, "val": found}
        metrics = dataclasses.asdict(detection_metrics(scores.labels, scores.logits, PART))
        row = validation_row(scores, {name: metrics[name] for name in COLUMNS})
        decision = decision_of_scores(clips, scores, self.rate, PART)
        self.kept.add(epoch, clips, scores)
        tried: CrossFit | str = NOT_CHOSEN
        if best.is_better(row[self.select_by]) and is_main():
            tried = self._cross_fit(epoch)
        decision = dataclasses.replace(decision, cross_fit=tried)
        return row, {"epoch": epoch, "val": metrics, "decision": decision.as_plain()}

    def complete(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """What changes in best.pt after the last epoch: those after the best could have been chosen, too."""
        if "decision" not in content or not isinstance(epoch := content.get("epoch"), int):
            return {}
        found = self._cross_fit(epoch)
        if isinstance(found, str):  # what is stored already says why, or knows more
            return {}
        decision = dataclasses.replace(Decision.from_plain(content["decision"]), cross_fit=found)
        return {"decision": decision.as_plain()}

    def _cross_fit(self, epoch: int) -> CrossFit | str:
        # the loss itself is of batches, not of clips
        return self.kept.cross_fit(self.rate, chosen=epoch, by_loss=self.select_by == "val_loss")
