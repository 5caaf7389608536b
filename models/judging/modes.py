"""Modes of test.py that evaluate no checkpoint on a data set: each has its own flags."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from loaders.batches.data_loader import WorkerConfig
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig
from models.judging import command, foreign_scores, submission
from models.judging.config import JudgeConfig
from models.judging.serving import command as serving
from models.judging.serving.config import ServeConfig
from utils.errors import UsageError
from utils.report import compare, matrix

# flag that selects the mode -> (groups of its flags, its main function)
MODES: dict[str, tuple[tuple[type[Any], ...], Callable[[], int]]] = {
    "compare": ((compare.CompareConfig,), compare.main),
    "matrix": ((matrix.MatrixConfig,), matrix.main),
    "serve": ((ServeConfig,), serving.main),
    "scores": ((foreign_scores.ScoresConfig, ListingConfig, SplitConfig), foreign_scores.main),
    "submission": ((submission.SubmissionConfig, WorkerConfig), submission.main),
    "video": ((command.VideoConfig,), command.main),
}
# flags of judging that evaluations have, too
SHARED = {"batch_size", "checkpoint", "device", "no_thumbnails", "output_dir", "precision", "weights_dir"}
OF_VIDEOS = {*JudgeConfig.__annotations__, *command.VideoConfig.__annotations__} - SHARED


def choose_mode(argv: Sequence[str]) -> Callable[[], int] | None:
    """The mode that the flags select; None = evaluate a data set.

    Raises UsageError if flags of different modes are mixed, or one of judging is given without a video.
    """
    given = list(dict.fromkeys(word.split("=")[0][2:] for word in argv if word.startswith("--")))
    modes = [name for name in given if name in MODES]
    if not modes:
        if lost := [f"--{name}" for name in given if name in OF_VIDEOS]:
            raise UsageError(f"{', '.join(lost)}: for raw videos, which --video names; see --video --help")
        return None
    config_types, mode = MODES[modes[0]]
    if not {"-h", "--help"}.isdisjoint(argv):
        sys.argv[1:] = ["--help"]  # "--video --help" lacks a video
    known = {"help", "debug"}.union(field.name for kind in config_types for field in dataclasses.fields(kind))
    if foreign := [f"--{name}" for name in given if name not in known]:
        raise UsageError(f"--{modes[0]} does not go with {', '.join(foreign)}; see --{modes[0]} --help")
    return mode
