"""What a generator of a small raw data set returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RawTree:
    """What was written."""

    dataset: str
    source: Path  # what --source takes
    # (split as the data set says it, or "", category, method) -> clips
    counts: Counter[tuple[str, str, str]]
    prepare_flags: tuple[str, ...] = ()  # what preprocess.prepare needs besides --dataset and --source
    listing_flags: tuple[str, ...] = ()  # what train.py and test.py need
    has_own_split: bool = False  # whether train and test parts are given
    real_only: bool = False  # no fakes: nothing can be trained on it alone
    # kind of loaders/splits/overlap.py -> (how many the test part has, how many of these the others have)
    overlap: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    test_only: bool = False  # train.py refuses it without --allow_test_only_training
