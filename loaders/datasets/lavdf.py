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
    no_metadata,
    read_json_entries,
    require_folder,
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
    require_folder(data_root)
    path = next((data_root / name for name in METADATA if (data_root / name).is_file()), None)
    if path is None:
        raise no_metadata(data_root, *METADATA)
    clips: dict[str, Clip] = {}
    for where, entry in read_json_entries(path, KEYS):
        clip = _make_clip(data_root, where, entry)
        if clips.setdefault(clip.clip_id, clip) is not clip:
            raise DatasetError(f"{where}: {entry['file']} is already listed in an earlier entry")
    return select_clips("lavdf", data_root, list(clips.values()), config)


def _make_clip(root: Path, where: str, entry: dict[str, Any]) -> Clip:
    name = without_suffix(inside(entry["file"], where)).as_posix()
    if str(entry["split"]) not in PARTS:
        raise DatasetError(f"{where}: split is {brief(entry['split'])}, expected train, dev or test")
    modified = (entry["modify_video"], entry["modify_audio"])
    if not all(isinstance(value, (bool, int)) and value in (0, 1) for value in modified):
        raise DatasetError(
            f"{where}: modify_video and modify_audio are {brief(modified)}, expected true or false"
        )
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
    family, category = f"lavdf/{family}", CATEGORIES[video, audio]
    return Clip(
        clip_id=f"lavdf/{name}",
        folder=root / name,
        label=int(video or audio),
        video_label=int(video),
        audio_label=int(audio),
        category=category,
        method=category,  # the tool of each clip is not published
        identity=family,
        source_ids=(),
        target_id=family,
        pair_key=family,
        stratum="",
        dataset="lavdf",
        split=PARTS[str(entry["split"])],
        split_group=family,
        video_fake_segments=periods if video else None,
        audio_fake_segments=periods if audio else None,
    )
