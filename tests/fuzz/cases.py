"""What a case is: a kind and a number, from which, with a seed, everything in it follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# kinds by number, over and over: what is slow to run comes less often
PATTERN = (
    "media",
    "metadata",
    "landmarks",
    "checkpoints",
    "metadata",
    "media",
    "landmarks",
    "metadata",
    "checkpoints",
    "landmarks",
)
KINDS = ("media", "metadata", "landmarks", "checkpoints")
PROCESSED, REFUSED, BROKEN = "processed", "refused", "BROKEN"
STRIDE = 7919  # a prime: consecutive cases of a kind are of different recipes, and every recipe has its turn


def kind_of(number: int) -> str:
    return PATTERN[number % len(PATTERN)]


def ordinal_of(number: int) -> int:
    """The how-manieth case of its kind a number is."""
    rounds, place = divmod(number, len(PATTERN))
    kind = PATTERN[place]
    return rounds * PATTERN.count(kind) + PATTERN[:place].count(kind)


def numbers_of(count: int, kinds: Sequence[str]) -> list[int]:
    """The first `count` numbers whose cases are of these kinds."""
    numbers, number = [], 0
    while len(numbers) < count:
        if kind_of(number) in kinds:
            numbers.append(number)
        number += 1
    return numbers


@dataclass(frozen=True)
class Recipe:
    """A way to make a case: `make(rng, base, folder)` writes its files into an empty folder and may say in
    words what it drew.
    """

    name: str
    make: Callable[[np.random.Generator, Path, Path], str | None]
    expected: str = ""  # PROCESSED or REFUSED where only that is right


@dataclass(frozen=True)
class Case:
    """One case of a run."""

    seed: int
    number: int

    @property
    def kind(self) -> str:
        return kind_of(self.number)

    def recipe(self, recipes: Sequence[Recipe]) -> Recipe:
        return recipes[(ordinal_of(self.number) * STRIDE + self.seed) % len(recipes)]

    def make(self, recipes: Sequence[Recipe], base: Path, folder: Path) -> str:
        """Write the case's files; return what it is in words."""
        recipe = self.recipe(recipes)
        folder.mkdir(parents=True)
        drawn = recipe.make(np.random.default_rng((self.seed, self.number)), base, folder)
        return recipe.name + (f" ({drawn})" if drawn else "")


@dataclass
class Outcome:
    """What became of a case."""

    case: Case
    what: str  # the case in words
    status: str  # PROCESSED, REFUSED or BROKEN
    reason: str = ""  # of the refusal, or which promise is broken
    seconds: float = 0.0
    peak_mb: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


class BrokenPromiseError(Exception):
    """What a case must not do, and what ought to have been noticed."""
