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

from loaders.datasets.metadata import require_folder, walk_clips
from loaders.groups import joined
from loaders.listing import Listing, ListingConfig, select_clips
from utils.errors import DatasetError
from utils.types import Clip

log = logging.getLogger(__name__)

VARIANTS = ("both", "higher_quality", "lower_quality")
PUBLISHED_COUNTS = {"real": 320, "higher_quality": 320, "lower_quality": 320}
FOLDERS = {  # folder -> category
    "real": "real",
    "higher_quality": "higher_quality",
    "lower_quality": "lower_quality",
    "low_quality": "lower_quality",
}
# where those folders lie below the data root: the published code's place, and ours
CLIP_ROOTS = ("features_mtcnn", ".")
FAKE = re.compile(r"(?P<sentence>.+)-video-(?P<donor>[a-z0-9]+)")


def list_deepfaketimit(data_root: Path, config: ListingConfig) -> Listing:
    """All clips of a prepared DeepfakeTIMIT tree; `config.variant` leaves out the fakes of one quality.

    Raises DatasetError where the root or names are not as expected, or if there is no real or no fake clip.
    """
    variant = config.variant_of("deepfaketimit", VARIANTS)
    require_folder(data_root)
    root = next(data_root / name for name in CLIP_ROOTS if (data_root / name).is_dir())
    walked: dict[tuple[str, PurePosixPath], Path] = {}
    for path, folder in walk_clips(root).items():
        category = FOLDERS.get(path.parts[0])
        if category is None or len(path.parts) < 3:
            raise DatasetError(
                f"{folder}: expected <one of {', '.join(FOLDERS)}>/<subject>/<clip> below {root}, found "
                f"{path}"
            )
        key = category, PurePosixPath(*path.parts[1:])
        if key in walked:
            raise DatasetError(f"{folder} and {walked[key]} are the same clip; remove one of them")
        walked[key] = folder
    donors = {key: _donor(key[1], folder) for key, folder in walked.items() if key[0] != "real"}
    counts = Counter(category for category, _ in walked)
    missing = [name for name in PUBLISHED_COUNTS if not counts[name] and variant in (name, "both")]
    if not counts["real"]:
        missing = ["real", *(name for name in missing if name != "real")]
    if missing:
        hint = " (python -m preprocess.vidtimit builds them from VidTIMIT)" if "real" in missing else ""
        raise DatasetError(
            f"{root}: no clips of {' and '.join(missing)}{hint}; found "
            + (", ".join(f"{count} of {name}" for name, count in sorted(counts.items())) or "nothing")
        )
    # from all fakes, so that the pairs are the same for every variant
    group_of = joined((key[1].parts[0], donor) for key, donor in donors.items())
    clips = [
        _make_clip(category, path, folder, donors.get((category, path), ""), group_of)
        for (category, path), folder in walked.items()
        if variant in ("both", category) or category == "real"
    ]
    if unpaired := sum(clip.category == "real" and not clip.split_group for clip in clips):
        log.info("deepfaketimit: %d real clips show subjects without fakes", unpaired)
    return select_clips("deepfaketimit", data_root, clips, config, variants=VARIANTS)


def _donor(path: PurePosixPath, folder: Path) -> str:
    match = FAKE.fullmatch(path.name)
    if match is None:
        raise DatasetError(f"{folder}: expected a fake named <sentence>-video-<donor>, found {path.name!r}")
    return match["donor"]


def _make_clip(
    category: str, path: PurePosixPath, folder: Path, donor: str, group_of: dict[str, str]
) -> Clip:
    subject = path.parts[0]
    sentence = path.name.removesuffix(f"-video-{donor}") if donor else path.name
    fake = int(category != "real")
    group = group_of.get(subject, "")
    return Clip(
        clip_id=f"deepfaketimit/{category}/{path}",
        folder=folder,
        label=fake,
        video_label=fake,
        audio_label=0,
        category=category,
        method="faceswap-gan" if fake else "real",
        identity=f"deepfaketimit/{subject}",
        source_ids=(f"deepfaketimit/{donor}",) if donor else (),
        target_id=f"deepfaketimit/{subject}",
        pair_key=f"deepfaketimit/real/{subject}/{sentence}",
        stratum={"f": "women", "m": "men"}.get(subject[0], ""),
        dataset="deepfaketimit",
        split_group=f"deepfaketimit/{group}" if group else "",
    )
