"""Clips that a checkpoint's own run has used: what it scores on them says nothing about new clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def seen_in_training(part_of: Mapping[str, str] | None, clip_ids: Iterable[str]) -> dict[str, int | None]:
    """How many of these clips the run trained on and validated on: {"num_clips", "num_train", "num_val"}.

    part_of: clip_id -> the run's part; None if it used the data set and its split is lost: numbers are None.
    """
    ids = list(clip_ids)
    if part_of is None:
        return {"num_clips": len(ids), "num_train": None, "num_val": None}
    counts = Counter(part_of.get(clip_id) for clip_id in ids)
    return {"num_clips": len(ids), "num_train": counts["train"], "num_val": counts["val"]}


def sentence_of_seen(seen: Mapping[str, int | None] | None) -> str:
    """What `seen_in_training` found, in words; empty if all clips are new to the run, or if it is unknown
    what the weights were trained on (None).
    """
    if seen is None:
        return ""
    total, trained, validated = seen["num_clips"], seen["num_train"], seen["num_val"]
    if trained is None or validated is None:
        return (
            "The checkpoint was trained on this data set, and the split of its run is not next to it: some "
            "of these clips may be training clips."
        )
    used = [f"trained on {trained} of these {total} clips"] if trained else []
    used += [f"chosen, with its thresholds, on {validated} of these {total} clips"] if validated else []
    if not used:
        return ""
    return f"The checkpoint was {', and '.join(used)}: these figures say nothing about new clips."
