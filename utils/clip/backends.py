"""Which networks found the faces of clips: crops and landmarks of two backends differ a little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

REMEDY = "a detector may learn the difference: prepare all clips with one --landmark_backend"


def backend_of(info: Mapping[str, Any]) -> str:
    """The backend (preprocess/faces/backends.py) that a clip's clip.json names, by its values.

    "" without one. Before it was a flag, it was "solutions".
    """
    settings, tools = info.get("settings", {}), info.get("tools", {})
    return str(settings.get("landmark_backend", "solutions" if "mediapipe" in tools else ""))


def describe_mixture(counts: Mapping[str, int]) -> str:
    """What is wrong with clips of several backends (name -> number of clips); "" if they are all of one."""
    if len(counts) < 2:
        return ""
    found = ", ".join(f"{count} by {name}" for name, count in sorted(counts.items()))
    return f"faces were found with several landmark backends ({found}); {REMEDY}"


def describe_change(trained: Iterable[str], tested: Iterable[str], what: str = "the tested clips") -> str:
    """What is to be said if clips are tested whose backend played no part in training; "" if nothing.

    Without any name on one side, nothing is known.
    """
    names, further = sorted(trained), sorted(set(tested) - set(trained))
    if not names or not further:
        return ""
    return (
        f"faces of {what} were found by {' and '.join(further)}, those of the training clips by "
        f"{' and '.join(names)} (--landmark_backend): scores may differ a little"
    )
