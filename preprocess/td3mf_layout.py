"""Read a data set in 2D3MF's own layout: its crops, sound, features, lists and names become prepared clips.

    python -m preprocess.td3mf_layout --source 2D3MF_Dataset/RAVDESS --lists eat --output PREPARED
    python train.py --model td3mf --dataset manifest --data_root PREPARED --audio_features eat --run_dir ...

SOURCE/cropped/NAME.mp4                 the crops
SOURCE/audio/NAME.wav                   their sound
SOURCE/FOLDER/NAME.npy                  features; FOLDER is marlin_vit_small_ytf (base, large), efficientface,
                                        MFCC, resnet, xvectors, emotion2vec or eat
SOURCE/{train,val,test}_LISTS.txt       names of the parts' clips, without a suffix

A NAME ends with -0 (real) or -1 (fake). OUTPUT gets a folder per clip, with hard links to crop and sound
(copies where the file system has none), the features as they are, landmarks that say "no face", since this
layout has no landmarks, and manifest.csv with labels, persons, parts and the emotions of RAVDESS. Clips that
no list names are left out; those that lack a file are listed, and the exit status is 1. Such features were
made by the published code, whose encoders were in training mode: a raw video cannot be judged by them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from utils.clip.features import FeatureInfo, write_features
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, NUM_LANDMARKS, VIDEO_NAME
from utils.clip.frames import open_crop
from utils.clip.packed import FEATURES
from utils.clip_type import EMOTIONS
from utils.config import opt, parse_command
from utils.errors import ClipError, DatasetError, run_command
from utils.evaluation.results import write_csv
from utils.files import file_sha256, read_lines

log = logging.getLogger(__name__)

# folder of features -> our name of the backbone
SEEING = {f"marlin_vit_{size}_ytf": f"marlin_{size}" for size in ("small", "base", "large")}
SEEING["efficientface"] = "efficientface"
HEARING = {"MFCC": "mfcc", "resnet": "audio_resnet18", "xvectors": "xvector_scores"}
HEARING |= {name: name for name in ("emotion2vec", "eat")}
MARLIN_SPAN = 32  # frames from one row to the next
EAT_TIME_STEPS, EAT_STEP_S = 64, Fraction(16, 100)  # of its 512 tokens, eight bands each
PARTS = ("train", "val", "test")
# who is on screen, by the data set: RAVDESS's actor, DeepfakeTIMIT's speaker, FakeAVCeleb's id
PERSONS = (re.compile(r"(?:\d\d-){6}(\d\d)-[01]"), re.compile(r"(?:.*-)?(id\d+)\b.*"))


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """python -m preprocess.td3mf_layout"""

    source: Path = opt(dataclasses.MISSING, "a data set's folder in 2D3MF's layout")
    output: Path = opt(dataclasses.MISSING, "a new folder for the prepared clips")
    lists: str = opt("eat", "whose lists say which clips are in which part", choices=tuple(HEARING))


def person_of(dataset: str, name: str) -> str:
    """The person of a clip's name; the whole name without its label where the names do not say."""
    for pattern in PERSONS:
        if match := pattern.fullmatch(name):
            return match[1]
    stem = name.rpartition("-")[0]
    return stem.partition("-")[0] if dataset in ("DeepfakeTIMIT", "DFDC") else stem


def emotion_of(name: str) -> str:
    """The emotion of a RAVDESS name: its third number. Raises DatasetError for another name."""
    match = re.match(r"(?:\d\d-){2}0([1-8])-", name)
    if match is None:
        raise DatasetError(f"{name}: its third number is no emotion of RAVDESS, 01 to 08")
    return EMOTIONS[int(match[1]) - 1]


def parts_of(source: Path, lists: str) -> dict[str, str]:
    """{name: part} of the lists. Raises DatasetError if there are none, or if a name is in two."""
    parts: dict[str, str] = {}
    for part in PARTS:
        path = source / f"{part}_{lists}.txt"
        for where, name in read_lines(path) if path.is_file() else ():
            if parts.setdefault(name, part) != part:
                raise DatasetError(f"{where}: {name} is also in the {parts[name]} part")
    if not parts:
        raise DatasetError(f"{source}: none of {', '.join(f'{part}_{lists}.txt' for part in PARTS)}")
    return parts


def as_rows(folder: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(S, D) rows of a published array."""
    count = EAT_TIME_STEPS if folder == "eat" else len(values)
    return np.ascontiguousarray(values.reshape(count, -1), dtype=np.float32)


def import_clip(source: Path, name: str, folder: Path) -> None:
    """Make the clip folder of a name. Raises ClipError if a file is missing or damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, target in (
        (source / "cropped" / f"{name}.mp4", folder / VIDEO_NAME),
        (source / "audio" / f"{name}.wav", folder / AUDIO_NAME),
    ):
        if not path.is_file():
            raise ClipError(path, "missing")
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another file system
            shutil.copy2(path, target)
    with open_crop(folder / VIDEO_NAME) as crop:
        frame_s = 1 / crop.fps
        landmarks = np.full((crop.num_frames, NUM_LANDMARKS, 2), np.nan, np.float32)
    np.save(folder / LANDMARKS_NAME, landmarks)
    for place, backbone in (SEEING | HEARING).items():
        path = source / place / f"{name}.npy"
        if not path.is_file():
            continue
        try:
            rows = as_rows(place, np.load(path, allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise ClipError(path, f"not readable features ({error})") from error
        step_s = Fraction(1) if place in HEARING else frame_s
        step_s = EAT_STEP_S if place == "eat" else step_s * MARLIN_SPAN if "marlin" in place else step_s
        read = folder / (AUDIO_NAME if place in HEARING else VIDEO_NAME)
        info = FeatureInfo(
            backbone=backbone,
            weights="2D3MF's",
            weights_sha256="",
            settings={"layout": place},
            source=read.name,
            source_sha256=file_sha256(read),
            step_s=str(step_s),
            length_s=str(step_s),
            rows_sha256="",
            tools={},
        )
        write_features(folder, FEATURES + backbone, rows, info)


def main() -> int:
    config = parse_command(LayoutConfig, __doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # whose name says which data set it is: of "." or "..", too
    source = config.source.resolve() if config.source.name in ("", "..") else config.source
    rows, failed = [], 0
    for name, part in sorted(parts_of(source, config.lists).items()):
        if not re.fullmatch(r"[^/\0]+-[01]", name):
            raise DatasetError(f"{source}: {name} is no name that ends with -0 or -1")
        try:
            import_clip(source, name, config.output / "clips" / name)
        except ClipError as error:
            log.error("%s", error)
            failed += 1
            continue
        row = {"path": f"clips/{name}", "label": name[-1], "identity": person_of(source.name, name)}
        if source.name == "RAVDESS":
            row["emotion"] = emotion_of(name)
        rows.append({**row, "split": part})
    if rows:
        write_csv(config.output / "manifest.csv", rows)
    log.info("%d clips in %s, %d failed", len(rows), config.output, failed)
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    run_command(main)
