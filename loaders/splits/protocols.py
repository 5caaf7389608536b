"""Published evaluation protocols with their own choice of clips and folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.clip_type import Clip
from utils.errors import DatasetError, UsageError
from utils.files import read_text

PROTOCOLS = ("mrdf5",)
MRDF_FOLDS = 5
ID_LENGTH = len("id00076")  # MRDF's fold files start each line with it


def mrdf5(
    dataset: str, clips: Sequence[Clip], fold: int, *, files: Path | None, seed: int
) -> tuple[list[Clip], list[Clip], dict[str, str], dict[str, str]]:
    """MRDF's FakeAVCeleb protocol: one clip per person and category, five folds of persons.

    500 persons give 2,000 clips, 1,600 to train and 400 to test in each fold. A person's clip of a category
    is the first one that the metadata lists. The persons to train on are those in `files`/train_<fold>.txt
    (a header line, then lines that begin with an id; other lines are skipped), or drawn by `seed`.

    Returns the clips to train on (with validation), those to test, clip_id -> why a clip is in neither, and
    the fold files (name -> text). Raises DatasetError for data or fold files that do not fit, UsageError for
    another data set.
    """
    if dataset != "fakeavceleb":
        raise UsageError(f"--protocol mrdf5 is for fakeavceleb, not for {dataset}")
    chosen: dict[tuple[str, str], Clip] = {}
    for clip in clips:
        chosen.setdefault((clip.identity, clip.category), clip)
    categories = {category for _, category in chosen}
    if len(categories) != 4:
        raise DatasetError(f"--protocol mrdf5 needs 4 categories, found {', '.join(sorted(categories))}")
    persons = {p for p, _ in chosen if all((p, category) in chosen for category in categories)}
    ids = {person.rpartition("/")[2]: person for person in persons}
    folds = _read_folds(files, ids) if files else _draw_folds(sorted(ids), seed)
    train_ids = {ids[name] for name in folds[fold - 1]}
    train: list[Clip] = []
    test: list[Clip] = []
    reasons: dict[str, str] = {}
    for clip in clips:
        if clip.identity not in persons:
            reasons[clip.clip_id] = "protocol mrdf5: its person has not all four categories"
        elif chosen[clip.identity, clip.category] is not clip:
            reasons[clip.clip_id] = "protocol mrdf5: not its person's first clip of the category"
        else:
            (train if clip.identity in train_ids else test).append(clip)
    texts = {
        f"train_{number}.txt": "\n".join(["source", *sorted(names)]) + "\n"
        for number, names in enumerate(folds, 1)
    }
    return train, test, reasons, texts


def _draw_folds(ids: list[str], seed: int) -> list[list[str]]:
    """The ids to train on in each fold."""
    if len(ids) < MRDF_FOLDS:
        raise DatasetError(f"--protocol mrdf5: {len(ids)} persons are too few for {MRDF_FOLDS} folds")
    order = [str(name) for name in np.random.default_rng(seed).permutation(ids)]
    return [[n for i, n in enumerate(order) if i % MRDF_FOLDS != fold] for fold in range(MRDF_FOLDS)]


def _read_folds(folder: Path, known: dict[str, str]) -> list[list[str]]:
    folds = []
    for number in range(1, MRDF_FOLDS + 1):
        path = folder / f"train_{number}.txt"
        if not path.is_file():
            raise DatasetError(
                f"{path}: no such fold file; --protocol_files is a folder with train_1.txt to train_5.txt"
            )
        starts = (line.strip()[:ID_LENGTH] for line in read_text(path).split("\n")[1:])
        names = list(dict.fromkeys(start for start in starts if "id" in start))
        if unknown := [name for name in names if name not in known]:
            raise DatasetError(
                f"{path}: {len(unknown)} of its {len(names)} persons are not in the data set, e.g. "
                f"{unknown[0]}"
            )
        if not names or len(names) == len(known):
            raise DatasetError(
                f"{path}: names {len(names)} of {len(known)} persons, which leaves nobody to train or to test"
            )
        folds.append(names)
    return folds
