"""Score a data set: the one function that training (validation) and test.py call."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.errors import FrameworkError
from utils.evaluation.metrics import DetectionMetrics
from utils.run import distributed
from utils.run.bad_clips import BadClips
from utils.types import ClipBatch

Window = tuple[str, float, float, float, float]  # clip id, label, logits of clip, picture and sound
_ScoredBatch = tuple[list[Window], dict[str, float], bool]  # with sums of the loss terms; has it heads?


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """One row per clip, in the order of their first windows; logits are pooled over a clip's windows."""

    clip_ids: list[str]
    labels: np.ndarray  # (n,) 1 = fake
    logits: np.ndarray  # (n,) float64
    video_logits: np.ndarray | None  # (n,), None if the method does not say
    audio_logits: np.ndarray | None
    num_windows: np.ndarray  # (n,)
    window_logits: list[np.ndarray]  # n times (num_windows,): what was pooled, in order of time
    mean_terms: dict[str, float]  # loss terms, mean over windows; empty without a criterion


class NotFiniteError(FrameworkError):
    """A loss or a score is NaN or infinite."""


def require_finite(values: Mapping[str, float], clip_ids: Iterable[str]) -> None:
    """Raise NotFiniteError that names the term and the clips if a value is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value} on the batch of clips {', '.join(clip_ids)}; look at them with "
                "preprocess.verify, or lower --learning_rate"
            )


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """bf16 autocast on `device` where `precision` is "bf16", plain float32 where it is "fp32"."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


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
    show_progress: bool = True,
) -> ClipScores:
    """Score every window and pool the logits of each clip's windows: their "mean", or their "max", which
    finds what was forged only in places. The model's mode is restored afterwards.

    Of several processes each is given its share of the batches (as loaders.evaluation_loader deals them out),
    and all return the scores of all, which are those of a single process. Clips that the loader has put into
    `bad_clips` get no score, not even from windows that could be read.
    """
    was_training = model.training
    model.eval()
    batches_here: list[_ScoredBatch] = []
    show_progress = show_progress and distributed.is_main()
    for batch in tqdm(batches, desc=description, leave=False, disable=not show_progress, unit="batch"):
        on_device = batch.to(device)
        with autocast(device, precision):
            output = model(on_device)
            terms = criterion(output, on_device) if criterion else {}
        has_heads = output.video_logits is not None and output.audio_logits is not None
        nothing = torch.full_like(output.logits, torch.nan)
        columns = (
            output.logits,
            output.video_logits if has_heads else nothing,
            output.audio_logits if has_heads else nothing,
        )
        # one transfer for all that is read
        values = torch.cat([value.float().flatten() for value in (*columns, *terms.values())])
        values = values.cpu().double().numpy()
        logits, term_values = (
            values[: 3 * len(batch.clip_ids)].reshape(3, -1),
            values[3 * len(batch.clip_ids) :],
        )
        if not np.isfinite(logits[0]).all():
            raise NotFiniteError(f"a score is not finite on the batch of clips {', '.join(batch.clip_ids)}")
        windows = list(zip(batch.clip_ids, batch.labels.tolist(), *logits.tolist(), strict=True))
        sums = {name: value * len(windows) for name, value in zip(terms, term_values.tolist(), strict=True)}
        batches_here.append((windows, sums, has_heads))
    model.train(was_training)
    scored = distributed.collect(batches_here)
    windows = [window for windows, _, _ in scored for window in windows]
    num_scored = len(windows)
    if bad_clips is not None:
        bad_clips.share()
        windows = [window for window in windows if window[0] not in bad_clips.found]
    sums: Counter[str] = Counter()
    for _, sums_of_batch, _ in scored:
        sums.update(sums_of_batch)
    terms = {name: value / num_scored for name, value in sums.items()}
    has_heads = any(has_heads for _, _, has_heads in scored)
    return _pool(windows, {"mean": np.mean, "max": np.max}[pooling], has_heads, terms)


def _pool(
    windows: list[Window],
    pool: Callable[..., np.ndarray],
    has_heads: bool,
    terms: dict[str, float],
) -> ClipScores:
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for clip_id, *values in windows:
        rows.setdefault(clip_id, []).append(tuple(values))
    pooled = np.array([pool(values, axis=0) for values in rows.values()]).reshape(-1, 4)
    return ClipScores(
        clip_ids=list(rows),
        labels=pooled[:, 0],
        logits=pooled[:, 1],
        video_logits=pooled[:, 2] if has_heads else None,
        audio_logits=pooled[:, 3] if has_heads else None,
        num_windows=np.array([len(values) for values in rows.values()]),
        window_logits=[np.array([logit for _, logit, *_ in values]) for values in rows.values()],
        mean_terms=terms,
    )


def validation_row(scores: ClipScores, metrics: DetectionMetrics) -> dict[str, float]:
    """The validation columns of metrics.csv."""
    row = {
        "val_auc": metrics.auc,
        "val_ap": metrics.ap,
        "val_eer": metrics.eer,
        "val_balanced_accuracy": metrics.balanced_accuracy,
        "val_loss": scores.mean_terms["total"],
    }
    return row | {f"val_{name}": value for name, value in scores.mean_terms.items() if name != "total"}
