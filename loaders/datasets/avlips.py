"""AVLips v1.0: the folder is the label, and there is nothing else: no person, no method, no split.

`0_real/<N>` and `1_fake/<N>`; equal numbers have nothing to do with each other. The fakes are
lip-synchronised (MakeItTalk, Wav2Lip, TalkLip, SadTalker), so their picture is forged; of their sound nothing
is said. The sound of each video is also in `wav/`.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from loaders.datasets.metadata import new_clip, walk_clips
from loaders.listing import Listing, ListingConfig, select_clips, tally
from utils.errors import DatasetError, IncompleteError

log = logging.getLogger(__name__)

FOLDERS = {"0_real": "real", "1_fake": "fake"}  # -> category
PUBLISHED_COUNTS = {"real": 3_373, "fake": 4_184}
TEST_ONLY = "AVLips names neither persons nor a split, so a leak between drawn parts cannot be found"


def list_avlips(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared AVLips tree. Raises DatasetError where folders are not as expected."""
    clips = []
    for path, folder in walk_clips(data_root).items():
        category = FOLDERS.get(path.parts[0])
        if category is None or len(path.parts) != 2:
            raise DatasetError(f"{folder}: expected a clip in {' or '.join(FOLDERS)}")
        clips.append(
            new_clip(
                "avlips",
                path,
                folder,
                (1, None) if category == "fake" else (0, 0),
                category=category,
                method="unknown",
                person=path.as_posix(),
                identity_is="clip",
                stratum=category,
                split="test",
            )
        )
    counts = Counter(clip.category for clip in clips)
    if len(counts) < len(FOLDERS):
        raise IncompleteError(
            f"{data_root}: expected clips in {' and '.join(FOLDERS)}; found {tally(counts) or 'none'}"
        )
    state = "complete" if counts == PUBLISHED_COUNTS else f"not the published {tally(PUBLISHED_COUNTS)}"
    log.info("avlips: %s, %s", tally(counts), state)
    return select_clips("avlips", data_root, clips, config, test_only=TEST_ONLY)
