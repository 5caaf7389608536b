"""LAV-DF: metadata to clips. Fakes are forged in parts: one or more words, seen or heard or both.

`metadata.min.json` or the longer `metadata.json`: a list of entries with `file` ("train/000001.mp4"),
`n_fakes`, `fake_periods` in seconds, `original`, `modify_video`, `modify_audio` and `split` (train, dev,
test). The speaker is not named: the family of clips made from one original stands for the person.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loaders.datasets.metadata import (
    as_segments,
    inside,
    new_clip,
    no_metadata,
    read_json_entries,
    without_suffix,
)
from loaders.listing import Listing, ListingConfig, select_clips
from utils.errors import DatasetError
from utils.names import brief
from utils.types import Clip

METADATA = ("metadata.min.json", "metadata.json")
KEYS = ("file", "n_fakes", "fake_periods", "original", "modify_video", "modify_audio", "split")
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
    path = next((data_root / name for name in METADATA if (data_root / name).is_file()), None)
    if path is None:
        raise no_metadata(data_root, *METADATA)
    clips = [_make_clip(data_root, where, entry) for where, entry in read_json_entries(path, KEYS)]
    return select_clips("lavdf", data_root, clips, config)


def _make_clip(root: Path, where: str, entry: dict[str, Any]) -> Clip:
    name = without_suffix(inside(entry["file"], where)).as_posix()
    if str(entry["split"]) not in PARTS:
        raise DatasetError(f"{where}: split is {brief(entry['split'])}, expected train, dev or test")
    modified = (entry["modify_video"], entry["modify_audio"])
    if not all(isinstance(value, (bool, int)) and value in (0, 1) for value in modified):
        raise DatasetError(f"{where}: modify_video, modify_audio: {brief(modified)}, expected true or false")
    video, audio = map(bool, modified)
    periods = as_segments(entry["fake_periods"], where)
    if bool(entry["n_fakes"]) != (video or audio) or bool(periods) != (video or audio):
        raise DatasetError(
            f"{where}: n_fakes {brief(entry['n_fakes'])} and {len(periods)} fake_periods do not fit "
            f"modify_video {video} and modify_audio {audio}"
        )
    original = entry["original"]
    if original is None and (video or audio):
        raise DatasetError(f"{where}: original is null, but a fake needs one")
    family = name if original is None else without_suffix(inside(original, where)).as_posix()
    # the method is the category: the tool of each clip is not published
    return new_clip(
        "lavdf",
        name,
        root / name,
        (int(video), int(audio)),
        category=CATEGORIES[video, audio],
        person=family,
        split=PARTS[str(entry["split"])],
        group=family,
        segments=(periods if video else None, periods if audio else None),
    )
