"""Celeb-DF v1 and v2: labels from the folders, the official test part from List_of_testing_videos.txt.

That list's own label column means 1 = real and is not read. The videos have no sound: prepare them with
--allow_silent; whether the sound is fake is unknown.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import inside, nfc, read_text, require_file, require_folder, walk_clips
from loaders.listing import Listing, ListingConfig, select_clips
from utils.errors import DatasetError
from utils.types import Clip

log = logging.getLogger(__name__)

TEST_LIST = "List_of_testing_videos.txt"
FOLDERS = {name.lower(): name for name in ("Celeb-real", "YouTube-real", "Celeb-synthesis")}
PUBLISHED_COUNTS = {  # release -> folder -> clips
    "v1": {"Celeb-real": 158, "YouTube-real": 250, "Celeb-synthesis": 795},
    "v2": {"Celeb-real": 590, "YouTube-real": 300, "Celeb-synthesis": 5_639},
}
PUBLISHED_TEST_COUNTS = {"v2": {"Celeb-real": 108, "YouTube-real": 70, "Celeb-synthesis": 340}}
NAMES = {
    "Celeb-real": re.compile(r"(?P<person>id\d+)_(?P<recording>\d+)"),
    "YouTube-real": re.compile(r"(?P<recording>\d+)"),
    "Celeb-synthesis": re.compile(r"(?P<person>id\d+)_(?P<donor>id\d+)_(?P<recording>\d+)"),
}
KNOWN_OVERLAP = (
    "Celeb-DF's official test part shows celebrities of its train part; use it to test across data sets"
)


def list_celebdf(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared Celeb-DF tree, v1 or v2.

    Raises DatasetError where root, test list or names are not as expected.
    """
    require_folder(data_root)
    tested = _read_test_list(require_file(data_root / TEST_LIST, "Celeb-DF's official test part"))
    walked: dict[tuple[str, str], Path] = {}
    for path, folder in walk_clips(data_root).items():
        key = _key(path, folder)
        if key in walked:
            raise DatasetError(f"{folder} and {walked[key]} are the same clip; remove one of them")
        walked[key] = folder
    counts = Counter(name for name, _ in walked)
    for name in ("Celeb-real", "Celeb-synthesis"):
        if not counts[name]:
            raise DatasetError(
                f"{data_root}: no clip in {name}; found {dict(sorted(counts.items())) or 'none'}"
            )
    release = next((name for name, published in PUBLISHED_COUNTS.items() if published == counts), None)
    state = f"release {release}, complete" if release else "not a complete release"
    log.info("celebdf: %s: %s", state, ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    # a test clip that is not prepared is missing; the other clips are listed nowhere
    walked |= {key: data_root / key[0] / key[1] for key in tested if key not in walked}
    clips = [_make_clip(*key, folder, tested) for key, folder in sorted(walked.items())]
    # nearly all celebrities are linked by swaps: without the fakes between parts, few would be left
    return select_clips("celebdf", data_root, clips, config, donor_rule="keep", known_overlap=KNOWN_OVERLAP)


def _read_test_list(path: Path) -> set[tuple[str, str]]:
    """(folder, name) of each line "<label> <folder>/<name>.mp4"."""
    keys = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        label, _, name = line.strip().partition(" ")
        if label not in {"0", "1"} or not name:
            raise DatasetError(
                f"{path}, line {number}: expected '<0 or 1> <folder>/<name>.mp4', found {line!r}"
            )
        video = inside(name.strip(), f"{path}, line {number}")
        keys.add(_key(video.with_suffix(""), f"{path}, line {number}"))
    if not keys:
        raise DatasetError(f"{path}: lists no video")
    return keys


def _key(path: PurePosixPath, origin: Path | str) -> tuple[str, str]:
    """(folder, name) of a clip; mirrors spell YouTube differently and add folders between the two."""
    folder = FOLDERS.get(path.parts[0].lower())
    if folder is None or len(path.parts) < 2:
        raise DatasetError(f"{origin}: expected a clip in {', '.join(FOLDERS.values())}, found {path}")
    name = nfc(path.name)
    if NAMES[folder].fullmatch(name) is None:
        raise DatasetError(f"{origin}: {name!r} is not the name of a clip in {folder}")
    return folder, name


def _make_clip(category: str, name: str, folder: Path, tested: set[tuple[str, str]]) -> Clip:
    match = NAMES[category].fullmatch(name)
    assert match is not None  # see _key
    fields = match.groupdict()
    fake = int(category == "Celeb-synthesis")
    # the persons of the YouTube videos are unknown: each video counts as a person of its own
    person = f"celebdf/{fields.get('person') or f'youtube{name}'}"
    original = f"Celeb-real/{fields['person']}_{fields['recording']}" if fake else f"{category}/{name}"
    return Clip(
        clip_id=f"celebdf/{category}/{name}",
        folder=folder,
        label=fake,
        video_label=fake,
        audio_label=None,
        category=category,
        method="celeb-synthesis" if fake else "real",
        identity=person,
        source_ids=(f"celebdf/{fields['donor']}",) if fake else (),
        target_id=person,
        pair_key=f"celebdf/{original}",
        stratum="youtube" if category == "YouTube-real" else "celebrity",
        dataset="celebdf",
        split="test" if (category, name) in tested else "train",
    )
