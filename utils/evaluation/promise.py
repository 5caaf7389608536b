"""What a stored threshold promises about genuine clips of new persons, and what a test split then showed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.evaluation.decision import Decision
from utils.evaluation.seen import sentence_of_seen
from utils.evaluation.units import UNKNOWN, caveat, counted, is_kind, noun
from utils.files import file_sha256


def promise_of(decision: Decision, *, num_faces: int = 1) -> dict[str, Any]:
    """The promise of a decision about false accusations, for JSON and for `sentences`.

    Promised is the larger bound: that of the threshold, or that of the cross-fitted choice. A video is
    accused if any of its `num_faces` faces is, so its bound is the sum of theirs (Boole's inequality).
    Windows of a face do not multiply it: their mean is compared with the threshold.
    """
    head, again = decision.clip, decision.cross_fit
    bound = head.false_positive_bound
    if not isinstance(again, str):
        bound = max(bound, again.bound)
    return {
        "rate": decision.rate,
        "num_reals": head.num_reals,
        "num_reals_accused": head.num_reals_accused,
        "num_real_persons": head.num_real_persons or None,  # None: fitted before persons were counted
        "identity_is": decision.identity_is,  # what these persons are
        "false_positive_bound": bound,
        "false_positive_bound_of_threshold": head.false_positive_bound,
        "cross_fit": {"reason": again} if isinstance(again, str) else dataclasses.asdict(again),
        "num_faces": num_faces,
        "false_positive_bound_of_any_face": min(1.0, max(num_faces, 1) * bound),
    }


def shown_by(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the test of a data set (its test_metrics.json) showed of the promise; None if it had no reals."""
    decision = result["decision"]
    if "stored" not in decision or decision["at_threshold"]["false_positive_rate"] is None:
        return None
    kinds = decision.get("identity_is")
    return {
        "dataset": result["dataset"],
        "split": result["split"],
        "num_reals": result["overall"]["num_real"],
        "num_reals_accused": decision["at_threshold"]["false_positives"],
        "false_positive_rate": decision["at_threshold"]["false_positive_rate"],
        "num_real_persons": decision.get("num_real_persons"),
        "seen_in_training": result.get("seen_in_training"),
        "identity_is": kinds if is_kind(kinds) else UNKNOWN,
    }


def read_shown(checkpoint: Path) -> list[dict[str, Any]]:
    """`shown_by` of the test_metrics.json next to a checkpoint, if that is the one it is about."""
    path = checkpoint.parent / "test_metrics.json"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        results = list(content["datasets"].values()) if "datasets" in content else [content]
        digest = file_sha256(checkpoint)
        mine = [row for row in results if row["run"]["checkpoint_sha256"] == digest]
        return [shown for shown in map(shown_by, mine) if shown]
    return []


def sentences(promise: Mapping[str, Any]) -> list[str]:
    """The promise in words, one sentence each."""
    persons, bound = promise["num_real_persons"], promise["false_positive_bound"]
    kinds = promise.get("identity_is", UNKNOWN)
    units = noun(kinds)
    new_clips = "new real clips" if kinds == "clip" else f"real clips of new {units}"
    found = [
        f"The threshold was chosen so that at most {promise['rate']:.1%} of the {promise['num_reals']} real "
        f"validation clips{_of_whom(persons, kinds)} are above it ({promise['num_reals_accused']} are).",
        f"Of {new_clips}, up to {bound:.1%} may be above it (95 % bound, {units} as units).",
    ]
    if not persons:
        found[1] = (
            f"Of new real clips, up to {bound:.1%} may be above it if they were independent; clips of one "
            "person are not, and the checkpoint is too old to say of how many persons they are: expect more."
        )
    elif why := caveat(kinds):
        found[1] += f" {why} Of the clips of new persons, more may be."
    if persons and bound > 2 * promise["rate"]:
        alike = "" if kinds == "clip" else f", and all clips of a {noun(kinds, 1)} are alike"
        found.append(
            f"The bound is that large because there are {counted(persons, kinds)} only: if none of so few "
            f"is accused{alike}, {1 - 0.05 ** (1 / persons):.0%} of all may be."
        )
    if told := _sentence_of_cross_fit(promise, kinds):
        found.append(told)
    if promise["num_faces"] > 1:
        found.append(
            f"The video has {promise['num_faces']} faces and is called fake if one of them is: "
            f"up to {promise['false_positive_bound_of_any_face']:.1%} of such real videos may be."
        )
    return found


def _sentence_of_cross_fit(promise: Mapping[str, Any], kinds: str) -> str:
    """What the choice of epoch and threshold gave where it was tried on others; "" of an older file."""
    again = promise.get("cross_fit")
    if again is None:
        return ""
    if "reason" in again:
        return f"The choice of epoch and threshold was not tried on other {noun(kinds)}: {again['reason']}."
    number = again["num_epochs"]
    what = f"Epoch (of {number}) and threshold were" if number > 1 else "The threshold was"
    is_larger = again["bound"] > promise["false_positive_bound_of_threshold"]
    return (
        f"{what} chosen again {again['num_folds']} times, each time without some of the "
        f"{counted(again['num_real_persons'], kinds)}: {again['num_reals_accused']} of the "
        f"{again['num_reals']} real clips left out were above it ({again['rate']:.1%}, 95 % bound "
        f"{again['bound']:.1%}{', the larger one, which counts' if is_larger else ''})."
    )


def sentence_of(shown: Mapping[str, Any]) -> str:
    """What a test split showed, in words."""
    of_whom = _of_whom(shown["num_real_persons"], shown.get("identity_is", UNKNOWN))
    told = (
        f"On the {shown['split']} split of {shown['dataset']}, {shown['num_reals_accused']} of "
        f"{shown['num_reals']} real clips{of_whom} are above it ({shown['false_positive_rate']:.1%})."
    )
    return " ".join(filter(None, (told, sentence_of_seen(shown.get("seen_in_training")))))


def _of_whom(num_persons: int | None, kinds: str) -> str:
    """ " of 8 persons"; "" if that is not known, or says no more than the number of clips."""
    return f" of {counted(num_persons, kinds)}" if num_persons and kinds != "clip" else ""
