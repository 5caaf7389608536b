"""Describe the clips that a run trains and validates on, so that others can be told from them."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.facts import fact_names, file_facts, window_facts
from loaders.batches.windows import DataConfig
from utils.evaluation.domain import FILE_FACTS, Domain, fit_domain
from utils.evaluation.scoring import ClipScores
from utils.media.luma import equalize_luma
from utils.run import distributed
from utils.run.bad_clips import BadClips
from utils.run.progress import map_files
from utils.types import Clip, ClipBatch

log = logging.getLogger(__name__)
CLIPS_PER_PERSON = 8


def sample_by_person(clips: Sequence[Clip], limit: int) -> list[Clip]:
    """At most `limit` of the clips, up to CLIPS_PER_PERSON of each person, evenly spaced in the order of ids.

    No random draw: a run that is resumed describes the same clips.
    """
    clips_of: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        clips_of[clip.identity].append(clip)
    persons = _spread(sorted(clips_of), max(2, limit // CLIPS_PER_PERSON))
    return [clip for person in persons for clip in _spread(clips_of[person], CLIPS_PER_PERSON)]


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[place] for place in places]


def describe_training(
    clips: Mapping[str, Sequence[Clip]],
    data: DataConfig,
    workers: WorkerConfig,
    limit: int,
    max_bad_clips: int,
    device: torch.device,
    *,
    inputs: frozenset[str],
    min_window_s: float,
) -> dict[str, Any]:
    """{"domain": plain values of the Domain of the "train" and "val" `clips`}; {} without two persons.

    It is fitted on at most `limit` clips; those that cannot be read are left out, up to `max_bad_clips`.
    Raises StopWaiting in all processes if one of them was asked to stop.
    """
    names = fact_names(inputs)
    chosen = sample_by_person([*clips["train"], *clips["val"]], limit) if limit and names else []
    if len({clip.identity for clip in chosen}) < 2:
        return {}
    bad_clips = BadClips(max_bad_clips)
    loader = evaluation_loader(
        chosen, data, workers, bad_clips=bad_clips, inputs=inputs, min_window_s=min_window_s
    )
    rows: list[list[tuple[str, list[float]]]] = []
    stopped = False
    equalized = False
    bar = tqdm(loader, "describe", leave=False, unit="batch", disable=not distributed.is_main())
    try:
        for batch in bar:
            equalized |= batch.is_equalized
            facts = window_facts(batch.to(device)).double().cpu().tolist()
            rows.append(list(zip(batch.clip_ids, facts, strict=True)))
    except distributed.StopWaiting:
        stopped = True  # `collect` raises it in all processes
    facts_of: dict[str, list[list[float]]] = defaultdict(list)
    for row in distributed.collect(None if stopped else rows):
        for clip_id, facts in row:
            facts_of[clip_id].append(facts)
    person_of = {clip.clip_id: clip.identity for clip in chosen}
    if len({person_of[clip_id] for clip_id in facts_of}) < 2:  # the others could not be read
        return {}
    folder_of = {clip.clip_id: clip.folder for clip in chosen}
    means = np.array([np.mean(facts, axis=0) for facts in facts_of.values()])
    of_files = np.array([file_facts(folder_of[clip_id]) for clip_id in facts_of])
    if np.isfinite(of_files).all():  # else not all have a clip.json
        names, means = (*names, *FILE_FACTS), np.concatenate([means, of_files], axis=1)
    domain = fit_domain(names, means, [person_of[clip_id] for clip_id in facts_of], equalized=equalized)
    about = "" if domain.can_tell() else ": too few to call anything unlike them"
    log.info("described by %d clips of %d persons%s", len(means), domain.num_persons, about)
    return {"domain": domain.as_plain()}


def describe(domain: Domain, batch: ClipBatch) -> Tensor:
    """(B, W) facts of a batch, its pictures as the domain saw them; NaN if that cannot be."""
    if domain.equalized and not batch.is_equalized:
        frames = equalize_luma(batch.video.permute(0, 2, 3, 4, 1).cpu().numpy())
        video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).to(batch.video.device)
        batch = dataclasses.replace(batch, video=video, is_equalized=True)
    facts = window_facts(batch)
    if batch.is_equalized and not domain.equalized:  # a pack has lost what would be compared
        facts[:] = torch.nan
    return facts


def score_and_describe(
    score: Callable[..., ClipScores],
    batches: Iterable[ClipBatch],
    clips: Sequence[Clip],
    domain: Domain | None,
    description: str,
) -> ClipScores:
    """score(batches), with all facts of the `clips` that the domain knows, if there is one."""
    if domain is None:
        return score(batches, description=description)
    scores = score(batches, description=description, describe=functools.partial(describe, domain))
    assert scores.facts is not None
    folders = [clip.folder for clip in scores.in_order(clips)]
    of_files = np.array(list(map_files(file_facts, folders, f"{description}: clip.json")))
    return dataclasses.replace(scores, facts=domain.complete(scores.facts, of_files))
