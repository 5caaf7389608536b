"""RAVDESS: 24 actors speak and sing two sentences in eight emotions. Real clips only.

They are more reals for training on another set, or for telling emotions apart.

Names are <modality>-<channel>-<emotion>-<intensity>-<statement>-<repetition>-<actor>; modality 01 has picture
and sound. 2D3MF's copies end with -0 (real) or -1 (fake) after the actor.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from loaders.datasets.metadata import new_clip, walk_clips
from loaders.listing import Listing, ListingConfig, select_clips
from utils.clip_type import EMOTIONS, Clip
from utils.errors import DatasetError

log = logging.getLogger(__name__)

NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<statement>0[12])"
    r"-(?P<repetition>0[12])-(?P<actor>[0-2]\d)(-(?P<suffix>[01]))?"
)
CHANNELS = {"01": "speech", "02": "song"}
PUBLISHED_COUNTS = {"speech": 1_440, "song": 1_012}  # clips with picture and sound; actor 18 does not sing
# the data set has no split of its own: this is 2D3MF's, with as many women as men in each part
ACTORS = {"test": {"05", "10", "16", "19"}, "val": {"11", "13", "18", "22"}}


def list_ravdess(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared RAVDESS tree with picture and sound.

    Raises DatasetError if there is none, or if a name is not as expected.
    """
    clips: list[Clip] = []
    skipped = 0
    for path, folder in walk_clips(data_root).items():
        match = NAME.fullmatch(path.name)
        if match is None or not 1 <= int(match["actor"]) <= 24:
            raise DatasetError(
                f"{folder}: {path.name!r} is not <modality>-<channel>-<emotion>-<intensity>-<statement>-"
                "<repetition>-<actor>, followed by -0 or -1 in 2D3MF's copies"
            )
        if match["modality"] == "01":
            clips.append(_make_clip(match, folder))
        else:
            skipped += 1
    if skipped:
        log.info("ravdess: %d clips without picture or without sound (modality 02, 03) are left out", skipped)
    if not clips:
        raise DatasetError(f"{data_root}: no clip 01-*-<actor>, which has picture and sound, is there")
    return select_clips("ravdess", data_root, clips, config)


def _make_clip(match: re.Match[str], folder: Path) -> Clip:
    actor = match["actor"]
    fake = match["suffix"] == "1"
    name = match.string if fake else match.string[: match.end("actor")]  # one clip, with -0 and without
    return new_clip(
        "ravdess",
        f"Actor_{actor}/{name}",
        folder,
        (None, None) if fake else (0, 0),  # 2D3MF's name of a fake does not say what is forged
        category="fake" if fake else CHANNELS[match["channel"]],
        method="unknown",
        person=f"Actor_{actor}",
        identity_is="person",
        stratum="men" if int(actor) % 2 else "women",
        split=next((split for split, actors in ACTORS.items() if actor in actors), "train"),
        emotion=EMOTIONS[int(match["emotion"]) - 1],
    )
