"""DFDC, full and preview: labels in both cases and as numbers, ids as numbers and text, a clip without
sound, videos that no list knows.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

DFDC_COUNTS = {"train": (19_154, 100_000), "val": (2_000, 2_000), "test": (2_500, 2_500)}


def _word(number: int) -> str:
    """Ten letters, as DFDC calls its videos."""
    letters = ""
    for _ in range(10):
        number, rest = divmod(number, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


def write_dfdc(root: Path, media: Media, *, num_parts: int = 4) -> RawTree:
    """Two persons a part, each with an original and a fake; four clips each in validation and test."""
    base = root / "DFDC"
    counts: Counter[tuple[str, str, str]] = Counter()
    number = 0
    for part in range(num_parts):
        folder = base / "train" / f"dfdc_train_part_{part}"
        entries = {}
        for person in (2 * part, 2 * part + 1):
            original, fake = (f"{_word(number + i)}.mp4" for i in range(2))
            number += 2
            media.video(folder / original, person, silent=number == 2)  # a few of DFDC's have no sound track
            media.video(folder / fake, person, fake_video=True, fake_audio=person % 3 == 0)
            lower = part == 1  # the words' case differs between releases
            entries[original] = {"label": "real" if lower else "REAL", "split": "train"}
            entries[fake] = {"label": "fake" if lower else "FAKE", "split": "train", "original": original}
            counts["train", "real", "real"] += 1
            counts["train", "fake", "unknown"] += 1
        (folder / "metadata.json").write_text(json.dumps(entries), encoding="utf-8")
    for name, split in (("validation", "val"), ("test", "test")):
        lines = ["filename,label"]
        for index in range(4):
            video = f"{_word(number)}.mp4"
            number += 1
            person = 2 * num_parts + index // 2 + 2 * (split == "test")
            media.video(base / name / video, person, fake_video=index % 2 == 1)
            lines.append(f"{video},{index % 2}")
            category, method = ("fake", "unknown") if index % 2 else ("real", "real")
            counts[split, category, method] += 1
        (base / name / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (base / "test" / "metadata.json").write_text("{}", encoding="utf-8")
    return RawTree(
        dataset="dfdc",
        source=root,
        counts=counts,
        prepare_flags=("--allow_silent",),
        has_own_split=True,
    )


def write_dfdc_metadata(root: Path) -> dict[str, tuple[int, int]]:
    """The metadata alone, of published size: 50 parts, each fake with an original of its part.

    Returns (real, fake) clips per split.
    """
    number = 0
    num_reals, num_fakes = DFDC_COUNTS["train"]
    for part in range(50):
        reals, fakes = (total // 50 + (part < total % 50) for total in (num_reals, num_fakes))
        names = [f"{_word(number + i)}.mp4" for i in range(reals + fakes)]
        number += reals + fakes
        entries = {name: {"label": "REAL", "split": "train"} for name in names[:reals]}
        for index, name in enumerate(names[reals:]):
            entries[name] = {"label": "FAKE", "split": "train", "original": names[index % reals]}
        folder = root / "train" / f"dfdc_train_part_{part}"
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text(json.dumps(entries), encoding="utf-8")
    for name, split in (("validation", "val"), ("test", "test")):
        num_reals, num_fakes = DFDC_COUNTS[split]
        lines = [f"{_word(number + i)}.mp4,{int(i >= num_reals)}" for i in range(num_reals + num_fakes)]
        number += len(lines)
        (root / name).mkdir()
        (root / name / "labels.csv").write_text("\n".join(["filename,label", *lines]), encoding="utf-8")
    return dict(DFDC_COUNTS)


def write_dfdc_preview(root: Path, media: Media, *, num_train: int = 6, num_test: int = 2) -> RawTree:
    """Actors in pairs who lend each other their faces, each with an original and a fake of both methods."""
    base = root / "dfdc_preview_set"
    actors = [1_224_068 + 1_017 * index for index in range(num_train + num_test)]
    entries = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for index, actor in enumerate(actors):
        donor = actors[index ^ 1]
        part = "train" if index < num_train else "test"
        names = {
            "real": f"original_videos/{actor}/{actor}_A_001.mp4",
            "method_A": f"method_A/{actor}/{actor}_A/{donor}_{actor}_A_001.mp4",
            "method_B": f"method_B/{actor}/{actor}_A/{donor}_{actor}_A_001.mp4",
        }
        for method, name in names.items():
            fake = method != "real"
            media.video(base / name, index, fake_video=fake)
            entries[name] = {
                "label": "fake" if fake else "real",
                "set": part,
                "augmentations": ["augmented_quality"] if part == "test" and method == "method_B" else [],
                "target_id": str(actor) if index == 0 else actor,  # numbers in one place, text in another
                "swapped_id": donor if fake else None,
            }
            counts[part, "fake" if fake else "real", method] += 1
    media.video(base / "original_videos/99/99_A_001.mp4", len(actors))  # in no list: never used
    (base / "dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    return RawTree(dataset="dfdc_preview", source=root, counts=counts, has_own_split=True)
