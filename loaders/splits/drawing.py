"""Train, validation and test parts: official splits, identity-disjoint ones, folds, held-out methods.

Nobody is in two parts: neither the person on screen, nor a pair that belongs together, nor (unless the data
set's donors are too entangled, see `Listing.donor_rule`) the donor of a face or voice. Fakes that would break
this are dropped, counted, and listed with the reason in the split file.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from loaders.groups import joined
from loaders.listing import Listing, require_known_methods
from loaders.splits.protocols import PROTOCOLS, mrdf5
from loaders.splits.published import (
    LIST_PROTOCOLS,
    METADATA_PROTOCOLS,
    Published,
    read_protocol,
    select_protocol,
)
from utils.clip_type import Clip
from utils.config import opt
from utils.errors import DatasetError
from utils.files import names_sha256

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """loaders/splits/drawing.py: who is in train, validation and test."""

    split_file: tuple[Path, ...] = opt(
        (), "reuse these split files, one per data set (e.g. saved_models/RUN/splits/fakeavceleb.csv)"
    )
    split_source: str = opt(
        "auto",
        "identity = draw identity-disjoint parts; metadata = the data set's own (validation is carved from "
        "train if it has none); auto = its own if every clip has one, else identity",
        choices=("auto", "identity", "metadata"),
    )
    fold: str = opt("", "k/n, e.g. 2/5: n folds of identities; test on the k-th, validate on the next one")
    protocol: str = opt(
        "none",
        "mrdf5 = MRDF's 2,000 clips of FakeAVCeleb, 1:1:1:1 over the categories; test on --fold 1..5; "
        "validation is carved from the other four folds. mavos_* and celebdfpp_* are tests by the data set's "
        "own metadata; the others are lists that --protocol_files names",
        choices=("none", *PROTOCOLS, *LIST_PROTOCOLS, *METADATA_PROTOCOLS),
    )
    protocol_files: Path | None = opt(
        None,
        "folder with the protocol's published lists, e.g. train_labels.csv, val_labels.csv, test_labels.csv; "
        "of mrdf5 its train_1.txt ... train_5.txt, by default folds drawn by --split_seed",
    )
    hold_out_method: tuple[str, ...] = opt(
        (),
        "train and validate without the fakes of these methods; test on them and the real test clips. Of "
        "several data sets, each must have fakes of at least one of them, as with --methods",
    )
    donors: str = opt(
        "auto",
        "fakes whose donor is in another part: drop = leave them out; keep = use them, and report results on "
        "the donor-disjoint clips separately; auto = as the data set allows",
        choices=("auto", "drop", "keep"),
    )
    split_seed: int = opt(
        42, "seed of drawn splits, separate from --seed so that runs with several seeds share a test set"
    )
    val_fraction: float = opt(0.1, "share of identities for validation")
    test_fraction: float = opt(0.2, "share of identities for testing")

    def __post_init__(self) -> None:
        if self.split_seed < 0:
            raise ValueError(f"split_seed must be >= 0, got {self.split_seed}")
        if min(self.val_fraction, self.test_fraction) <= 0 or self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                "val_fraction and test_fraction must be > 0 and sum to less than 1, got "
                f"{self.val_fraction} and {self.test_fraction}"
            )
        if self.fold:
            self.fold_numbers()
        if self.protocol in PROTOCOLS and not self.fold:
            raise ValueError(f"protocol {self.protocol} needs --fold 1/5 (to 5/5)")
        if self.protocol in LIST_PROTOCOLS and (self.fold or self.protocol_files is None):
            raise ValueError(f"protocol {self.protocol} needs --protocol_files, and has no --fold")
        if self.protocol_files is not None and self.protocol == "none":
            raise ValueError("protocol_files needs --protocol")
        if self.protocol in METADATA_PROTOCOLS and (self.fold or self.protocol_files is not None):
            raise ValueError(f"protocol {self.protocol} has no --fold and needs no --protocol_files")

    def fold_numbers(self) -> tuple[int, int]:
        """(k, n) of `fold`, 1 <= k <= n; a bare k means k/5."""
        k, slash, n = self.fold.partition("/")
        n = n if slash else "5"
        if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n) and int(n) >= 3):
            raise ValueError(f"fold must look like 2/5, with at least 3 folds, got {self.fold!r}")
        if self.protocol != "none" and int(n) != 5:
            raise ValueError(f"protocol {self.protocol} has 5 folds, got {self.fold!r}")
        return int(k), int(n)

    def unused(self) -> dict[str, str]:
        """Field -> why it has no effect in this configuration: giving such a flag is an error."""
        if self.split_file:
            others = (field.name for field in fields(self) if field.name != "split_file")
            return dict.fromkeys(others, "split_file decides it")
        if self.protocol != "none":
            names = ["split_source", "test_fraction"]
            own = METADATA_PROTOCOLS.get(self.protocol)
            names += ["donors"] if own or self.protocol in LIST_PROTOCOLS else []
            names += ["val_fraction"] if not (own and own.carves_val or self.protocol in PROTOCOLS) else []
            return dict.fromkeys(names, f"protocol {self.protocol} decides it")
        if self.fold:
            return dict.fromkeys(("split_source", "val_fraction", "test_fraction"), "fold decides it")
        return {}


@dataclass(frozen=True)
class Split:
    """The part of every listed clip of one data set, whether the clip is used or not."""

    dataset: str
    split_of: dict[str, str]  # clip_id -> train, val or test
    identity_of: dict[str, str]
    donor_disjoint: set[str]  # val and test clips whose donor is not in training either
    sources_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    group_of: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)  # clip_id -> why it is in no part
    donor_rule: str = "drop"
    known_overlap: str = ""
    published: Published | None = None  # the protocol that it is
    # name -> text of a published protocol's own files, written next to the split file
    protocol_texts: dict[str, str] = field(default_factory=dict)

    def select(self, clips: Sequence[Clip], split: str) -> list[Clip]:
        """The clips of one part, in listing order."""
        return [clip for clip in clips if self.split_of.get(clip.clip_id) == split]

    def describe_dropped(self) -> list[str]:
        """One line per reason for which clips are in no part."""
        return [
            f"{self.dataset}: {count} clips are in no part: {reason}"
            for reason, count in sorted(Counter(self.dropped.values()).items())
        ]


def draw_split(listing: Listing, config: SplitConfig, *, check: bool = True) -> Split:
    """The split that `config` asks for, over all listed clips, prepared or not.

    Raises DatasetError if a part is empty or (with `check`) if parts share a person.
    """
    clips = listing.all_clips
    rule = listing.donor_rule if config.donors == "auto" else config.donors
    is_drawn = config.split_source == "identity" or config.fold
    without = [clip for clip in clips if clip.split is None]
    dropped: dict[str, str] = {}  # clip_id -> why it is in no part
    texts: dict[str, str] = {}  # the protocol's files
    known_overlap, published = "", None
    if config.protocol in LIST_PROTOCOLS:
        assert config.protocol_files is not None  # see SplitConfig
        split_of, dropped, published = read_protocol(
            config.protocol, listing.dataset, clips, config.protocol_files
        )
        known_overlap = f"protocol {config.protocol} is run as published"
    elif config.protocol in METADATA_PROTOCOLS:
        own_parts = {} if without else _own_parts(listing, config, rule)
        split_of, dropped, published = select_protocol(config.protocol, listing.dataset, clips, own_parts)
        known_overlap = f"protocol {config.protocol} is run as published"
    elif config.protocol != "none":
        split_of, dropped, texts, published = _mrdf5_parts(listing.dataset, clips, config)
    elif not is_drawn and not without:
        split_of, known_overlap = _own_parts(listing, config, rule), listing.known_overlap
    elif not is_drawn and config.split_source == "metadata":
        raise DatasetError(
            f"{listing.dataset}: its metadata names no split for {len(without)} clips, e.g. "
            f"{without[0].clip_id}; use --split_source identity"
        )
    else:
        unit_of = _units(clips, config, rule)
        of_unit = (_fold_units if config.fold else _draw_units)(clips, unit_of, config)
        split_of = {clip_id: of_unit[unit] for clip_id, unit in unit_of.items()}
    if rule == "drop" and not known_overlap:
        for clip_id in _torn_apart(clips, split_of):
            del split_of[clip_id]
            dropped[clip_id] = "its donor is in another part"
    if config.hold_out_method:
        for clip_id, reason in _held_out(listing, split_of, config.hold_out_method).items():
            del split_of[clip_id]
            dropped[clip_id] = reason
    split = Split(
        dataset=listing.dataset,
        split_of=split_of,
        identity_of={clip.clip_id: clip.identity for clip in clips},
        donor_disjoint=_donor_disjoint(clips, split_of),
        sources_of={clip.clip_id: clip.source_ids for clip in clips if clip.source_ids},
        group_of={clip.clip_id: clip.split_group for clip in clips if clip.split_group},
        dropped=dropped,
        donor_rule=rule,
        known_overlap=known_overlap,
        published=published,
        protocol_texts=texts,
    )
    if check:
        require_disjoint(split)
    return split


def _mrdf5_parts(
    dataset: str, clips: Sequence[Clip], config: SplitConfig
) -> tuple[dict[str, str], dict[str, str], dict[str, str], Published]:
    """(part of each clip, why a clip is in none, the fold files, what the protocol is)."""
    k, _ = config.fold_numbers()
    train, test, dropped, texts = mrdf5(
        dataset, clips, k, files=config.protocol_files, seed=config.split_seed
    )
    split_of = _carve({clip.clip_id: clip.unit for clip in train}, config)
    split_of |= {clip.clip_id: "test" for clip in test}
    ids = (f"{part} {clip.clip_id}" for part, own in (("train", train), ("test", test)) for clip in own)
    drawn = "" if config.protocol_files else "its folds are drawn by --split_seed"
    return split_of, dropped, texts, Published(config.protocol, names_sha256(ids), drawn)


def _own_parts(listing: Listing, config: SplitConfig, donor_rule: str) -> dict[str, str]:
    """The data set's own parts; validation is carved from the train part if there is none."""
    split_of = {clip.clip_id: str(clip.split) for clip in listing.all_clips}
    found = set(split_of.values())
    if wrong := found - set(SPLITS):
        raise DatasetError(f"{listing.dataset}: unknown split {', '.join(sorted(wrong))} in its metadata")
    if "val" not in found and "train" in found:
        train = [clip for clip in listing.all_clips if clip.split == "train"]
        carved = _carve(_units(train, config, donor_rule), config)
        split_of |= carved
        num_val = Counter(carved.values())["val"]
        log.info(
            "%s has no validation part: %d of its %d training clips become one",
            *(listing.dataset, num_val, len(train)),
        )
    return split_of


def _units(clips: Sequence[Clip], config: SplitConfig, donor_rule: str) -> dict[str, str]:
    """clip_id -> unit that is drawn as a whole: a person, a pair, or all who lend each other their faces.

    The last only where fakes with a donor in another part would be dropped, and these circles are small
    enough.
    """
    unit_of = {clip.clip_id: clip.unit for clip in clips}
    if donor_rule != "drop":
        return unit_of
    of_person = {clip.identity: clip.unit for clip in clips}
    circle_of = joined(
        (clip.unit, of_person[donor]) for clip in clips for donor in clip.source_ids if donor in of_person
    )
    units = sorted(set(unit_of.values()))
    largest = max(Counter(circle_of.values()).values(), default=1)
    if largest > max(2, config.val_fraction * len(units)):
        return unit_of
    first: dict[str, str] = {}
    for unit in units:
        first.setdefault(circle_of.get(unit, unit), unit)
    return {clip_id: first[circle_of.get(unit, unit)] for clip_id, unit in unit_of.items()}


def _carve(unit_of: dict[str, str], config: SplitConfig) -> dict[str, str]:
    """clip_id -> "val" for `val_fraction` of the units, else "train"."""
    units = np.random.default_rng(config.split_seed).permutation(sorted(set(unit_of.values()))).tolist()
    val = set(units[: max(1, round(config.val_fraction * len(units)))])
    return {clip_id: "val" if unit in val else "train" for clip_id, unit in unit_of.items()}


def _strata(clips: Sequence[Clip], unit_of: dict[str, str]) -> dict[str, set[str]]:
    """Stratum -> units; a unit of several strata, such as a pair of persons, belongs to the first by name."""
    stratum_of: dict[str, str] = {}
    for clip in clips:
        unit = unit_of[clip.clip_id]
        stratum_of[unit] = min(stratum_of.get(unit, clip.stratum), clip.stratum)
    strata: dict[str, set[str]] = defaultdict(set)
    for unit, stratum in stratum_of.items():
        strata[stratum].add(unit)
    return strata


def _draw_units(clips: Sequence[Clip], unit_of: dict[str, str], config: SplitConfig) -> dict[str, str]:
    """Unit -> part, shuffled by seed within each stratum.

    What a stratum cannot give in whole units is carried over to the next one, so that the totals hold.
    """
    rng = np.random.default_rng(config.split_seed)
    of_unit: dict[str, str] = {}
    due = {"val": 0.0, "test": 0.0}
    for _, members in sorted(_strata(clips, unit_of).items()):
        order = [str(unit) for unit in rng.permutation(sorted(members))]
        for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
            due[split] += fraction * len(members)
            count = min(int(due[split] + 0.5), len(order))
            due[split] -= count
            of_unit |= dict.fromkeys(order[:count], split)
            order = order[count:]
        of_unit |= dict.fromkeys(order, "train")
    for split in SPLITS:
        if split not in of_unit.values():
            raise DatasetError(
                f"{len(of_unit)} identities are too few for a {split} split: change --val_fraction and "
                "--test_fraction, or use more data"
            )
    return of_unit


def _fold_units(clips: Sequence[Clip], unit_of: dict[str, str], config: SplitConfig) -> dict[str, str]:
    """Unit -> part for one of n folds: the k-th is for testing, the next one for validation."""
    k, n = config.fold_numbers()
    rng = np.random.default_rng(config.split_seed)
    strata = sorted(_strata(clips, unit_of).items())
    order = [str(unit) for _, units in strata for unit in rng.permutation(sorted(units))]
    if len(order) < n:
        raise DatasetError(f"{len(order)} identities are too few for {n} folds: use fewer folds or more data")
    parts = {(k - 1) % n: "test", k % n: "val"}
    return {unit: parts.get(index % n, "train") for index, unit in enumerate(order)}


def _torn_apart(clips: Sequence[Clip], split_of: dict[str, str]) -> list[str]:
    """Ids of fakes with a donor who is in another part, on screen or as the donor of most other fakes."""
    part_of = {clip.identity: split_of[clip.clip_id] for clip in clips if clip.clip_id in split_of}
    unseen: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        for donor in clip.source_ids:
            if donor not in part_of and clip.clip_id in split_of:
                unseen[donor][split_of[clip.clip_id]] += 1
    # a donor who is never on screen belongs to the part with most of the fakes, ties by name
    part_of |= {donor: max(sorted(parts), key=parts.__getitem__) for donor, parts in unseen.items()}
    return [
        clip.clip_id
        for clip in clips
        if clip.clip_id in split_of
        and any(part_of[donor] != split_of[clip.clip_id] for donor in clip.source_ids)
    ]


def _held_out(listing: Listing, split_of: dict[str, str], methods: tuple[str, ...]) -> dict[str, str]:
    """clip_id -> why a fake is left out where the fakes of `methods` are for testing only."""
    require_known_methods("hold_out_method", listing.dataset, listing.all_clips, methods)
    reasons: dict[str, str] = {}
    for clip in listing.all_clips:
        part = split_of.get(clip.clip_id)
        if part and clip.label == 1 and (clip.method in methods) != (part == "test"):
            is_test = part == "test"
            reasons[clip.clip_id] = f"its method is {'not the held-out one' if is_test else 'held out'}"
    return reasons


def _donor_disjoint(clips: Sequence[Clip], split_of: dict[str, str]) -> set[str]:
    """Ids of val and test clips whose donors are not in training."""
    trained_on = {
        person for clip in clips if split_of.get(clip.clip_id) == "train" for person in clip.persons
    }
    held_out = [clip for clip in clips if split_of.get(clip.clip_id) in {"val", "test"}]
    return {clip.clip_id for clip in held_out if trained_on.isdisjoint(clip.source_ids)}


def require_disjoint(split: Split) -> None:
    """Raise DatasetError if a person or a group is in two parts; only warn if that is a `known_overlap`.

    Donors count where the split drops fakes with a donor in another part.
    """
    seen: dict[str, tuple[str, str]] = {}
    for clip_id, name in split.split_of.items():
        units = {split.identity_of[clip_id], split.group_of.get(clip_id, "")} - {""}
        if split.donor_rule == "drop":
            units.update(split.sources_of.get(clip_id, ()))
        for unit in sorted(units):
            other, example = seen.setdefault(unit, (name, clip_id))
            if other == name:
                continue
            message = f"{split.dataset}: {unit} is in {other} ({example}) and in {name} ({clip_id})"
            if not split.known_overlap:
                raise DatasetError(f"{message}; use --split_source identity to draw parts that share nobody")
            log.warning("%s: %s", message, split.known_overlap)
            return
