"""Windows that slide over clips: what they say of every moment, and the rules that make segments of it.

train.py chooses the rules on validation clips and stores them in best.pt; test.py and models/judging apply
them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loaders.batches.data_config import RELEASED_FRAMES, DataConfig
from loaders.batches.data_loader import ClipLoader, WorkerConfig, evaluation_loader
from loaders.batches.domain import sample_by_person
from loaders.batches.labels import true_segments
from loaders.batches.windows import ClipDataset
from utils.clip_type import Clip
from utils.evaluation.localisation import LocatedFiles, localisation_results
from utils.evaluation.segments import SEGMENTS_NAME, TRUTHS_NAME, Localiser, fit_rule
from utils.evaluation.timelines import STREAMS, ClipTimeline, WindowLogits, score_windows
from utils.files import write_text
from utils.run.bad_clips import BadClips
from utils.run.distributed import is_main
from utils.run.loop_config import LoopConfig
from utils.run.resume import TrainingState

log = logging.getLogger(__name__)
MIN_CLIPS = 2  # with a segment, for a rule to be chosen


def has_segments(clips: Sequence[Clip]) -> bool:
    """Whether the data set says of any of the clips where it is forged."""
    return any(clip.video_fake_segments or clip.audio_fake_segments for clip in clips)


def sliding_config(data: DataConfig) -> DataConfig:
    """The same windows, free to begin anywhere: released ones as 60 frames at any rate, frames one by one."""
    if data.window == "released":
        return dataclasses.replace(data, window="seconds", window_s=RELEASED_FRAMES / data.video_fps)
    if data.frames_per_clip:
        return dataclasses.replace(data, frames_per_clip=0, window_s=1 / data.video_fps)
    return data


def score_timelines(
    model: nn.Module,
    clips: Sequence[Clip],
    data: DataConfig,
    workers: WorkerConfig,
    stride_s: float,
    device: torch.device,
    precision: str,
    *,
    alone: bool = False,
    bad_clips: BadClips | None = None,
    **needs: Any,
) -> dict[str, ClipTimeline]:
    """Clip id -> what windows that are `stride_s` apart say of the clip; without clips that cannot be read.

    All processes of a run call this, or one that is `alone`. `bad_clips`, `needs`: as for a loader.
    """
    data = dataclasses.replace(sliding_config(data), trim_silence=False)
    options = {"stride_s": stride_s, "alone": alone, "bad_clips": bad_clips, **needs}
    batches = evaluation_loader(clips, data, workers, **options)
    rows = score_windows(model, batches, device, precision, description="segments", alone=alone)
    starts_of: dict[int, list[int]] = {}
    for index, window in batches.batch_sampler.keys:
        starts_of.setdefault(index, []).append(window.frame)
    return {
        clips[index].clip_id: timeline_of(batches.dataset, index, starts, rows[clips[index].clip_id])
        for index, starts in starts_of.items()
        if len(rows.get(clips[index].clip_id, ())) == len(starts)
    }


def timeline_of(
    dataset: ClipDataset, index: int, starts: Sequence[int], logits: Sequence[WindowLogits]
) -> ClipTimeline:
    """The time line of a clip of a data set, from windows that begin at these frames."""
    return ClipTimeline(
        num_steps=dataset.num_steps(index),
        step_s=1 / dataset.config.video_fps,
        starts=[dataset.step_of(index, start) for start in starts],
        length=dataset.config.window_frames,
        logits=logits,
    )


def _needs_of(loader: ClipLoader) -> dict[str, Any]:
    """Arguments of another loader for the same method."""
    needs = {name: getattr(loader.dataset, name) for name in ("inputs", "min_window_s", "recipes")}
    return needs | {"bad_clips": loader.bad_clips}


def fit_localiser(
    clips: Sequence[Clip], timelines: Mapping[str, ClipTimeline], rule: str, stride_s: float
) -> Localiser | None:
    """The rules for the streams that the method scores and the clips have segments of; None: for no stream.

    rule: the label rule. timelines: by clip id; clips without one are left out.
    """
    clips = [clip for clip in clips if clip.clip_id in timelines]
    rules, scores = {}, {}
    for stream in STREAMS:
        known, truths = _truths(clips, timelines, stream, rule)
        lines = [timelines[clip.clip_id] for clip in known]
        if sum(map(bool, truths)) >= MIN_CLIPS and all(line.has(stream) for line in lines):
            rules[stream], scores[stream] = fit_rule(lines, truths, stream)
    if not rules:
        return None
    return Localiser(stride_s=stride_s, rules=rules, num_clips=len(clips), scores=scores)


def _truths(
    clips: Sequence[Clip], timelines: Mapping[str, ClipTimeline], stream: str, rule: str
) -> tuple[list[Clip], list[list[tuple[float, float]]]]:
    """The clips of which it is known where they are forged, and their true segments."""
    known, truths = [], []
    for clip in clips:
        truth = true_segments(clip, stream, rule, timelines[clip.clip_id].duration_s)
        if truth is not None:
            known.append(clip)
            truths.append(truth)
    return known, truths


def with_localiser(
    complete: Callable[[Mapping[str, Any]], dict[str, Any]],
    state: TrainingState,
    val_loader: ClipLoader,
    workers: WorkerConfig,
    loop: LoopConfig,
    precision: str,
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What changes in best.pt after the last epoch: `complete`, and the localiser, if there is one.

    It is chosen with the weights of the best epoch, which the model of `state` then has.
    """
    dataset, stride_s = val_loader.dataset, loop.segment_stride_s
    needs = _needs_of(val_loader) | {"alone": True}

    def change(content: Mapping[str, Any]) -> dict[str, Any]:
        changed = complete(content)
        clips = sample_by_person(dataset.clips, loop.segment_clips) if loop.segment_clips else []
        if not has_segments(clips) or dataset.config.label_rule == "emotion":
            return changed
        state.model.load_state_dict(content["model"])
        log.info("choosing how scores become segments on %d validation clips", len(clips))
        where = workers, stride_s, state.device, precision
        timelines = score_timelines(state.model, clips, dataset.config, *where, **needs)
        localiser = fit_localiser(clips, timelines, dataset.config.label_rule, stride_s)
        if localiser is None:
            return changed
        scores = ", ".join(f"{name} {score:.4f}" for name, score in localiser.scores.items())
        log.info("challenge score of their segments: %s", scores)
        return changed | {"localiser": localiser.as_plain()}

    return change


def localise(
    localiser: Localiser | None,
    model: nn.Module,
    loader: ClipLoader,
    workers: WorkerConfig,
    device: torch.device,
    precision: str,
    output_dir: Path,
    *,
    wanted: bool = True,
) -> dict[str, Any]:
    """{"localisation": results by stream} of a loader's clips, if it is known where they are forged; or {}.

    Writes segments.json: clip id -> stream -> [[confidence, start, end], ...] in seconds, and the truth,
    true_segments.json: stream -> clip id -> [[start, end], ...]; where that is not `wanted` or not possible,
    older ones are removed. All processes call this; the main one writes.
    """
    clips, data = loader.dataset.clips, loader.dataset.config
    if is_main():
        for name in (SEGMENTS_NAME, TRUTHS_NAME):
            (output_dir / name).unlink(missing_ok=True)
    if not wanted or not has_segments(clips) or data.label_rule == "emotion":
        return {}
    if localiser is None:
        return {"localisation": {"reason": "the checkpoint holds no rules for segments"}}
    where = workers, localiser.stride_s, device, precision
    timelines = score_timelines(model, clips, data, *where, **_needs_of(loader))
    if not is_main():
        return {}
    clips = [clip for clip in clips if clip.clip_id in timelines]
    proposals = {clip.clip_id: localiser.propose(timelines[clip.clip_id]) for clip in clips}
    plain = {name: {k: v.tolist() for k, v in of.items()} for name, of in proposals.items()}
    write_text(output_dir / SEGMENTS_NAME, json.dumps(plain) + "\n")
    found: dict[str, Any] = {"stride_s": localiser.stride_s}
    true: dict[str, Any] = {}
    for stream in localiser.rules:
        known, truths = _truths(clips, timelines, stream, data.label_rule)
        names = [clip.clip_id for clip in known]
        true[stream] = dict(zip(names, truths, strict=True))
        files = LocatedFiles.of(names, truths, [proposals[name][stream] for name in names])
        found[stream] = localisation_results(files, [clip.identity for clip in known], f"stream {stream}")
        for miss in found[stream].get("worst", ()):
            miss["duration_s"] = timelines[miss["clip_id"]].duration_s
    write_text(output_dir / TRUTHS_NAME, json.dumps(true) + "\n")
    return {"localisation": found}
