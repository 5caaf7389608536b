"""Data sets -> the train, validation and test clips of their union."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loaders import DATASETS
from loaders.audit.leaks import require_no_leak
from loaders.batches.labels import clip_labels
from loaders.listing import Listing, ListingConfig, summarize
from loaders.splits.drawing import SPLITS, Split, SplitConfig
from loaders.splits.files import make_split
from loaders.splits.overlap import count_overlap
from utils.clip_type import Clip
from utils.errors import UsageError
from utils.evaluation.seen import sentence_of_overlap


@dataclass(frozen=True)
class Parts:
    """The listings and splits of some data sets, and the clips of each part."""

    listings: dict[str, Listing]
    splits: dict[str, Split]
    clips: dict[str, list[Clip]]  # part -> clips of all data sets
    table: list[str]  # for the log: number of clips per data set, part, category and state

    @property
    def generated_sets(self) -> list[str]:
        """Names of the data sets with generated clips, which say nothing about real videos."""
        return [name for name, listing in self.listings.items() if listing.generated]


def load_parts(
    data_roots: Mapping[str, Path],
    listing_config: ListingConfig,
    split_config: SplitConfig,
    label_rule: str,
    *,
    allow_leaks: bool,
    allow_test_only: bool,
) -> Parts:
    """List the data sets (name -> prepared root) and split each. Writes nothing.

    Raises DatasetError if data or splits are wrong or (without `allow_leaks`) a person, a family or a file is
    in two parts; UsageError if train or val of the union has one class only, or (without `allow_test_only`)
    for a data set that is meant for testing only.
    """
    parts = Parts({}, {}, {part: [] for part in SPLITS}, [])
    for name, root in data_roots.items():
        listing = parts.listings[name] = DATASETS[name](root, listing_config)
        if listing.test_only and not allow_test_only:
            why = f"{name} is for testing only: {listing.test_only}"
            raise UsageError(f"{why}; --allow_test_only_training trains on it nevertheless")
        split = parts.splits[name] = make_split(listing, split_config, check=not allow_leaks)
        if not allow_leaks:
            require_no_leak(listing, split)
        own = {part: split.select(listing.clips, part) for part in SPLITS}
        for part, clips in own.items():
            parts.clips[part] += clips
        parts.table.extend(summarize(listing, split.split_of) + split.describe_dropped())
        if own["test"]:
            told = sentence_of_overlap(count_overlap(own["test"], own["train"] + own["val"]))
            parts.table.append(f"{name}: {told}")
        if why := listing.caveat("trained"):
            parts.table.append(f"{name}: {why}")
    for part in ("train", "val"):
        classes = Counter(clip_labels(clip, label_rule)[0] for clip in parts.clips[part])
        if len(classes) < 2:
            meant = "places in EMOTIONS" if label_rule == "emotion" else "1 = fake"
            raise UsageError(
                f"the {part} split of {' + '.join(data_roots)} has one class only: {dict(classes)} ({meant})"
            )
    return parts
