"""What the parts of a data set share, from names and metadata alone: no media is read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from loaders.splits.lists import plain_path
from utils.clip_type import Clip

KINDS = {  # kind -> in words
    "persons": "persons on screen",
    "donors": "persons on screen or as donors",
    "videos": "source videos",
    "families": "clip families",
    "files": "clips",
}
MAX_EXAMPLES = 5
_ID = re.compile(r"id\d+")
_FAKEAVCELEB = re.compile(r"(?:.*/)?(?P<person>id\d{5})/(?P<clip>\d+)(?P<rest>[^/]*)")
_SEQUENCES = re.compile(r"(?:.*/)?(?P<target>\d{3})(?:_(?P<source>\d{3}))?")
# data sets whose folders say who is seen, in which recording: [<part>/].../<file>
_FOLDERS = {
    "av_deepfake1m": (r"(?P<family>(?P<video>(?P<person>[^/]+)/[^/]+)/[^/]+)/[^/]+",),  # clips of VoxCeleb2
    "av_deepfake1m_pp": (
        r"(?P<family>(?P<video>(?P<person>vox_celeb_2/[^/]+)/[^/]+)/[^/]+)/[^/]+",
        r"(?P<family>(?P<video>(?P<person>lrs3/[^/]+))/[^/]+)/[^/]+",
        r"(?P<family>(?P<video>(?P<person>silent_videos/subject_\d+)_[^/]*_vid_\d+)_\d+)/[^/]+",
    ),
    "idforge": (r"(?P<family>(?P<video>(?P<person>id\d+)/[^/]+)/(?:id\d+_scene_\d+|[^/]+))[^/]*",),
}


@dataclass(frozen=True, slots=True)
class Named:
    """What is known of a clip by its name or metadata; "" and () where that says nothing."""

    name: str  # its path below the data root, without suffix
    person: str = ""  # on screen
    donors: tuple[str, ...] = ()
    video: str = ""  # the recording that it was cut out of
    family: str = ""  # a genuine clip and the fakes made from it

    def values(self) -> tuple[tuple[str, ...], ...]:
        """What it has of each of KINDS; "" where that is not known."""
        return (self.person,), (self.person, *self.donors), (self.video,), (self.family,), (self.name,)


def _fakeavceleb(name: str) -> Named:
    """<category>/<race>/<gender>/<person>/<clip>_<...><donor>...; donors' ids are in the clip's name."""
    match = _FAKEAVCELEB.fullmatch(name)
    if match is None:
        return Named(name)
    person = match["person"]
    donors = sorted(set(_ID.findall(match["rest"])) - {person})
    return Named(name, person, tuple(donors), family=f"{person}/{match['clip']}")


def _by_folders(patterns: Sequence[re.Pattern[str]], name: str) -> Named:
    match = next((match for pattern in patterns if (match := pattern.fullmatch(name))), None)
    if match is None:
        return Named(name)
    return Named(name, match["person"], video=match["video"], family=match["family"])


def _celebdf(name: str) -> Named:
    """<person>_<recording>, <person>_<donor>_<recording>, or a number of YouTube, which names nobody."""
    ids, stem = _ID.findall(name.split("/")[-1]), name.split("/")[-1]
    recording = next((word for word in stem.split("_") if word.isdecimal()), "")
    return Named(name, ids[0], tuple(ids[1:]), family=f"{ids[0]}_{recording}") if ids else Named(name)


def _ffpp(name: str) -> Named:
    """<target>_<source>: sequences of YouTube, each of another video."""
    match = _SEQUENCES.fullmatch(name)
    if match is None:
        return Named(name)
    target, source = match["target"], match["source"]
    return Named(name, target, (source,) if source else (), video=target, family=target)


# data sets whose names say who is seen
NAME_RULES: dict[str, Callable[[str], Named]] = {
    "celebdf": _celebdf,
    "fakeavceleb": _fakeavceleb,
    "ffpp": _ffpp,
    **{
        dataset: partial(_by_folders, [re.compile(f"(?:.*/)?{pattern}") for pattern in patterns])
        for dataset, patterns in _FOLDERS.items()
    },
}


def named_by_name(dataset: str, name: str) -> Named:
    """What the name of a clip alone tells."""
    path = plain_path(name).removeprefix(f"{dataset}/")
    return NAME_RULES.get(dataset, Named)(path)


def named_by_clip(clip: Clip) -> Named:
    """What the metadata of a clip tells, and its name of what the metadata leaves open."""
    own = named_by_name(clip.dataset, clip.clip_id)
    prefix = f"{clip.dataset}/"
    names_person = clip.identity_is == "person"
    family = clip.identity if clip.identity_is == "family" else clip.pair_key
    if family in (*clip.persons, clip.target_id) and clip.identity_is != "family":
        family = ""  # named after a person or the clip: nothing of its own
    return Named(
        own.name,
        clip.identity.removeprefix(prefix) if names_person else "",
        tuple(donor.removeprefix(prefix) for donor in clip.source_ids),
        clip.source_video.removeprefix(prefix) or own.video,
        own.family or family.removeprefix(prefix),
    )


def overlaps(parts: Mapping[str, Iterable[Named]]) -> dict[str, Any]:
    """{kind: {"numbers": {part: how many it has}, "shared": [{"parts", "number", "examples"}]}} of KINDS.

    "shared" has a row for each pair of parts, also of number 0. A kind that no clip tells is {"reason": why}.
    """
    values: dict[str, dict[str, set[str]]] = {kind: {} for kind in KINDS}
    for part, clips in parts.items():
        sets: list[set[str]] = [set() for _ in KINDS]
        for clip in clips:  # once, since there may be a million
            for names, more in zip(sets, clip.values(), strict=True):
                names.update(more)
        for kind, names in zip(KINDS, sets, strict=True):
            values[kind][part] = names - {""}
    result: dict[str, Any] = {}
    for kind, found in values.items():
        if not any(found.values()):
            result[kind] = {"reason": "neither names nor metadata tell them"}
            continue
        shared = []
        for one, other in itertools.combinations(found, 2):
            both = found[one] & found[other]
            shared.append(
                {"parts": [one, other], "number": len(both), "examples": sorted(both)[:MAX_EXAMPLES]}
            )
        numbers = {part: len(names) for part, names in found.items()}
        result[kind] = {"numbers": numbers, "shared": shared}
    return result


def lines_of(found: Mapping[str, Any], *, is_whole: bool = True) -> list[str]:
    """`overlaps` in words, a line for each kind and pair of parts; unless `is_whole`, of what is shared."""
    lines = []
    if not is_whole and all("reason" in found[kind] for kind in KINDS if kind != "files"):
        lines.append("it names neither persons nor families: what its parts share is unknown")
    for kind, what in KINDS.items():
        row = found[kind]
        if "reason" in row and is_whole:
            lines.append(f"{what}: not known, {row['reason']}")
        for pair in row.get("shared", ()):
            if not (pair["number"] or is_whole):
                continue
            of = " and ".join(f"{row['numbers'][part]:,} of {part}" for part in pair["parts"])
            example = f", e.g. {pair['examples'][0]}" if pair["examples"] else ""
            lines.append(f"{what}: {pair['number']:,} are in both, of {of}{example}")
    return lines


def any_shared(found: Mapping[str, Any]) -> bool:
    """Whether parts share anything."""
    return any(pair["number"] for row in found.values() for pair in row.get("shared", ()))
