"""Leaks: persons, clip families and files that occur in more than one split.

All comparisons here are look-ups by key, linear in the number of clips. For copies encoded again, see
loaders/audit/duplicates.py.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from loaders.audit.facts import known_checksums
from loaders.audit.findings import DROP_DONORS, REDRAW, REMOVE, Finding
from loaders.listing import Listing
from loaders.splits.drawing import Split
from utils.clip.files import read_info_values
from utils.errors import DatasetError
from utils.types import Clip

log = logging.getLogger(__name__)

MAX_EXAMPLES = 5
# checksums (loaders/audit/facts.py) that identify a recording -> in words
FILE_KINDS = {
    "raw file": "raw video",
    "raw sound": "raw sound file",
    "picture": "cropped picture",
    "sound": "extracted sound",
}


def in_several_splits(
    clips: Sequence[Clip], split_of: Mapping[str, str], keys_of: Callable[[Clip], Iterable[str]]
) -> dict[str, dict[str, list[str]]]:
    """{key: {split: clip ids}} for the keys that occur in more than one split. "" is not a key."""
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        split = split_of.get(clip.clip_id)
        if split is not None:
            for key in set(keys_of(clip)) - {""}:
                places[key][split].append(clip.clip_id)
    return {key: dict(found) for key, found in places.items() if len(found) > 1}


def find_person_leaks(listing: Listing, split: Split) -> list[Finding]:
    """Persons on screen, donors, and clip families (pair_key, split_group) in more than one split.

    Donors are a note if the split keeps such fakes (`donor_rule`); everything is a note if the data set's
    own split shares persons by design (`known_overlap`).
    """
    clips, split_of = listing.clips, split.split_of
    reason = split.known_overlap
    identities = in_several_splits(clips, split_of, lambda clip: (clip.identity,))
    persons = in_several_splits(clips, split_of, lambda clip: clip.persons)
    donors = {key: places for key, places in persons.items() if key not in identities}
    keeps_donors = split.donor_rule == "keep"
    families = (
        ("leak_identity", identities, "persons on screen", bool(reason)),
        ("leak_donor", donors, "persons whose face or voice was used", bool(reason) or keeps_donors),
        ("leak_pair", _pairs(clips, split_of), "clip families (pair_key)", bool(reason)),
        (
            "leak_split_group",
            in_several_splits(clips, split_of, lambda clip: (clip.split_group,)),
            "groups that must stay together (split_group)",
            bool(reason),
        ),
    )
    why = reason or "the split keeps such fakes; look at results on the donor-disjoint subset too"
    return [
        Finding(
            kind=kind,
            summary=f"{len(found)} {what} are in more than one split" + (f": {why}" if is_note else ""),
            remedy=DROP_DONORS if kind == "leak_donor" else REDRAW,
            examples=_examples(found),
            is_note=is_note,
        )
        for kind, found, what, is_note in families
        if found
    ]


def find_identical_files(
    clips: Sequence[Clip], split_of: Mapping[str, str], checksums: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """Files with the same checksum in several splits. checksums: {clip_id: {kind of file: sha256}}."""
    findings = []
    for kind, name in FILE_KINDS.items():

        def key_of(clip: Clip, kind: str = kind) -> tuple[str, ...]:
            return (checksums.get(clip.clip_id, {}).get(kind, ""),)

        if found := in_several_splits(clips, split_of, key_of):
            findings.append(
                Finding(
                    kind=f"leak_identical_{kind.replace(' ', '_')}",
                    summary=f"the same {name}, byte for byte, is in more than one split ({len(found)} times)",
                    remedy=REMOVE,
                    examples=_examples(found),
                )
            )
    return findings


def require_no_leak(listing: Listing, split: Split) -> None:
    """Raise DatasetError, with examples, if splits share persons, clip families or identical files.

    Cheap enough for every start of a training: look-ups, and one read of each existing clip.json. Notes (see
    `find_person_leaks`) are logged as warnings.
    """
    findings = find_person_leaks(listing, split)
    used = [clip for clip in listing.clips if clip.clip_id in split.split_of]
    with ThreadPoolExecutor(8) as pool:  # network file systems answer several requests at a time
        known = pool.map(lambda clip: known_checksums(read_info_values(clip.folder)), used, chunksize=256)
        checksums = {clip.clip_id: values for clip, values in zip(used, known, strict=True)}
    findings += find_identical_files(used, split.split_of, checksums)
    for finding in findings:
        if finding.is_note:
            log.warning("%s: %s, e.g. %s", listing.dataset, finding.summary, finding.examples[0])
    leaks = [finding for finding in findings if not finding.is_note]
    if leaks:
        shown = "; ".join(f"{leak.summary}, e.g. {leak.examples[0]}" for leak in leaks)
        raise DatasetError(f"{listing.dataset}: its splits leak: {shown}. Remedy: {leaks[0].remedy}")


def _pairs(clips: Sequence[Clip], split_of: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Families in several splits, except those whose key is a person, which are reported as persons."""
    persons = {person for clip in clips for person in clip.persons}
    found = in_several_splits(clips, split_of, lambda clip: (clip.pair_key,))
    return {key: places for key, places in found.items() if key not in persons}


def _examples(found: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """Lines such as "KEY: train (3 clips, e.g. A), test (1 clip, e.g. B)"."""
    lines = []
    for key, places in sorted(found.items())[:MAX_EXAMPLES]:
        parts = (
            f"{split} ({len(ids)} clip{'s' if len(ids) > 1 else ''}, e.g. {min(ids)})"
            for split, ids in sorted(places.items())
        )
        lines.append(f"{key[:16] + '...' if len(key) == 64 and '/' not in key else key}: {', '.join(parts)}")
    return lines
