"""Leaks: persons, clip families and files that occur in more than one split.

All comparisons here are look-ups by key, linear in the number of clips. For copies encoded again, see
loaders/audit/duplicates.py.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from loaders.audit.contents import unknown_checksums
from loaders.audit.facts import known_checksums
from loaders.audit.findings import DROP_DONORS, REDRAW, REMOVE, Finding
from loaders.listing import Listing
from loaders.splits.drawing import Split
from utils.clip.backends import backend_of
from utils.clip.files import read_info_values
from utils.clip_type import Clip
from utils.errors import DatasetError
from utils.evaluation.units import noun
from utils.run.progress import map_files

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
    split_of: Mapping[str, str], keys_of: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, list[str]]]:
    """{key: {split: clip ids}} for the keys that occur in more than one split. "" is not a key.

    split_of, keys_of: clip id -> its split, and its keys.
    """
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for clip_id, keys in keys_of.items():
        if clip_id in split_of:
            for key in set(keys) - {""}:
                places[key][split_of[clip_id]].append(clip_id)
    return {key: dict(found) for key, found in places.items() if len(found) > 1}


def find_person_leaks(listing: Listing, split: Split) -> list[Finding]:
    """Persons on screen, donors, and clip families (pair_key, split_group) in more than one split.

    Donors are a note if the split keeps such fakes (`donor_rule`); everything is a note if the data set's
    own split shares persons by design (`known_overlap`).
    """

    def shared(keys_of: Callable[[Clip], Iterable[str]]) -> dict[str, dict[str, list[str]]]:
        return in_several_splits(split.split_of, {clip.clip_id: keys_of(clip) for clip in listing.clips})

    identities = shared(lambda clip: (clip.identity,))
    persons = shared(lambda clip: clip.persons)
    donors = {person: places for person, places in persons.items() if person not in identities}
    everybody = {person for clip in listing.clips for person in clip.persons}
    families = shared(lambda clip: {clip.pair_key} - everybody)  # those named after a person are found above
    groups = shared(lambda clip: (clip.split_group,))
    leaks = {
        "leak_identity": (identities, f"{noun(listing.identity_is)} on screen"),
        "leak_donor": (donors, "persons whose face or voice was used"),
        "leak_pair": (families, "clip families (pair_key)"),
        "leak_split_group": (groups, "groups that must stay together (split_group)"),
    }
    findings = []
    for kind, (found, what) in leaks.items():
        if not found:
            continue
        summary, remedy = f"{len(found)} {what} are in more than one split", REDRAW
        why = split.known_overlap
        if kind == "leak_donor":
            remedy = DROP_DONORS
            if split.donor_rule == "keep":
                why = why or "the split keeps such fakes; look at results on the donor-disjoint subset too"
        summary += f": {why}" if why else ""
        findings.append(Finding(kind, summary, remedy, _examples(found), is_note=bool(why)))
    return findings


def find_identical_files(
    split_of: Mapping[str, str], checksums: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """Files with the same checksum in several splits. checksums: {clip_id: {kind of file: sha256}}."""
    findings = []
    for kind, name in FILE_KINDS.items():
        keys_of = {clip_id: (known.get(kind, ""),) for clip_id, known in checksums.items()}
        if found := in_several_splits(split_of, keys_of):
            summary = f"the same {name}, byte for byte, is in more than one split ({len(found)} times)"
            kind_of_leak = f"leak_identical_{kind.replace(' ', '_')}"
            findings.append(Finding(kind_of_leak, summary, REMOVE, _examples(found)))
    return findings


def require_no_leak(listing: Listing, split: Split) -> Counter[tuple[str, str]]:
    """Raise DatasetError, with examples, if splits share persons, clip families or identical files.

    Cheap enough for every start of a training: look-ups, and one read of each existing clip.json; of files
    without a checksum, those of one size in several splits are read. Notes (see `find_person_leaks`) are
    logged as warnings. Returns what else a run asks of clip.json, so that it is read once: (part, landmark
    backend) -> number of clips, the backend "" if it is unknown.
    """
    if listing.identity_is == "clip" and all(clip.pair_key == clip.identity for clip in listing.clips):
        log.warning("%s: names neither persons nor families: only identical files are found", listing.dataset)
    findings = find_person_leaks(listing, split)
    used = [clip for clip in listing.clips if clip.clip_id in split.split_of]
    name = f"{listing.dataset}: checksums"
    checksums: dict[str, dict[str, str]] = {}
    backends: Counter[tuple[str, str]] = Counter()
    for clip, (known, backend) in zip(used, map_files(_read_known, used, name), strict=True):
        checksums[clip.clip_id] = known
        backends[split.split_of[clip.clip_id], backend] += 1
    for clip_id, kind, digest in unknown_checksums(used, split.split_of, checksums):
        checksums[clip_id] = checksums[clip_id] | {kind: digest}
    findings += find_identical_files(split.split_of, checksums)
    for finding in findings:
        if finding.is_note:
            log.warning("%s: %s, e.g. %s", listing.dataset, finding.summary, finding.examples[0])
    leaks = [finding for finding in findings if not finding.is_note]
    if leaks:
        shown = "; ".join(f"{leak.summary}, e.g. {leak.examples[0]}" for leak in leaks)
        raise DatasetError(f"{listing.dataset}: its splits leak: {shown}. Remedy: {leaks[0].remedy}")
    return backends


def _read_known(clip: Clip) -> tuple[dict[str, str], str]:
    info = read_info_values(clip.folder)
    return known_checksums(info), backend_of(info)


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
