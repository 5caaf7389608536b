"""LAV-DF: metadata to clips. Fakes are forged in parts: one or more words, seen or heard or both.

`metadata.min.json` or, where it lists nothing, the longer `metadata.json`: a list of entries with `file`
("train/000001.mp4"), `n_fakes`, `fake_periods` in seconds, `original`, `modify_video`, `modify_audio` and
`split` (train, dev, test). The speaker is not named: the family of clips made from one original stands for
the person.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loaders.datasets.json_files import read_json_entries
from loaders.datasets.metadata import (
    as_id,
    as_segments,
    first_full,
    inside,
    is_empty,
    listed_once,
    new_clip,
    no_metadata,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.names import brief

METADATA = ("metadata.min.json", "metadata.json")
KEYS = ("file", "n_fakes", "fake_periods", "original", "modify_video", "modify_audio", "split")
FLAGS = {"false": False, "0": False, "true": True, "1": True}
PARTS = {"train": "train", "dev": "val", "test": "test"}
# (modify_video, modify_audio) -> category
CATEGORIES = {
    (False, False): "real",
    (True, False): "visual_modified",
    (False, True): "audio_modified",
    (True, True): "both_modified",
}


def list_lavdf(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared LAV-DF tree.

    Raises DatasetError where root, metadata or clips are not as expected.
    """

    def read(path: Path) -> Iterator[Clip]:
        entries = read_json_entries(path, KEYS)
        return listed_once((where, _make_clip(data_root, where, entry)) for where, entry in entries)

    if not any((data_root / name).is_file() for name in METADATA):
        raise no_metadata(data_root, *METADATA)
    clips = first_full({data_root / name: read for name in METADATA})
    return select_clips("lavdf", data_root, clips, config)


def _make_clip(root: Path, where: str, entry: dict[str, Any]) -> Clip:
    name = without_suffix(inside(entry["file"], where)).as_posix()
    if str(entry["split"]) not in PARTS:
        raise DatasetError(f"{where}: split is {brief(entry['split'])}, expected train, dev or test")
    modified = (entry["modify_video"], entry["modify_audio"])
    video, audio = (FLAGS.get(as_id(str(value)).lower()) for value in modified)
    if video is None or audio is None:
        raise DatasetError(f"{where}: modify_video, modify_audio: {brief(modified)}, expected true or false")
    periods = as_segments(entry["fake_periods"], where)
    if bool(entry["n_fakes"]) != (video or audio) or bool(periods) != (video or audio):
        raise DatasetError(
            f"{where}: n_fakes {brief(entry['n_fakes'])} and {len(periods)} fake_periods do not fit "
            f"modify_video {video} and modify_audio {audio}"
        )
    original = entry["original"]
    if is_empty(original) and (video or audio):
        raise DatasetError(f"{where}: original is null, but a fake needs one")
    family = name if is_empty(original) else without_suffix(inside(original, where)).as_posix()
    # the method is the category: the tool of each clip is not published
    return new_clip(
        "lavdf",
        name,
        root / name,
        (int(video), int(audio)),
        category=CATEGORIES[video, audio],
        person=family,
        identity_is="family",
        split=PARTS[str(entry["split"])],
        group=family,
        segments=(periods if video else None, periods if audio else None),
    )
