"""Prediction files of the AV-Deepfake1M challenge, from parts that a killed run leaves and goes on from.

`prediction.txt` has a line `000001.mp4;0.91` per file: its name and P(fake). `prediction.json` maps each name
to [[confidence, start, end], ...] in seconds. Each lies alone in the top folder of a zip, one for each task.
Formats: deepfakes1m.github.io/2025/details; units: the README of ControlNet/AV-Deepfake1M (5d11d51), which
evaluates such a file at 1 unit per second.

Clips are written in the order of the list and never held together. Zips have fixed dates, so equal
predictions make equal bytes.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from utils.files import write_atomically, write_text

PREDICTIONS, SEGMENTS = "prediction.txt", "prediction.json"
ZIPS = {PREDICTIONS: "detection.zip", SEGMENTS: "localisation.zip"}
PARTS = "parts"  # folder
UNKNOWN_PROB = 0.5  # of a clip without a score
# of a clip without proposals: the official program stops at an empty list
NO_PROPOSAL = ((0.0, 0.0, 0.0),)
DATE = (1980, 1, 1, 0, 0, 0)  # of all files in a zip: the first that it can hold
DECIMALS = 6  # of confidences; times have 3


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is said of one file."""

    name: str  # as in the challenge's list
    prob: float | None  # P(fake); None: it has no score
    segments: list[list[float]]  # confidence, start and end in seconds, by falling confidence


def part_path(folder: Path, number: int) -> Path:
    """The file with a part of the predictions."""
    return folder / PARTS / f"{number:06d}.jsonl"


def write_part(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write some predictions atomically, a line of JSON each."""
    lines = (json.dumps([row.name, row.prob, _rounded(row.segments)]) for row in predictions)
    write_text(path, "".join(f"{line}\n" for line in lines))


def _rounded(segments: Iterable[Iterable[float]]) -> list[list[float]]:
    return [
        [round(confidence, DECIMALS), round(start, 3), round(end, 3)] for confidence, start, end in segments
    ]


def read_parts(folder: Path, num_parts: int) -> Iterator[Prediction]:
    """The predictions of all parts, in the order of the list."""
    for number in range(num_parts):
        with part_path(folder, number).open(encoding="utf-8") as file:
            yield from (Prediction(*json.loads(line)) for line in file)


def finish(folder: Path, num_parts: int, *, with_segments: bool) -> list[Path]:
    """Write the challenge's files and their zips from the parts; the paths of the zips."""
    writers: dict[str, Callable[[IO[str], Iterator[Prediction]], None]] = {PREDICTIONS: _write_probs}
    if with_segments:
        writers[SEGMENTS] = _write_segments
    made = []
    for name, write in writers.items():

        def write_all(path: Path, write: Callable[..., None] = write) -> None:
            with path.open("w", encoding="utf-8", newline="\n") as file:
                write(file, read_parts(folder, num_parts))

        write_atomically(folder / name, write_all)
        made.append(_write_zip(folder, name))
    return made


def _write_probs(file: IO[str], rows: Iterator[Prediction]) -> None:
    for row in rows:  # unrounded: rounding would tie clips with nearly equal scores
        file.write(f"{row.name};{UNKNOWN_PROB if row.prob is None else row.prob!r}\n")


def _write_segments(file: IO[str], rows: Iterator[Prediction]) -> None:
    between = "{\n"
    for row in rows:
        found = json.dumps(row.segments or NO_PROPOSAL, separators=(",", ":"))
        file.write(f"{between}{json.dumps(row.name)}:{found}")
        between = ",\n"
    file.write("\n}\n")


def _write_zip(folder: Path, name: str) -> Path:
    """The zip with a file of `folder` and nothing else."""
    path = folder / ZIPS[name]

    def write(partial: Path) -> None:
        about = zipfile.ZipInfo(name, DATE)
        about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        with zipfile.ZipFile(partial, "w") as archive, (folder / name).open("rb") as source:
            with archive.open(about, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)

    write_atomically(path, write)
    return path
