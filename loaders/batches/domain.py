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

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import ClipLoader, WorkerConfig, evaluation_loader
from loaders.batches.facts import (
    PICTURE_FACTS,
    PREPARATION,
    SOUND_FACTS,
    fact_names,
    file_facts,
    preparation_of,
    window_facts,
)
from utils.clip.features import FeatureInfo, read_info
from utils.clip.files import LANDMARKS_NAME, VIDEO_NAME
from utils.clip.packed import FEATURES
from utils.clip_type import INPUTS, Clip
from utils.errors import ClipError, UsageError
from utils.evaluation.domain import FILE_FACTS, P_VALUE, Domain, fit_domain
from utils.evaluation.metrics import Floats
from utils.evaluation.scoring import ClipScores
from utils.evaluation.units import caveat, counted, kinds_of
from utils.media.luma import equalize_luma
from utils.run import distributed
from utils.run.bad_clips import BadClips
from utils.run.progress import map_files
from utils.types import ClipBatch

log = logging.getLogger(__name__)
CLIPS_PER_PERSON = 8
RECIPE_CLIPS = 64  # whose features are compared where no clip is described


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
    **needs: Any,
) -> dict[str, Any]:
    """What "train" and "val" `clips` are like: {"domain": plain values of the Domain of their plain facts, if
    they show two persons, "features": {name of a cached feature that is loaded: its recipe}}.

    The domain is fitted on at most `limit` clips; those that cannot be read are left out, up to
    `max_bad_clips`. Clips that were prepared in several ways have facts of several kinds, and no fit
    describes them: then its value is {"reason": why}. `inputs`, `needs`: the method's. Raises UsageError if
    features were made in several ways, StopWaiting in all processes if one of them was asked to stop.
    """
    chosen = sample_by_person([*clips["train"], *clips["val"]], limit or RECIPE_CLIPS)
    recipes, signals = common_recipes(chosen, inputs)
    described: dict[str, Any] = {"features": recipes} if recipes else {}
    if limit and fact_names(signals) and len({clip.identity for clip in chosen}) > 1:
        where = data, workers, max_bad_clips, device
        described |= _describe_facts(chosen, *where, inputs=signals, **needs)
    return described


def common_recipes(
    clips: Sequence[Clip], inputs: frozenset[str]
) -> tuple[dict[str, dict[str, Any]], frozenset[str]]:
    """({name of each cached feature of `inputs`: its recipe}, `inputs` with the signals that they were made
    from in their place).

    Raises UsageError if clips' features were made in several ways, ClipError if none can be read.
    """
    names = sorted(name for name in inputs if name.startswith(FEATURES))
    recipes: dict[str, dict[str, Any]] = {}
    signals = set(inputs.difference(names))
    for name in names:
        errors = []

        def info_of(clip: Clip, name: str = name) -> FeatureInfo | ClipError:
            try:
                return read_info(clip.folder, name)
            except ClipError as error:
                return error

        for clip, info in zip(clips, map_files(info_of, clips, f"recipes of {name}"), strict=True):
            if isinstance(info, ClipError):
                errors.append(info)
                continue
            for source in (info.source, *info.more_sources):
                if source != LANDMARKS_NAME:
                    signals.add("video" if source == VIDEO_NAME else "sound")
            if recipes.setdefault(name, info.recipe()) != info.recipe():
                made = f"{info.recipe()}, those of other clips with {recipes[name]}"
                raise UsageError(f"{name} of {clip.clip_id} were made with {made}: extract all in one way")
        if name not in recipes and errors:
            raise errors[0]
    return recipes, frozenset(signals)


def _describe_facts(
    chosen: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    max_bad_clips: int,
    device: torch.device,
    *,
    inputs: frozenset[str],
    **needs: Any,
) -> dict[str, Any]:
    """{"domain": plain values of a Domain, or {"reason": why there is none}}; {} without two persons."""
    names = fact_names(inputs)
    facts_of_file: dict[str, list[float]] = {}
    preparations: dict[str, tuple[object, ...]] = {}

    def keep(clip: Clip, info: Mapping[str, Any]) -> None:
        facts_of_file[clip.clip_id], preparations[clip.clip_id] = file_facts(info), preparation_of(info)

    bad_clips = BadClips(max_bad_clips)
    loader = evaluation_loader(
        chosen, data, workers, bad_clips=bad_clips, info_to=keep, inputs=inputs, **needs
    )
    rows: list[tuple[bool, list[tuple[str, list[float]]]]] = []
    stopped = False
    bar = tqdm(loader, "describe", leave=False, unit="batch", disable=not distributed.is_main())
    try:
        for batch in bar:
            facts = window_facts(batch.to(device)).double().cpu().tolist()
            rows.append((batch.is_equalized, list(zip(batch.clip_ids, facts, strict=True))))
    except distributed.StopWaiting:
        stopped = True  # `collect` raises it in all processes
    facts_of: dict[str, list[list[float]]] = defaultdict(list)
    are_equalized: set[bool] = set()
    for is_equalized, row in distributed.collect(None if stopped else rows):
        are_equalized.add(is_equalized)
        for clip_id, facts in row:
            facts_of[clip_id].append(facts)
    described = [clip for clip in chosen if clip.clip_id in facts_of]
    if len({clip.identity for clip in described}) < 2:  # the others could not be read
        return {}
    if kinds := differently_prepared(are_equalized, [preparations[clip.clip_id] for clip in described]):
        log.warning("the training clips are not described, so no video is called unlike them: %s", kinds)
        return {"domain": {"reason": kinds}}
    means = np.array([np.mean(facts_of[clip.clip_id], axis=0) for clip in described])
    of_files = np.array([facts_of_file[clip.clip_id] for clip in described])
    domain = _fit(described, names, means, of_files, equalized=are_equalized == {True})
    return {"domain": domain.as_plain()}


def _fit(
    clips: Sequence[Clip], names: tuple[str, ...], means: Floats, of_files: Floats, *, equalized: bool
) -> Domain:
    """The domain of clips with facts of windows (n, W) and of files (n, 2), which the log then tells of."""
    if np.isfinite(of_files).all():  # else not all have a clip.json
        names, means = (*names, *FILE_FACTS), np.concatenate([means, of_files], axis=1)
    persons, identity_is = [clip.identity for clip in clips], kinds_of(clips)
    domain = fit_domain(names, means, persons, identity_is=identity_is, equalized=equalized)
    about = "" if domain.can_tell() else ": too few to call anything unlike them"
    who = counted(domain.num_persons, identity_is)
    log.info("described by %d clips of %s%s", len(means), who, about)
    if domain.can_tell() and (warning := caveat(identity_is)):
        log.warning(
            "%s So more videos of new persons than %.0f %% may be unlike them", warning, 100 * P_VALUE
        )
    return domain


def differently_prepared(are_equalized: set[bool], preparations: Iterable[tuple[object, ...]]) -> str:
    """Why clips' facts are not of one kind; "" if they are, as far as their clip.json says."""
    if len(are_equalized) > 1:
        return "frames of some are packed equalised, those of others are not"
    for name, values in zip(PREPARATION, zip(*preparations, strict=True), strict=True):
        if len(found := sorted({str(value) for value in values if value is not None})) > 1:
            return f"they were prepared with --{name} {' and '.join(found)}"
    return ""


def evaluation_batches(
    domain: Domain | None, clips: Sequence[Clip], data: DataConfig, workers: WorkerConfig, **needs: Any
) -> tuple[ClipLoader, dict[str, list[float]]]:
    """The evaluation loader and, if there is a domain, FILE_FACTS by clip id; each clip.json is read once."""
    found: dict[str, list[float]] = {}
    needs["inputs"] = needs.get("inputs", INPUTS) | signals_of(domain)

    def keep(clip: Clip, info: Mapping[str, Any]) -> None:
        found[clip.clip_id] = file_facts(info)

    return evaluation_loader(clips, data, workers, info_to=keep if domain else None, **needs), found


def signals_of(domain: Domain | None) -> frozenset[str]:
    """The signals whose facts a domain knows, which a method of cached features does not load."""
    kinds = {"video": PICTURE_FACTS, "sound": SOUND_FACTS} if domain else {}
    return frozenset(signal for signal, facts in kinds.items() if domain and facts[0] in domain.names)


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
    facts_of_file: Mapping[str, list[float]],
    domain: Domain | None,
    description: str,
) -> ClipScores:
    """score(batches), with all facts of the clips that the domain knows, if there is one.

    `batches`, `facts_of_file`: of `evaluation_batches`.
    """
    if domain is None:
        return score(batches, description=description)
    scores = score(batches, description=description, describe=functools.partial(describe, domain))
    assert scores.facts is not None
    of_files = np.array([facts_of_file[clip_id] for clip_id in scores.clip_ids])
    return dataclasses.replace(scores, facts=domain.complete(scores.facts, of_files))
