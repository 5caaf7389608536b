"""Protocols that others publish: which clips they are, and what their parts share.

Some are lists of clips: the authors'; --protocol_files is the folder with them, a CSV or text file for each
part whose name has the word train, val or test. Others follow from the data set's own metadata. What is known
of the published clips (`figures`) is compared with them; the checksum over their names tells whether two
people have the same. Of no protocol is a checksum published.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loaders.listing import Listing
from loaders.splits.lists import ClipNames, plain_path, read_list
from loaders.splits.overlap import Named, lines_of, named_by_clip, overlaps
from utils.clip_type import Clip
from utils.errors import DatasetError, UsageError
from utils.files import names_sha256

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
SUFFIXES = {".csv", ".txt"}


@dataclass(frozen=True, kw_only=True)
class ListProtocol:
    """A published choice of clips and parts of one data set."""

    dataset: str
    # (part, what) -> number; what: "clips", a category of clips, or a kind of loaders/splits/overlap.py
    figures: Mapping[tuple[str, str], int]
    # part -> folder of the data set that the names of its list leave out
    below: Mapping[str, str] = field(default_factory=dict)


_AV1M_BELOW = {"train": "train", "val": "train", "test": "val"}  # the labels of its own test are hidden
LIST_PROTOCOLS = {
    # github.com/bit-ml/AVH-Align
    "fakeavceleb_avh": ListProtocol(
        dataset="fakeavceleb",
        figures={
            ("train", "clips"): 13_380,
            ("val", "clips"): 1_497,
            ("test", "clips"): 6_667,
            ("train", "persons"): 314,
            ("val", "persons"): 35,
            ("test", "persons"): 151,
            ("test", "RealVideo-RealAudio"): 151,
            ("test", "RealVideo-FakeAudio"): 151,
            ("test", "FakeVideo-RealAudio"): 3_007,
            ("test", "FakeVideo-FakeAudio"): 3_358,
        },
    ),
    "av1m_avh": ListProtocol(
        dataset="av_deepfake1m",
        figures={
            ("train", "clips"): 45_000,
            ("train", "real"): 45_000,
            ("test", "persons"): 1_499,
            ("test", "videos"): 7_537,
            ("test", "families"): 9_844,
        },
        below=_AV1M_BELOW,
    ),
    # github.com/bit-ml/ssr-dfd
    "fakeavceleb_ssr": ListProtocol(
        dataset="fakeavceleb",
        figures={("train", "clips"): 7_041, ("val", "clips"): 782, ("test", "clips"): 3_508},
    ),
    "av1m_ssr": ListProtocol(
        dataset="av_deepfake1m",
        figures={("train", "clips"): 22_972, ("val", "clips"): 2_527, ("test", "clips"): 5_133},
        below=_AV1M_BELOW,
    ),
}


@dataclass(frozen=True, kw_only=True)
class MetadataProtocol:
    """A published choice of the test clips that a data set's own metadata tells apart."""

    dataset: str
    figures: Mapping[tuple[str, str], int] = field(default_factory=dict)  # as of a ListProtocol
    categories: frozenset[str] = frozenset()  # of the test; none = all
    test_only: bool = False  # what is tested was trained on another data set
    carves_val: bool = False  # the data set has no validation part


def _mavos(*endings: str) -> MetadataProtocol:
    """A test of MAVOS-DD: what the categories of its clips end in; none = all."""
    names = (f"{kind}{ending}" for kind in ("real", "fake") for ending in endings)
    return MetadataProtocol(dataset="mavos_dd", categories=frozenset(names))


# Celeb-DF++ (github.com/OUC-VAS/Celeb-DF-PP): 178 reals, 200 or (TalkingFace) 300 fakes of each method
_CELEBDF_PP = {
    ("test", "clips"): 5_278,
    ("test", "Celeb-real"): 108,
    ("test", "YouTube-real"): 70,
    ("test", "FaceSwap"): 1_600,
    ("test", "FaceReenact"): 1_400,
    ("test", "TalkingFace"): 2_100,
}
_ACROSS_METHODS = MetadataProtocol(dataset="celebdf", figures=_CELEBDF_PP, carves_val=True)
METADATA_PROTOCOLS = {
    # github.com/CroitoruAlin/MAVOS-DD; its own evaluation.py (d1c9534) also counts clips with a new model and
    # a new language in "model" and "language": only "full" has them here
    "mavos_in": _mavos(""),
    "mavos_model": _mavos("", "_open_model"),
    "mavos_language": _mavos("", "_open_language"),
    "mavos_full": _mavos(),
    "celebdfpp_gf": _ACROSS_METHODS,
    "celebdfpp_gfq": _ACROSS_METHODS,  # the same clips, of which the user prepares compressed copies
    "celebdfpp_gfd": MetadataProtocol(dataset="celebdf", figures=_CELEBDF_PP, test_only=True),
}


@dataclass(frozen=True)
class Published:
    """What is known of the clips of a protocol; kept in the split file."""

    name: str
    ids_sha256: str  # of "<part> <path>" of every line of its lists, or "<part> <clip id>" by metadata
    misfits: str = ""  # which published figures the clips do not have

    def as_word(self) -> str:
        """For the first line of a split file."""
        return ":".join((self.name, self.ids_sha256, self.misfits))

    @property
    def state(self) -> str:
        """Whether the clips are the published ones, as far as that is known."""
        if self.misfits:
            return f"not as published: {self.misfits}"
        known: dict[str, ListProtocol | MetadataProtocol] = {**LIST_PROTOCOLS, **METADATA_PROTOCOLS}
        protocol = known.get(self.name)
        return "figures as published" if protocol and protocol.figures else "no published figures are known"

    @classmethod
    def from_word(cls, word: str) -> Published:
        """The inverse of as_word()."""
        name, ids_sha256, misfits = [*word.split(":", 2), "", ""][:3]
        return cls(name, ids_sha256, misfits)


def read_protocol(
    name: str, dataset: str, clips: Sequence[Clip], folder: Path
) -> tuple[dict[str, str], dict[str, str], Published]:
    """(clip id -> part, clip id -> why it is in none, what is known of the lists) of a protocol.

    A clip in several lists counts for the test, else for validation. Raises UsageError for another data set,
    DatasetError if a list is missing or names a clip that the data set does not have.
    """
    protocol = LIST_PROTOCOLS[name]
    if dataset != protocol.dataset:
        raise UsageError(f"--protocol {name} is for {protocol.dataset}, not for {dataset}")
    names = ClipNames(dataset, clips)
    split_of: dict[str, str] = {}
    written: list[str] = []
    of_part: dict[str, list[Clip]] = {}
    for part, path in _lists_in(folder).items():
        rows = read_list(path)
        found = names.find_all([row.name for row in rows], below=protocol.below.get(part, ""))
        if unknown := [row for row, clip in zip(rows, found, strict=True) if clip is None]:
            raise DatasetError(
                f"{unknown[0].where}: {unknown[0].name} is not a clip of {dataset}, nor are "
                f"{len(unknown) - 1} others of this list"
            )
        of_part[part] = [clip for clip in found if clip is not None]
        written += [f"{part} {plain_path(row.name)}" for row in rows]
        split_of |= {clip.clip_id: part for clip in of_part[part]}  # train first, test last
    reasons = {clip.clip_id: f"protocol {name}: in none of its lists" for clip in clips}
    for clip_id in split_of:
        reasons.pop(clip_id)
    return split_of, reasons, _published(name, written, protocol.figures, of_part)


def select_protocol(
    name: str, dataset: str, clips: Sequence[Clip], own_parts: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str], Published]:
    """As `read_protocol`, of a protocol that the data set's metadata tells.

    own_parts: clip id -> part of all `clips`, with a validation part. The checksum does not depend on how
    that was carved from the train part.
    """
    protocol = METADATA_PROTOCOLS[name]
    if dataset != protocol.dataset:
        raise UsageError(f"--protocol {name} is for {protocol.dataset}, not for {dataset}")
    split_of: dict[str, str] = {}
    reasons: dict[str, str] = {}
    of_part: dict[str, list[Clip]] = {}
    for clip in clips:
        part = own_parts[clip.clip_id]
        if part != "test" and protocol.test_only:
            reasons[clip.clip_id] = f"protocol {name}: another data set is trained on"
        elif part == "test" and protocol.categories and clip.category not in protocol.categories:
            reasons[clip.clip_id] = f"protocol {name}: its test has no {clip.category}"
        else:
            split_of[clip.clip_id] = part
            of_part.setdefault(str(clip.split), []).append(clip)
    if "test" not in of_part:
        raise DatasetError(f"--protocol {name}: {dataset} lists no clip of its test")
    written = (f"{part} {clip.clip_id}" for part, own in of_part.items() for clip in own)
    return split_of, reasons, _published(name, written, protocol.figures, of_part)


def _published(
    name: str,
    written: Iterable[str],
    figures: Mapping[tuple[str, str], int],
    of_part: Mapping[str, Sequence[Clip]],
) -> Published:
    """What is known of these clips; warns if they do not have the published figures."""
    misfits = _misfits(figures, of_part)
    if misfits:
        log.warning("protocol %s: its clips are not the published ones: %s", name, misfits)
    return Published(name, names_sha256(written), misfits)


def _lists_in(folder: Path) -> dict[str, Path]:
    """Part -> its list. Raises DatasetError without a list of the test, or with two of a part."""
    if not folder.is_dir():
        raise DatasetError(f"--protocol_files {folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    found: dict[str, Path] = {}
    for part in PARTS:
        own = [path for path in files if part in re.split(r"[^a-z0-9]+", path.stem.lower())]
        if len(own) > 1:
            raise DatasetError(f"{folder}: {own[0].name} and {own[1].name} are both lists of {part}")
        if own:
            found[part] = own[0]
    if "test" not in found:
        there = ", ".join(path.name for path in files) or "no CSV or text file"
        raise DatasetError(f"{folder}: no list whose name has the word test; it holds {there}")
    if missing := [part for part in PARTS if part not in found]:
        log.warning("%s: no list for %s", folder, " and ".join(missing))
    return found


def _misfits(figures: Mapping[tuple[str, str], int], of_part: Mapping[str, Sequence[Clip]]) -> str:
    """The published figures that these clips do not have, of the parts that are there; "" if all fit."""
    counted = overlaps({part: map(named_by_clip, clips) for part, clips in of_part.items()})
    wrong = []
    for (part, what), number in figures.items():
        if part not in of_part:
            continue
        if what == "clips":
            found = len(of_part[part])
        elif what in counted:
            found = counted[what].get("numbers", {}).get(part, 0)
        else:
            found = Counter(clip.category for clip in of_part[part])[what]
        if found != number:
            wrong.append(f"{part} has {found} {what}, published are {number}")
    return "; ".join(wrong)


def protocol_results(
    listing: Listing, split_of: Mapping[str, str], published: Published | None, *, tells_overlaps: bool
) -> dict[str, Any]:
    """The "protocol" of test_metrics.json: name and checksum of a published one, and what the parts share.

    "said" has it in words: all of it of a published protocol, else what is shared. tells_overlaps: whether
    the detector was trained with this split; for another one "overlaps" is None.
    """
    known = [part for part in PARTS if part in set(split_of.values())]

    def clips_of(part: str) -> Iterator[Named]:
        return (named_by_clip(clip) for clip in listing.all_clips if split_of.get(clip.clip_id) == part)

    found = overlaps({part: clips_of(part) for part in known}) if tells_overlaps else None
    said = lines_of(found, is_whole=published is not None) if found else []
    about: dict[str, Any] = {"name": None}
    if published is not None:
        about = {"name": published.name, "ids_sha256": published.ids_sha256, "misfits": published.misfits}
        known_ids = "of the published ids no checksum is known"
        state = f"{published.state}; ids sha256 {published.ids_sha256}, {known_ids}"
        said = [f"protocol {published.name}, {state}", *said]
    return about | {"overlaps": found, "said": said}
