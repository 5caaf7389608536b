"""What the parts of a split share: persons, donors, source videos and families of clips, in numbers.

A drawn split shares no persons; official and published ones may, and then every result is told with this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from utils.clip_type import Clip

Overlap = dict[str, dict[str, int]]
_Names = Callable[[Clip], Iterable[str]]


def _person(clip: Clip) -> tuple[str, ...]:
    """The person on screen, if the data set names persons."""
    return (clip.identity,) if clip.identity_is == "person" else ()


def _video(clip: Clip) -> tuple[str, ...]:
    return (clip.source_video,)


def _family(clip: Clip) -> tuple[str, ...]:
    """The real clip that it was made from, if the data set names that, and not only whose it is."""
    return (clip.pair_key,) if clip.pair_key != clip.identity or clip.identity_is == "family" else ()


# what is counted -> its names in a clip to be tested, and in a clip to train on
KINDS: dict[str, tuple[_Names, _Names]] = {
    "persons": (_person, _person),
    "donors": (lambda clip: clip.source_ids, lambda clip: (*_person(clip), *clip.source_ids)),
    "source videos": (_video, _video),
    "clip families": (_family, _family),
}


def count_overlap(tested: Sequence[Clip], trained: Sequence[Clip]) -> Overlap:
    """{"persons": {"tested": 1499, "in_training": 1439}, ...}: of those in `tested`, how many `trained` has.

    Kinds that no tested clip names are left out.
    """
    overlap: Overlap = {}
    for kind, (of_tested, of_trained) in KINDS.items():
        names = {name for clip in tested for name in of_tested(clip)} - {""}
        if names:
            known = {name for clip in trained for name in of_trained(clip)}
            overlap[kind] = {"tested": len(names), "in_training": len(names & known)}
    return overlap
