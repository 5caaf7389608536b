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


def sentence_of_overlap(overlap: Mapping[str, Mapping[str, int]] | None) -> str:
    """What the tested clips share with those of the training (loaders/splits/overlap.py), in words; "" for
    None: the checkpoint was not trained on this data set's other parts.

    "1,439 of 1,499 persons and 5,488 of 7,537 source videos of the tested clips are also in training."
    """
    if overlap is None:
        return ""
    counts = [f"{row['in_training']:,} of {row['tested']:,} {kind}" for kind, row in overlap.items()]
    if not counts:
        return "The data set names neither persons nor families: what its parts share is unknown."
    listed = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
    return f"{listed} of the tested clips are also in training."
