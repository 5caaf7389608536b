"""Celeb-DF v1, v2 and ++: labels from the folders, the official test part from List_of_testing_videos.txt.

That list's own label column means 1 = real and is not read. The videos have no sound: prepare them with
--allow_silent; whether the sound is fake is unknown. In Celeb-DF++ the fakes lie in
Celeb-synthesis/<scenario>/<method>/, v2's own under FaceSwap/Celeb-DF: the scenario is the category.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from loaders.datasets.metadata import as_id, inside, new_clip, nfc, require_file, walk_clips
from loaders.listing import Listing, ListingConfig, select_clips, tally
from utils.clip_type import Clip
from utils.errors import DatasetError, IncompleteError
from utils.files import read_lines

log = logging.getLogger(__name__)

TEST_LIST = "List_of_testing_videos.txt"
FOLDERS = {name.lower(): name for name in ("Celeb-real", "YouTube-real", "Celeb-synthesis")}
PUBLISHED_COUNTS = {  # release -> folder -> clips
    "v1": {"Celeb-real": 158, "YouTube-real": 250, "Celeb-synthesis": 795},
    "v2": {"Celeb-real": 590, "YouTube-real": 300, "Celeb-synthesis": 5_639},
    "++": {"Celeb-real": 590, "YouTube-real": 300, "Celeb-synthesis": 53_196},
}
PUBLISHED_TEST_COUNTS = {
    "v2": {"Celeb-real": 108, "YouTube-real": 70, "Celeb-synthesis": 340},
    "++": {"Celeb-real": 108, "YouTube-real": 70, "Celeb-synthesis": 5_100},
}
SCENARIOS = ("FaceSwap", "FaceReenact", "TalkingFace")  # of ++: 8, 7 and 7 methods
NAMES = {
    "Celeb-real": re.compile(r"id\d+_\d+"),  # <person>_<recording>
    "YouTube-real": re.compile(r"\d+"),
    # <person>_<donor>_<recording>; of ++ also <person>_<recording>_test_<whose sound>
    "Celeb-synthesis": re.compile(r"id\d+_id\d+_\d+|id\d+_\d+_test_.+"),
}
KNOWN_OVERLAP = (
    "Celeb-DF's official test part shows celebrities of its train part; use it to test across data sets"
)


def list_celebdf(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared Celeb-DF tree, v1, v2 or ++.

    Raises DatasetError where root, test list or names are not as expected.
    """
    tested = _read_test_list(require_file(data_root / TEST_LIST, "Celeb-DF's official test part"))
    walked = [(_key(path, folder), folder) for path, folder in walk_clips(data_root).items()]
    counts = Counter(category for (category, _), _ in walked)
    for name in ("Celeb-real", "Celeb-synthesis"):
        if not counts[name]:
            raise IncompleteError(f"{data_root}: no clip in {name}; found {tally(counts) or 'none'}")
    release = next((name for name, published in PUBLISHED_COUNTS.items() if published == counts), None)
    state = f"release {release}, complete" if release else "not a complete release"
    log.info("celebdf: %s: %s", state, tally(counts))
    # a test clip that is not prepared is missing; the other clips are listed nowhere
    walked += [(key, data_root.joinpath(*key)) for key in tested - {key for key, _ in walked}]
    clips = [_make_clip(*key, folder, key in tested) for key, folder in sorted(walked)]
    # nearly all celebrities are linked by swaps: without the fakes between parts, few would be left
    return select_clips("celebdf", data_root, clips, config, donor_rule="keep", known_overlap=KNOWN_OVERLAP)


def _read_test_list(path: Path) -> set[tuple[str, str]]:
    """(folder, name) of each line "<label> <folder>/<name>.mp4"."""
    keys = set()
    for where, line in read_lines(path):
        label, _, name = line.replace("\t", " ").partition(" ")
        if as_id(label) not in {"0", "1"} or not name:
            raise DatasetError(f"{where}: expected '<0 or 1> <folder>/<name>.mp4', found {line!r}")
        keys.add(_key(inside(name.strip(), where).with_suffix(""), where))
    if not keys:
        raise DatasetError(f"{path}: lists no video")
    return keys


def _key(path: PurePosixPath, origin: Path | str) -> tuple[str, str]:
    """(folder, name) of a clip; mirrors spell YouTube differently and add folders between the two.

    A name of ++ begins with scenario and method: <scenario>/<method>/<person>_...
    """
    folder = FOLDERS.get(path.parts[0].lower())
    if folder is None or len(path.parts) < 2:
        raise DatasetError(f"{origin}: expected a clip in {', '.join(FOLDERS.values())}, found {path}")
    name = nfc(path.name)
    if NAMES[folder].fullmatch(name) is None:
        raise DatasetError(f"{origin}: {name!r} is not the name of a clip in {folder}")
    if path.parts[1] in SCENARIOS and len(path.parts) > 3:
        return folder, "/".join((*path.parts[1:3], name))
    return folder, name


def _make_clip(category: str, name: str, folder: Path, tested: bool) -> Clip:
    *kind, stem = name.split("/")
    words = stem.split("_")
    persons = [word for word in words[:2] if word.startswith("id")]
    fake = category == "Celeb-synthesis"
    return new_clip(
        "celebdf",
        f"{category}/{name}",
        folder,
        (int(fake), None),
        category=kind[0] if kind else category,
        method=kind[1] if kind else "celeb-synthesis",
        # the persons of the YouTube videos are unknown: each video counts as a person of its own
        person=persons[0] if persons else f"youtube{name}",
        identity_is="person" if persons else "clip",
        donors=persons[1:],
        pair=f"Celeb-real/{persons[0]}_{words[len(persons)]}" if fake else f"{category}/{name}",
        stratum="celebrity" if persons else "youtube",
        split="test" if tested else "train",
    )
