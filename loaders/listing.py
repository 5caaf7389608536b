"""Which clips a data set's metadata lists and which are prepared: none is dropped without being counted."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from utils.clip.files import AUDIO_NAMES, LANDMARKS_NAME, VIDEO_NAME
from utils.clip.frame_folders import find_store, frame_sizes
from utils.clip.generated import caveat_of_clips, finder
from utils.clip.packed import clip_names, in_pack, walk
from utils.clip_type import Clip
from utils.config import opt
from utils.errors import DatasetError, UsageError
from utils.evaluation.units import caveat, kinds_of
from utils.files import read_lines
from utils.names import brief, is_plain
from utils.run.progress import map_files, progress

log = logging.getLogger(__name__)
MAX_MISSING_SHARE = 0.02
MAX_WORD = 2100  # letters of an id: the longest path and the name of its data set


@dataclass(frozen=True, kw_only=True)
class ListingConfig:
    """loaders/listing.py: which of the listed clips are used."""

    # whether only the table is read, before the clips are prepared: what is not there is no error
    table_only: ClassVar[bool] = False
    # whether nothing but the metadata is there, or needed: all listed clips count as there
    metadata_only: ClassVar[bool] = False

    allow_missing: bool = opt(False, "go on even if more than 2 % of the listed clips are not prepared")
    exclude_list: Path | None = opt(
        None,
        "text file of reviewed clips to leave out, one clip_id per line, # starts a comment; each is counted",
    )
    methods: tuple[str, ...] = opt((), "use the fakes of these methods only, with all real clips; none = all")
    allow_links: bool = opt(
        False, "follow links that lead out of the data root, as to parts of the data set on other disks"
    )
    path_prefix: tuple[str, ...] = opt(
        (),
        "OLD=NEW: paths of frame_lists and deepfakebench that begin with OLD begin with NEW, a folder below "
        "--data_root; several are allowed, and NEW may be empty",
    )
    list_name: str = opt(
        "", "list of deepfakebench, e.g. FaceForensics++ for FaceForensics++.json; none = the only one"
    )
    variant: str = opt(
        "",
        "which version of the clips, where a data set has several. ffpp: c0, c23 (default) or c40; "
        "deepfaketimit: both (default), higher_quality or lower_quality; deepfakebench: as in its list",
    )

    def variant_of(self, dataset: str, known: Sequence[str] = ()) -> str:
        """The chosen variant, by default the first of `known`. Raises UsageError if it is not one of them."""
        if not self.variant:
            return known[0] if known else ""
        if self.variant not in known:
            there = f"it has {', '.join(known)}" if known else "it has one version only"
            raise UsageError(f"--variant {self.variant}: {dataset} has no such version; {there}")
        return self.variant


class TableConfig(ListingConfig):
    """For preprocess.prepare, which reads the table first."""

    table_only = True


class MetadataConfig(ListingConfig):
    """For what needs no media: scores of other detectors, leaks in published lists."""

    metadata_only = True


@dataclass(frozen=True)
class Listing:
    """The clips of a data set, by what became of them."""

    dataset: str
    clips: list[Clip]  # prepared and wanted
    missing: list[Clip] = field(default_factory=list)  # in the metadata, not (fully) prepared
    excluded: list[Clip] = field(default_factory=list)  # named in the exclusion list, or of another method
    # what a drawn split does with a fake whose donor is in another part: "drop" it, or "keep" it where the
    # data set's donors are too entangled to lose all such fakes (donor-disjoint results are reported, too)
    donor_rule: str = "drop"
    known_overlap: str = ""  # why the official split shares persons between its parts; "": it must not
    test_only: str = ""  # why nothing should be trained on it; "": it may
    unlisted: list[str] = field(default_factory=list)  # prepared, but in no metadata: paths below the root
    generated: frozenset[str] = frozenset()  # ids of the clips of generated sets (utils/clip/generated.py)

    @property
    def identity_is(self) -> str:
        """What the clips' identities are, e.g. "person", or "person+clip" of a mixed set (see Clip)."""
        return kinds_of(self.all_clips)

    def num_generated(self, clips: Sequence[Clip]) -> int:
        """How many of `clips`, which are of this listing, are generated."""
        return sum(clip.clip_id in self.generated for clip in clips)

    def caveat(self, done: str) -> str:
        """What to say of what was `done` with all clips, some of them generated; "" if none is."""
        return caveat_of_clips(done, len(self.generated), len(self.clips))

    @property
    def all_clips(self) -> list[Clip]:
        """All clips that the metadata lists: splits are made of these, so a missing clip changes nothing."""
        return self.clips + self.missing + self.excluded


class ClipFolders:
    """Whether clip folders are there and really lie below a data root, which itself may be a link."""

    def __init__(self, data_root: Path, *, allow_links: bool) -> None:
        self._root, self._allow_links = data_root, allow_links
        self._real_path = functools.cache(os.path.realpath)  # of folders that clips share
        self._may_be_packed = functools.cache(in_pack)

    def is_there(self, clip: Clip) -> bool:
        """Whether a clip folder has all three files, or all frames; preprocess.verify looks into the files.

        Raises DatasetError if the folder, or a file in it, lies outside the data root.
        """
        names = self._names(clip.place)
        if clip.frames is not None:
            in_store = clip.frames if find_store(clip.folder) else ()
            names = names or frame_sizes(clip.folder, in_store)
            return bool(clip.frames) and names.keys() >= set(clip.frames)
        return {LANDMARKS_NAME, VIDEO_NAME} <= names.keys() and not names.keys().isdisjoint(AUDIO_NAMES)

    def _names(self, folder: str) -> Mapping[str, object]:
        """The files of a clip folder, as keys."""
        try:
            with os.scandir(folder) as entries:  # one call to the file system instead of many
                names = {entry.name: entry.is_symlink() for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            if not self._may_be_packed(os.path.dirname(folder)):  # noqa: PTH120 (a million of them)
                return {}
            names = dict.fromkeys(clip_names(Path(folder)), False)
        else:
            if not self._allow_links:
                self._require_inside(folder, [name for name, is_link in names.items() if is_link])
        return names

    def _require_inside(self, folder: str, links: list[str]) -> None:
        parent, name = os.path.split(folder)
        real = f"{self._real_path(parent)}{os.sep}{name}"
        if os.path.islink(folder):  # noqa: PTH114
            real = os.path.realpath(real)
        top = f"{self._real_path(self._root).rstrip(os.sep)}{os.sep}"
        for place in (real, *(os.path.realpath(f"{real}{os.sep}{link}") for link in links)):
            if not place.startswith(top):
                raise DatasetError(
                    f"{folder}: a link leads out of the data root {self._root}, to {place}; give "
                    "--allow_links to use such clips"
                )


def select_clips(
    dataset: str,
    data_root: Path,
    listed: list[Clip],
    config: ListingConfig,
    *,
    variants: Sequence[str] = (),
    unwanted: Container[str] = (),
    unlisted: Sequence[str] | None = None,
    donor_rule: str = "drop",
    known_overlap: str = "",
    test_only: str = "",
) -> Listing:
    """Sort the listed clips into prepared, missing and excluded, among them those with `unwanted` ids.

    unlisted: the prepared clips that the metadata does not name; None: they are looked for.
    Raises DatasetError if a clip is listed twice, if more than 2 % are missing without `allow_missing`, if
    nothing is left, if a clip lies outside `data_root` by a link, or if the exclusion list or `methods` name
    what the metadata does not; UsageError for an unknown `variant`.
    """
    config.variant_of(dataset, variants)
    if not listed:
        raise DatasetError(f"{dataset}: its metadata lists no clip")
    _require_plain(dataset, listed)
    _require_unique(listed)
    require_known_methods("methods", dataset, listed, config.methods)
    excluded_ids = _read_exclusions(config.exclude_list, dataset, listed)
    clips: list[Clip] = []
    missing: list[Clip] = []
    excluded: list[Clip] = []
    folders = ClipFolders(data_root, allow_links=config.allow_links)

    def is_wanted(clip: Clip) -> bool:
        of_method = not config.methods or clip.label == 0 or clip.method in config.methods
        return of_method and clip.clip_id not in excluded_ids and clip.clip_id not in unwanted

    def is_prepared(clip: Clip) -> bool:
        return is_wanted(clip) and (config.metadata_only or folders.is_there(clip))

    for clip, is_there in zip(listed, map_files(is_prepared, listed, f"{dataset}: clips"), strict=True):
        (clips if is_there else missing if is_wanted(clip) else excluded).append(clip)
    if config.table_only and missing and not clips:
        example = f"{dataset}: none of the {len(listed)} listed videos is there, e.g. {missing[0].folder}"
        raise DatasetError(f"{example}; --source must be the folder that the paths of the table begin in")
    if missing and not config.table_only:
        _require_enough(dataset, clips, missing, config)
    if not clips:
        raise DatasetError(f"{dataset}: no clip is left ({len(listed)} listed, {len(excluded)} excluded)")
    generated = _generated(clips, through_links=config.allow_links)
    others = list(unlisted or ())
    if unlisted is None and not config.metadata_only:
        others = _find_unlisted(dataset, data_root, listed)
    rules = donor_rule, known_overlap, test_only
    return Listing(dataset, clips, missing, excluded, *rules, others, generated)


def _generated(clips: Sequence[Clip], *, through_links: bool) -> frozenset[str]:
    """Ids of the clips that are of generated sets."""
    is_generated = finder()
    in_folder = functools.cache(lambda folder: is_generated(Path(folder)))
    return frozenset(
        clip.clip_id
        for clip in clips
        if in_folder(os.path.dirname(clip.place))  # noqa: PTH120 (a million of them)
        or (through_links and is_generated(clip.folder.resolve().parent))
    )


def _require_enough(dataset: str, clips: list[Clip], missing: list[Clip], config: ListingConfig) -> None:
    """Log what is missing. Raise DatasetError if it is more than `config` allows, or everything."""
    num_wanted = len(clips) + len(missing)
    share = len(missing) / num_wanted
    state, remedy = "are not prepared", "run preprocess.prepare, or see its failures.csv"
    if missing[0].frames is not None:
        state, remedy = "are not there or lack listed frames", "look at --data_root and --path_prefix"
    message = (
        f"{dataset}: {len(missing)} of {num_wanted} listed clips ({share:.1%}) {state} "
        f"({tally(Counter(clip.category for clip in missing))}), e.g. {missing[0].folder}; {remedy}"
    )
    if not clips or (share > MAX_MISSING_SHARE and not config.allow_missing):
        raise DatasetError(message + (", or give --allow_missing to go on without" if clips else ""))
    log.warning(message)


def _find_unlisted(dataset: str, data_root: Path, listed: list[Clip]) -> list[str]:
    """Paths below the root of the prepared clips that are not listed.

    Listed clips are not entered, so this reads each folder above them once.
    """
    own = {clip.place for clip in listed}
    found = []
    try:
        folders = progress(walk(data_root, skip=own), f"{dataset}: clips that are not listed", "folder")
        for folder, subfolders, files in folders:
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            if VIDEO_NAME in files and os.fspath(folder) not in own:
                found.append(folder.relative_to(data_root).as_posix())
    except DatasetError as error:  # a link, or a folder without permission, that no listed clip needs
        log.warning("%s: prepared clips that are not listed are not all counted: %s", dataset, error)
    return sorted(found)


def describe(listing: Listing) -> str:
    """The line that preprocess.prepare and the loaders write about a data set: what is listed and there."""
    line = f"{listing.dataset}: {len(listing.clips)} listed and there, {len(listing.missing)} listed and not "
    line += f"there, {len(listing.unlisted)} there and not listed"
    if listing.missing:
        line += f"; not there: e.g. {listing.missing[0].clip_id.removeprefix(f'{listing.dataset}/')}"
    return line + (f"; not listed: e.g. {brief(listing.unlisted[0])}" if listing.unlisted else "")


def _require_plain(dataset: str, clips: list[Clip]) -> None:
    """Raise DatasetError if a clip's name, person or kind could not be written to a file or shown as it is.

    JSON metadata and file names that are not UTF-8 can hold what text files cannot.
    """
    for clip in clips:
        words = [clip.clip_id, clip.category, clip.method, clip.target_id, clip.pair_key, clip.stratum]
        words += [clip.split_group, *clip.persons]
        if not is_plain("".join(words)) or max(map(len, words)) > MAX_WORD:
            word = next(word for word in words if not is_plain(word) or len(word) > MAX_WORD)
            raise DatasetError(
                f"{dataset}: {brief(clip.clip_id)} is listed with {brief(word)}: names must be UTF-8 without "
                f"control characters, and not longer than {MAX_WORD} letters; rename it"
            )


def _require_unique(clips: list[Clip]) -> None:
    first: dict[str, Clip] = {}
    for clip in clips:
        other = first.setdefault(clip.clip_id, clip)
        if other is not clip:
            raise DatasetError(
                f"{clip.clip_id} is listed twice, as {other.folder} and as {clip.folder}; remove one of them"
            )


def require_known_methods(flag: str, dataset: str, listed: Sequence[Clip], methods: Sequence[str]) -> None:
    """Raise DatasetError if the data set has fakes of none of the `methods` of a flag; warn if some are
    unknown.
    """
    fakes = {clip.method for clip in listed if clip.label == 1}
    if unknown := set(methods) - fakes:
        message = f"--{flag} {' '.join(sorted(unknown))}: {dataset} has no such fakes; it has "
        message += ", ".join(sorted(fakes))
        if unknown == set(methods):
            raise DatasetError(message)
        log.warning(message)  # another data set of the union may have them


def _read_exclusions(path: Path | None, dataset: str, listed: list[Clip]) -> set[str]:
    """The clip ids of an exclusion list. Raises DatasetError if one of `dataset` is not listed."""
    if path is None:
        return set()
    ids = {line.partition("#")[0].strip() for _, line in read_lines(path)} - {""}
    of_dataset = {clip_id for clip_id in ids if clip_id.startswith(f"{dataset}/")}
    if unknown := of_dataset - {clip.clip_id for clip in listed}:
        raise DatasetError(f"{path}: names clips that {dataset} does not list: {sorted(unknown)[:3]}")
    if others := ids - of_dataset:
        example = brief(min(others))
        log.warning("%s: %d lines are not clips of %s, such as %s", path, len(others), dataset, example)
    return ids


def tally(counts: Mapping[str, int]) -> str:
    """ "fake 3, real 2": the counts that are not 0, by name."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)


def summarize(listing: Listing, split_of: dict[str, str]) -> list[str]:
    """`describe`, what counts as a person if not all are named, and the lines of a table.

    The table holds the found, missing, excluded and used clips per split and category.
    `split_of` maps a clip_id to its split; clips in no split stand under "-".
    """
    states = {"used": listing.clips, "missing": listing.missing, "excluded": listing.excluded}
    rows = Counter(
        (split_of.get(clip.clip_id, "-"), clip.category, state)
        for state, clips in states.items()
        for clip in clips
    )
    order = {"train": 0, "val": 1, "test": 2}
    keys = sorted({key[:2] for key in rows}, key=lambda key: (order.get(key[0], 3), key))
    columns = f"{'category':<24}{'found':>8}{'missing':>9}{'excluded':>10}{'used':>8}"
    lines = [describe(listing)]
    if why := caveat(listing.identity_is):
        lines.append(f"{listing.dataset}: {why}")
    lines.append(f"{listing.dataset + ' split':<20}{columns}")
    for split, category in keys:
        used, missing, excluded = (rows[split, category, state] for state in states)
        lines.append(f"{split:<20}{category:<24}{used + excluded:>8}{missing:>9}{excluded:>10}{used:>8}")
    return lines
