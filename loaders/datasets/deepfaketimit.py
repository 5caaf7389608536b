"""DeepfakeTIMIT, with real clips from VidTIMIT: no metadata, folder and file names say everything.

    real/<subject>/<sentence>                                     (made by preprocess.vidtimit)
    higher_quality/<subject>/<sentence>-video-<donor>             body and voice of <subject>, face of <donor>
    lower_quality/<subject>/<sentence>-video-<donor>              (`low_quality` in the published code)

16 pairs of look-alikes exchange faces. Both directions and both qualities of a pair stay together. The sound
is always genuine.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from loaders.datasets.metadata import new_clip, walk_clips
from loaders.groups import joined
from loaders.listing import Listing, ListingConfig, select_clips, tally
from utils.clip_type import Clip
from utils.errors import DatasetError, IncompleteError

log = logging.getLogger(__name__)

VARIANTS = ("both", "higher_quality", "lower_quality")
PUBLISHED_COUNTS = {"real": 320, "higher_quality": 320, "lower_quality": 320}
FOLDERS = {  # folder -> category
    "real": "real",
    "higher_quality": "higher_quality",
    "lower_quality": "lower_quality",
    "low_quality": "lower_quality",
}
RELEASED_CLIPS = "features_mtcnn"  # where those folders lie in the published code
FAKE = re.compile(r"(?P<sentence>.+)-video-(?P<donor>[a-z0-9]+)")


class _Found(NamedTuple):
    """What the path of a clip says."""

    category: str
    subject: str
    name: PurePosixPath  # below the folder of the subject
    sentence: str
    donor: str  # "" of a real clip


def list_deepfaketimit(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared DeepfakeTIMIT tree; `config.variant` leaves out the fakes of one quality.

    Raises DatasetError where the root or names are not as expected, or if there is no real or no fake clip.
    """
    variant = config.variant_of("deepfaketimit", VARIANTS)
    root = data_root / RELEASED_CLIPS if (data_root / RELEASED_CLIPS).is_dir() else data_root
    found = [(_parse(path, folder), folder) for path, folder in walk_clips(root).items()]
    counts = Counter(clip.category for clip, _ in found)
    wanted = ["real", *(name for name in VARIANTS[1:] if variant in (name, "both"))]
    if missing := [name for name in wanted if not counts[name]]:
        hint = " (python -m preprocess.vidtimit builds them from VidTIMIT)" if "real" in missing else ""
        raise IncompleteError(
            f"{root}: no clips of {' and '.join(missing)}{hint}; found {tally(counts) or 'nothing'}"
        )
    # from all fakes, so that the pairs are the same for every variant
    group_of = joined((clip.subject, clip.donor) for clip, _ in found if clip.donor)
    clips = [_make_clip(clip, folder, group_of) for clip, folder in found if clip.category in wanted]
    if unpaired := sum(clip.label == 0 and not clip.split_group for clip in clips):
        log.info("deepfaketimit: %d real clips show subjects without fakes", unpaired)
    return select_clips("deepfaketimit", data_root, clips, config, variants=VARIANTS, unlisted=())


def _parse(path: PurePosixPath, folder: Path) -> _Found:
    category = FOLDERS.get(path.parts[0])
    if category is None or len(path.parts) < 3:
        raise DatasetError(f"{folder}: expected <one of {', '.join(FOLDERS)}>/<subject>/<clip>, found {path}")
    subject, name = path.parts[1], PurePosixPath(*path.parts[2:])
    if category == "real":
        return _Found(category, subject, name, name.name, "")
    match = FAKE.fullmatch(path.name)
    if match is None:
        raise DatasetError(f"{folder}: expected a fake named <sentence>-video-<donor>, found {path.name!r}")
    return _Found(category, subject, name, match["sentence"], match["donor"])


def _make_clip(found: _Found, folder: Path, group_of: dict[str, str]) -> Clip:
    category, subject, name, sentence, donor = found
    return new_clip(
        "deepfaketimit",
        f"{category}/{subject}/{name}",
        folder,
        (int(category != "real"), 0),
        category=category,
        method="faceswap-gan",
        person=subject,
        identity_is="person",
        donors=(donor,),
        pair=f"real/{subject}/{sentence}",
        stratum={"f": "women", "m": "men"}.get(subject[0], ""),
        group=group_of.get(subject, ""),
    )
