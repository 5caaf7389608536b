"""Scores of a data set: validation in train.py and evaluation in test.py both call evaluate()."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from utils.clip_type import Clip
from utils.evaluation.metrics import Floats
from utils.run import distributed
from utils.run.bad_clips import BadClips
from utils.run.device import autocast
from utils.run.training import NotFiniteError, require_finite
from utils.types import ClipBatch

# clip id, label, logits of clip, video and audio head, label of the frame (NaN of a window), class logits
Window = tuple[Any, ...]
NUM_FIXED = 5  # of these numbers, without the classes

POOLS: dict[str, Callable[..., Any]] = {"mean": np.mean, "max": np.max}


class _ScoredBatch(NamedTuple):
    windows: list[Window]  # or frames; NaN for a head that the method does not have
    clip_ids: tuple[str, ...]  # one per window, but not per frame
    term_sums: dict[str, float]  # loss terms, summed over the windows that they are means of
    term_counts: dict[str, int]  # how many these are
    has_heads: tuple[bool, bool]  # video, audio
    is_by_frame: bool
    facts: list[list[float]]  # per clip id; empty unless they were asked for


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """One row per clip, in the order of first windows; logits are pooled over a clip's windows or frames."""

    clip_ids: list[str]
    labels: Floats  # (n,) 1 = fake
    logits: Floats  # (n,)
    video_logits: Floats | None  # (n,), None if the method has no such head
    audio_logits: Floats | None
    num_windows: npt.NDArray[np.int64]  # (n,)
    window_logits: list[Floats]  # n arrays (num_windows,): the pooled logits, in order of time
    mean_terms: dict[str, float]  # loss terms, mean over their windows; empty without a criterion
    facts: Floats | None = None  # (n, F), means over windows, if they were asked for
    frame_labels: list[Floats] | None = None  # n arrays (num_windows,), 1 = fake picture; None: windows
    emotion_logits: Floats | None = (
        None  # (n, C) of a model that tells EMOTIONS apart, whose labels are places
    )

    def in_order(self, clips: Iterable[Clip]) -> list[Clip]:
        """The scored ones of `clips`, one per row."""
        by_id = {clip.clip_id: clip for clip in clips}
        return [by_id[clip_id] for clip_id in self.clip_ids]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[ClipBatch],
    device: torch.device,
    *,
    precision: str = "fp32",
    criterion: nn.Module | None = None,
    pooling: str = "mean",
    bad_clips: BadClips | None = None,
    description: str = "evaluate",
    describe: Callable[[ClipBatch], torch.Tensor] | None = None,
) -> ClipScores:
    """Score every window and pool the logits over each clip's windows; of `spread_frames` every frame.

    pooling: "mean", or "max", which finds clips that are forged only in places. Model and criterion are in
    evaluation mode; their own is restored.
    With N processes, each is given its share of the batches (see loaders.evaluation_loader); all return the
    scores of all batches, the same as in a single process. `describe` gives (B, F) facts of windows. Clips
    that the loader added to `bad_clips` get no score, even if some of their windows were readable. Raises
    NotFiniteError if a logit or a loss term is not finite, naming the clips of its batch.
    """
    progress = tqdm(batches, desc=description, leave=False, disable=not distributed.is_main(), unit="batch")
    scored_here: list[_ScoredBatch] | None = None
    # `collect` raises it in all processes
    with evaluation_mode(model, criterion), contextlib.suppress(distributed.StopWaiting):
        scored_here = [_score(model, criterion, batch, device, precision, describe) for batch in progress]
    scored = distributed.collect(scored_here)
    if bad_clips is not None:
        bad_clips.share()
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    rows: dict[str, list[tuple[float, ...]]] = {}
    facts: dict[str, list[list[float]]] = {}
    for batch in scored:
        sums.update(batch.term_sums)
        counts.update(batch.term_counts)
        for clip_id, *values in batch.windows:
            if bad_clips is None or clip_id not in bad_clips.found:
                rows.setdefault(clip_id, []).append(tuple(values))
        for clip_id, row in zip(batch.clip_ids, batch.facts, strict=False):  # none if not asked for
            facts.setdefault(clip_id, []).append(row)
    pool = POOLS[pooling]
    tables = [np.array(values) for values in rows.values()]
    pooled = np.array([pool(table, axis=0) for table in tables] or np.zeros((0, NUM_FIXED)))
    is_by_frame = any(batch.is_by_frame for batch in scored)
    has_video, has_audio = (any(batch.has_heads[head] for batch in scored) for head in (0, 1))
    return ClipScores(
        clip_ids=list(rows),
        labels=pooled[:, 0],
        logits=pooled[:, 1],
        video_logits=pooled[:, 2] if has_video else None,
        audio_logits=pooled[:, 3] if has_audio else None,
        num_windows=np.array([len(values) for values in rows.values()]),
        window_logits=[table[:, 1] for table in tables],
        frame_labels=[table[:, 4] for table in tables] if is_by_frame else None,
        mean_terms={name: value / max(1, counts[name]) for name, value in sums.items()},
        facts=np.array([np.mean(facts[clip_id], axis=0) for clip_id in rows]) if describe else None,
        emotion_logits=pooled[:, NUM_FIXED:] if pooled.shape[1] > NUM_FIXED else None,
    )


@contextlib.contextmanager
def evaluation_mode(*modules: nn.Module | None) -> Iterator[None]:
    """Modules (None: there is no such one) are in evaluation mode while the context lasts."""
    were_training = [(module, module.training) for module in modules if module is not None]
    for module, _ in were_training:
        module.eval()
    yield
    for module, was_training in were_training:
        module.train(was_training)


def _score(
    model: nn.Module,
    criterion: nn.Module | None,
    batch: ClipBatch,
    device: torch.device,
    precision: str,
    describe: Callable[[ClipBatch], torch.Tensor] | None,
) -> _ScoredBatch:
    on_device = batch.to(device)
    with autocast(device, precision):
        output = model(on_device)
        terms = criterion(output, on_device) if criterion else {}
    heads = (output.video_logits, output.audio_logits)
    size, labels, clip_ids = len(batch.clip_ids), batch.labels, batch.clip_ids
    frame_labels = torch.full_like(labels, torch.nan)
    logits: torch.Tensor = output.logits
    if batch.spread_frames:
        assert output.frame_logits is not None  # see models/method.py
        shown = ~batch.video_padding_mask
        lengths = shown.sum(dim=1)
        labels, frame_labels = labels.repeat_interleave(lengths), batch.frame_labels[shown]
        clip_ids = tuple(
            name for name, length in zip(clip_ids, lengths.tolist(), strict=True) for _ in range(length)
        )
        logits = output.frame_logits[shown.to(device)]
        heads = (logits if heads[0] is not None else None, None)
    unknown = torch.full_like(logits, torch.nan)
    classes = () if output.emotion_logits is None else output.emotion_logits.unbind(dim=1)
    columns = (logits, *(unknown if head is None else head for head in heads), *classes)
    # one transfer for all values
    on_cpu = torch.cat([value.float().flatten() for value in (*columns, *terms.values())]).cpu()
    values = on_cpu.double().numpy()
    num_values = len(columns) * len(labels)
    scores, term_values = values[:num_values].reshape(len(columns), -1), values[num_values:]
    has = [True, *(head is not None for head in heads), *(True for _ in classes)]
    if not np.isfinite(scores[has]).all():
        raise NotFiniteError(f"a score is not finite on the batch of clips {', '.join(batch.clip_ids)}")
    require_finite(dict(zip(map(_column, terms), term_values.tolist(), strict=True)), batch.clip_ids)
    of_heads, of_classes = scores[:3].tolist(), scores[3:].tolist()
    rows = zip(clip_ids, labels.tolist(), *of_heads, frame_labels.tolist(), *of_classes, strict=True)
    clips_of: Callable[..., dict[str, int]] | None = getattr(criterion, "clips_of", None)
    fewer = clips_of(output, batch) if clips_of else {}
    counts = {name: fewer.get(name, size) for name in terms}
    return _ScoredBatch(
        windows=list(rows),
        clip_ids=batch.clip_ids,
        term_sums={
            name: value * counts[name] for name, value in zip(terms, term_values.tolist(), strict=True)
        },
        term_counts=counts,
        has_heads=(heads[0] is not None, heads[1] is not None),
        is_by_frame=batch.spread_frames,
        facts=describe(on_device).double().cpu().tolist() if describe else [],
    )


def _column(term: str) -> str:
    """The column of metrics.csv of a loss term in validation."""
    return "val_loss" if term == "total" else f"val_{term}"


def validation_row(scores: ClipScores, metrics: Mapping[str, float]) -> dict[str, float]:
    """The validation columns of metrics.csv: loss terms, and some metrics by their names."""
    row = {f"val_{name}": value for name, value in metrics.items()}
    row["val_loss"] = scores.mean_terms["total"]  # the first of the terms in metrics.csv
    return row | {_column(name): value for name, value in scores.mean_terms.items()}
