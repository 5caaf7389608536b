"""Whether a clip is like those that a detector was trained on: what lies outside is undecided.

Clips are described by plain facts (loaders/batches/facts.py). Their distance from the training clips
(Mahalanobis, covariance shrunk after Ledoit and Wolf, 2004) becomes a p-value by conformal prediction with
persons as units: clips of one person are alike, so each person counts once (hierarchical conformal
prediction, Lee, Barber and Willett, 2023). Each person's distances are those from a fit without them
(cross-conformal, Vovk, 2015), since a validation part of few persons could give no small p-value: N persons
give no less than 1 / (N + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf

from utils.errors import CheckpointError
from utils.evaluation.bounds import Persons
from utils.evaluation.metrics import Floats
from utils.evaluation.units import UNKNOWN, counted, is_kind
from utils.names import brief

FILE_FACTS = ("height of the face in pixels", "frames per second")  # what is known without decoding
NUM_FOLDS = 10  # of persons
LEAST_SPREAD = 0.02  # standard deviation of a fact, at least: generated clips may be all alike in one
LEAST_FILE_SPREAD = 0.1  # of face height and frame rate: a tenth more or less is no other kind of video
P_VALUE = 0.05  # clips below it are outside: of new persons of the same kind, at most this share
NUM_REASONS = 3


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The training clips of a detector, described by F facts; stored in the checkpoint."""

    names: tuple[str, ...]  # F facts
    center: Floats  # (F,)
    spread: Floats  # (F,)
    precision: Floats  # (F, F) inverse covariance of the standardised facts
    distances: Floats  # (n,) of the clips of known persons, from fits without them, ascending
    weights: Floats  # (n,) a person's clips share 1
    num_persons: int
    identity_is: str = UNKNOWN  # what these persons are (see utils/evaluation/units.py)
    equalized: bool = False  # whether the luma of the pictures was equalised (a pack of such frames)

    def complete(self, facts: Floats, of_files: Floats) -> Floats:
        """(m, F): (m, W) facts of windows and (m, 2) of files, as far as the domain knows them.

        What is not known of a file counts as usual for the training clips.
        """
        both = np.concatenate([facts, of_files], axis=1)[:, : len(self.names)]
        unknown = np.isnan(both)
        unknown[:, : facts.shape[1]] = False
        return np.where(unknown, self.center, both)

    def distance(self, facts: Floats) -> Floats:
        """(m,) distances of (m, F) facts."""
        return _distance((facts - self.center) / self.spread, self.precision)

    def p_values(self, facts: Floats) -> Floats:
        """(m,) shares of persons whose clips are as far away as (m, F) facts, at least 1 / (N + 1)."""
        tails = np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)  # weight of what is as far or farther
        places = np.searchsorted(self.distances, self.distance(facts), side="left")
        known = np.isfinite(facts).all(axis=1)  # nothing is said of others
        return np.where(known, (1 + tails[places]) / (self.num_persons + 1), 1.0)

    def is_outside(self, facts: Floats) -> npt.NDArray[np.bool_]:
        """(m,) whether clips are unlike the training clips."""
        return self.p_values(facts) <= P_VALUE

    def can_tell(self) -> bool:
        """Whether there are enough persons for a p-value of P_VALUE."""
        return 1 / (self.num_persons + 1) <= P_VALUE

    def reasons(self, facts: Floats) -> list[str]:
        """The facts of a clip (F,) that differ most, in words with numbers; [] if it is inside."""
        p_value = float(self.p_values(facts[None])[0])
        if p_value > P_VALUE:
            return []
        away = (facts - self.center) / self.spread
        worst = np.argsort(-np.abs(away))[:NUM_REASONS]
        told = [
            f"{self.names[i]} {abs(away[i]):.1f} standard deviations too {'high' if away[i] > 0 else 'low'}"
            for i in worst
            if abs(away[i]) >= 1
        ]
        rest = f"; {', '.join(told)}" if told else ""
        about = f"p = {p_value:.3f} among {counted(self.num_persons, self.identity_is)}"
        return [f"unlike the training clips: distance {self.distance(facts[None])[0]:.1f}, {about}{rest}"]

    def as_plain(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "names": list(self.names),
            "num_persons": self.num_persons,
            "identity_is": self.identity_is,
            "equalized": self.equalized,
            **{name: getattr(self, name).tolist() for name in _ARRAYS},
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Domain:
        """The inverse of as_plain(). Raises CheckpointError if the values do not fit together."""
        try:
            arrays = {name: np.array(values[name], float) for name in _ARRAYS}
            names, num_persons = tuple(map(str, values["names"])), int(values["num_persons"])
            equalized, identity_is = bool(values["equalized"]), values.get("identity_is", UNKNOWN)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the stored domain is incomplete or damaged ({error!r})") from error
        if not is_kind(identity_is):
            raise CheckpointError(f"the stored domain has persons that are {brief(identity_is)}")
        size, num_clips = len(names), arrays["distances"].shape
        shapes = {"center": (size,), "spread": (size,), "precision": (size, size), "weights": num_clips}
        if any(arrays[name].shape != shape for name, shape in shapes.items()) or num_persons < 1:
            raise CheckpointError("the stored domain has numbers of other sizes than its facts")
        if not all(np.isfinite(array).all() for array in arrays.values()) or (arrays["spread"] <= 0).any():
            raise CheckpointError("the stored domain has numbers that are not finite, or no spread")
        about: dict[str, Any] = {"num_persons": num_persons, "identity_is": identity_is, **arrays}
        return cls(names=names, equalized=equalized, **about)


_ARRAYS = ("center", "spread", "precision", "distances", "weights")


def fit_domain(
    names: Sequence[str],
    facts: Floats,
    persons: Persons,
    *,
    identity_is: str = UNKNOWN,
    equalized: bool = False,
) -> Domain:
    """The domain of (n, F) facts of clips of n persons (at least two different ones)."""
    people, person_of, counts = np.unique(np.asarray(persons, str), return_inverse=True, return_counts=True)
    least = np.array([LEAST_FILE_SPREAD if name in FILE_FACTS else LEAST_SPREAD for name in names])
    distances = np.empty(len(facts))
    for fold in range(min(NUM_FOLDS, len(people))):
        held_out = person_of % min(NUM_FOLDS, len(people)) == fold
        center, spread, precision = _fit(facts[~held_out], least)
        distances[held_out] = _distance((facts[held_out] - center) / spread, precision)
    order = np.argsort(distances, kind="stable")
    center, spread, precision = _fit(facts, least)
    return Domain(
        names=tuple(names),
        center=center,
        spread=spread,
        precision=precision,
        distances=distances[order],
        weights=(1 / counts[person_of])[order],
        num_persons=len(people),
        identity_is=identity_is,
        equalized=equalized,
    )


def _fit(facts: Floats, least: Floats) -> tuple[Floats, Floats, Floats]:
    center, spread = facts.mean(axis=0), np.maximum(facts.std(axis=0), least)
    standardised = (facts - center) / spread
    if np.abs(standardised).max() < 1e-6:  # a single clip, or all alike: the least spread is what counts
        return center, spread, np.eye(len(least))
    covariance = LedoitWolf(assume_centered=True).fit(standardised).covariance_
    if np.linalg.matrix_rank(covariance, hermitian=True) < len(least):  # of two clips it is not shrunk
        covariance = covariance + np.eye(len(least))
    return center, spread, np.linalg.inv(covariance)


def _distance(standardised: Floats, precision: Floats) -> Floats:
    return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", standardised, precision, standardised)))
