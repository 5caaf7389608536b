"""What stands for a person where clips are counted: not every data set names who is seen.

A kind is "person", "family" (a clip and the fakes made from it) or "clip" (each clip by itself); "identity"
in files from before kinds were kept. Several kinds are joined, e.g. "person+clip".
"""

from __future__ import annotations

from collections.abc import Iterable

from utils.clip_type import Clip

UNKNOWN = "identity"
NOUNS = {  # kind -> one, several
    "person": ("person", "persons"),
    "family": ("clip family", "clip families"),
    "clip": ("single clip", "single clips"),
    UNKNOWN: ("identity", "identities"),
}
STAND_INS = {"family": "a clip and the fakes made from it count", "clip": "each clip counts"}


def join_kinds(kinds: Iterable[str]) -> str:
    """Each of the kinds, single or joined ones, once: "person+clip"."""
    found = {kind for joined in kinds for kind in joined.split("+")}
    return "+".join(kind for kind in NOUNS if kind in found)


def kinds_of(clips: Iterable[Clip]) -> str:
    """What the identities of some clips are; "" of no clips."""
    return join_kinds({clip.identity_is for clip in clips} or {UNKNOWN})


def is_kind(value: object) -> bool:
    """Whether a value read from a file is a kind, or several as `join_kinds` joins them."""
    return isinstance(value, str) and value != "" and join_kinds([value]) == value


def noun(kinds: str, number: int = 2) -> str:
    """ "persons", "clip family", "persons or single clips"."""
    return " or ".join(NOUNS[kind][number != 1] for kind in kinds.split("+"))


def counted(number: int, kinds: str) -> str:
    """ "8 persons", "1 clip family", "12 persons or single clips"."""
    return f"{number} {noun(kinds, number)}"


def caveat(kinds: str) -> str:
    """A sentence on what counts as a person but is not one; "" if all are persons, or unknown."""
    names = kinds.split("+")
    stand_ins = " or ".join(STAND_INS[kind] for kind in names if kind in STAND_INS)
    if not stand_ins:
        return ""
    start = "Persons are not named:"
    if "person" in names:
        start = "Not all persons are named: where they are not,"
    return f"{start} {stand_ins} as a person, so one person may count several times."
