"""Deepfake-Eval-2024, its videos: a table of what was found on the web in 2024, to clips. For testing only.

`video-metadata-publish-with-links.csv` (or `video-metadata-publish.csv`): `Filename`, `Video Ground Truth`,
`Audio Ground Truth`, or one `Ground Truth` for both, and `Finetuning Set` (Train, Test); columns are found by
name, in upper or lower case. Clips with another label than Real and Fake are left out and counted. Clips are
found by their file names. They are long and show several persons, who are not named: each clip counts alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import (
    find_by_name,
    inside,
    listed_once,
    new_clip,
    no_metadata,
    read_rows,
    separator_hint,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips, tally
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.names import brief

log = logging.getLogger(__name__)

TABLES = ("video-metadata-publish-with-links.csv", "video-metadata-publish.csv")
LABELS = {"real": 0, "fake": 1}
UNDECIDED = "neither real nor fake"
TRUTHS = ("ground truth", "video ground truth", "audio ground truth")  # the first, or the other two
CATEGORIES = {(1, 0): "video_fake", (0, 1): "audio_fake", (1, 1): "both_fake"}
TEST_ONLY = "Deepfake-Eval-2024 measures detectors on what they have not been made for"


def list_deepfake_eval_2024(data_root: Path, config: ListingConfig) -> Listing:
    """All videos of a prepared Deepfake-Eval-2024 tree; those without a plain label are excluded.

    Raises DatasetError where root, table or clips are not as expected.
    """
    path = next((data_root / name for name in TABLES if (data_root / name).exists()), None)
    if path is None:
        raise no_metadata(data_root, *TABLES)
    clips = {clip.folder.name: clip for clip in listed_once(_read_clips(data_root, path))}
    folders = find_by_name(data_root, clips)
    listed = [replace(clip, place=str(folders.get(name, clip.place))) for name, clip in clips.items()]
    unwanted = {clip.clip_id for clip in listed if clip.category == UNDECIDED}
    return select_clips(
        "deepfake_eval_2024", data_root, listed, config, unwanted=unwanted, test_only=TEST_ONLY
    )


def _read_clips(root: Path, path: Path) -> Iterator[tuple[str, Clip]]:
    """(file and line, clip) of each row; the clip's folder is not found yet."""
    columns: dict[str, str] = {}
    undecided: Counter[str] = Counter()
    for line, row in read_rows(path, ()):
        where = f"{path}, line {line}"
        columns = columns or _columns(path, row)
        truths = [row[columns[key]].lower() for key in TRUTHS if key in columns]
        labels, category = _judge(*truths)
        if category == UNDECIDED:
            undecided[" and ".join(truths)] += 1
        name = without_suffix(PurePosixPath(inside(row[columns["filename"]], where).name)).as_posix()
        clip = new_clip(
            "deepfake_eval_2024",
            name,
            root / name,
            labels,
            category=category,
            method="unknown",
            person=name,
            identity_is="clip",
            split=_split(row, columns, where),
        )
        yield where, clip
    if undecided:
        log.info("deepfake_eval_2024: %d clips are %s (%s)", undecided.total(), UNDECIDED, tally(undecided))


def _columns(path: Path, row: Mapping[str, str]) -> dict[str, str]:
    """What is looked for, in lower case -> the table's own name of the column."""
    found = {name.lower(): name for name in row}
    columns = {key: found[key] for key in ("filename", *TRUTHS, "finetuning set") if key in found}
    truths = {key for key in TRUTHS if key in columns}
    if "filename" not in columns or truths not in ({TRUTHS[0]}, set(TRUTHS[1:])):
        hint = separator_hint(next(iter(row), ""))
        raise DatasetError(
            f"{path}, line 1: expected the columns Filename and either {' and '.join(TRUTHS[1:])} or "
            f"{TRUTHS[0]}; its columns are {', '.join(row)}{hint}"
        )
    log.info("deepfake_eval_2024: %s: read are %s", path.name, ", ".join(columns.values()))
    return columns


def _judge(picture: str, sound: str | None = None) -> tuple[tuple[int | None, int | None], str]:
    """(labels of picture and sound, category); one label for both says that something is forged, not what.

    A clip is fake if one modality is, and real if the picture is and nothing else is said of the sound.
    """
    label = LABELS.get(picture)
    if sound is None:
        return (0, 0) if label == 0 else (None, None), picture if label is not None else UNDECIDED
    labels = label, LABELS.get(sound)
    if 1 in labels:
        return labels, CATEGORIES[label or 0, labels[1] or 0]
    return labels, "real" if label == 0 and (labels[1] == 0 or not sound) else UNDECIDED


def _split(row: Mapping[str, str], columns: Mapping[str, str], where: str) -> str:
    """The part for fine-tuning, or the test part, to which clips without a word belong."""
    part = row[columns["finetuning set"]].lower() if "finetuning set" in columns else ""
    if part not in ("train", "test", ""):
        raise DatasetError(f"{where}: Finetuning Set is {brief(part)}, expected Train or Test")
    return part or "test"
