"""Data sets -> the train, validation and test clips of their union."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders import DATASETS
from loaders.audit.leaks import require_no_leak
from loaders.batches.labels import clip_labels, real_clips
from loaders.listing import Listing, ListingConfig, summarize
from loaders.splits.drawing import SPLITS, Split, SplitConfig
from loaders.splits.files import make_split
from loaders.splits.published import protocol_results
from utils.clip.backends import backend_of, describe_mixture
from utils.clip.files import read_info_values
from utils.clip_type import Clip
from utils.errors import UsageError
from utils.run.progress import map_files


@dataclass(frozen=True)
class Parts:
    """The listings and splits of some data sets, and the clips of each part."""

    listings: dict[str, Listing]
    splits: dict[str, Split]
    clips: dict[str, list[Clip]]  # part -> clips of all data sets
    backends: dict[str, int]  # landmark backend -> number of clips for training and validation
    table: list[str]  # for the log: number of clips per data set, part, category and state

    @property
    def about(self) -> dict[str, Any]:
        """For the run: data sets with generated clips, which say nothing about real videos; `backends`."""
        generated = [name for name, listing in self.listings.items() if listing.generated]
        return {"generated_sets": generated, "landmark_backends": self.backends}


def count_backends(clips: Sequence[Clip]) -> dict[str, int]:
    """Landmark backend -> number of clips of it; clips without a clip.json are left out.

    Raises ClipError if a clip.json is not valid.
    """
    names = map_files(lambda clip: backend_of(read_info_values(clip.folder)), clips, "landmark backends")
    return dict(sorted(Counter(name for name in names if name).items()))


def _by_backend(counts: Mapping[tuple[str, str], int], parts: Sequence[str]) -> dict[str, int]:
    """Landmark backend -> number of clips in `parts`, of the numbers by part and backend ("" = unknown)."""
    found: Counter[str] = Counter()
    for (part, name), number in sorted(counts.items()):
        if name and part in parts:
            found[name] += number
    return dict(found)


def load_parts(
    data_roots: Mapping[str, Path],
    listing_config: ListingConfig,
    split_config: SplitConfig,
    label_rule: str,
    *,
    allow_leaks: bool,
    needs_classes: bool,
    reals_only: bool,
    allow_test_only: bool,
) -> Parts:
    """List the data sets (name -> prepared root) and split each. Writes nothing.

    needs_classes: whether something is learnt or chosen by labels; reals_only: validate without fakes, which
    are not what is learnt. Raises DatasetError if data or splits are wrong or (without `allow_leaks`) a
    person, a family or a file is in two parts; UsageError if train or val of the union needs several classes
    but has one only, or (without `allow_test_only`) for a data set that is meant for testing only.
    """
    parts = Parts({}, {}, {part: [] for part in SPLITS}, {}, [])
    backends: Counter[tuple[str, str]] = Counter()  # of each part
    for name, root in data_roots.items():
        listing = parts.listings[name] = DATASETS[name](root, listing_config)
        if listing.test_only and not allow_test_only:
            why = f"{name} is for testing only: {listing.test_only}"
            raise UsageError(f"{why}; --allow_test_only_training trains on it nevertheless")
        split = parts.splits[name] = make_split(listing, split_config, check=not allow_leaks)
        if not allow_leaks:
            backends += require_no_leak(listing, split)
        for part in SPLITS:
            chosen = split.select(listing.clips, part)
            parts.clips[part] += chosen
            if allow_leaks:
                backends += Counter({(part, name): number for name, number in count_backends(chosen).items()})
        parts.table.extend(summarize(listing, split.split_of) + split.describe_dropped())
        shared = protocol_results(listing, split.split_of, split.published, tells_overlaps=True)["said"]
        parts.table.extend(f"{name}: {line}" for line in shared)
        if why := listing.caveat("trained"):
            parts.table.append(f"{name}: {why}")
    parts.backends.update(_by_backend(backends, ("train", "val")))
    if mixture := describe_mixture(_by_backend(backends, SPLITS)):
        parts.table.append(f"warning: {mixture}")
    if reals_only:
        parts.clips["val"] = real_clips(parts.clips["val"], label_rule)
    for part in ("train", "val") if needs_classes else ():
        classes = Counter(clip_labels(clip, label_rule)[0] for clip in parts.clips[part])
        if len(classes) < 2:
            meant = "places in EMOTIONS" if label_rule == "emotion" else "1 = fake"
            raise UsageError(
                f"the {part} split of {' + '.join(data_roots)} has one class only: {dict(classes)} ({meant})"
                "; what learns from labels, or is chosen by more than --select_by val_loss, needs both"
            )
    return parts
