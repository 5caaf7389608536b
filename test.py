"""Evaluate a checkpoint on a data set.

    python test.py --checkpoint saved_models/X/best.pt --dataset fakeavceleb --data_root PREPARED [--split
    test]

Writes test_metrics.json, predictions.csv, roc.png and scores.png to --output_dir (default: the checkpoint's
folder) and prints the metrics. One score per clip: the mean of the logits of its windows. A checkpoint of the
published code (a bare state_dict, *.pth) needs --preset released; its sizes are then flags, too.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import logging
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from torch import nn

from loaders import DATASETS
from loaders.clip_dataset import DataConfig
from loaders.data_loader import WorkerConfig, evaluation_loader
from loaders.listing import ListingConfig, summarize
from loaders.splits import SPLITS, Split, SplitConfig, make_split, split_checksum
from models import MODELS
from utils.checkpoint import load_checkpoint
from utils.config import Parser, from_args, opt, to_plain
from utils.device import PRECISIONS, resolve_device, resolve_precision
from utils.errors import CheckpointError, UsageError, run_command
from utils.evaluation import ClipScores, evaluate
from utils.files import write_text
from utils.log import configure_logging, describe_environment, logging_redirect_tqdm
from utils.metrics import detection_metrics
from utils.report import plot_roc, plot_score_histogram
from utils.types import Clip

log = logging.getLogger("test")


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """test.py: what is evaluated on what."""

    checkpoint: Path = opt(
        dataclasses.MISSING, "best.pt of a run, or a bare state_dict of the published code"
    )
    dataset: str = opt("fakeavceleb", "data set", choices=sorted(DATASETS))
    data_root: Path = opt(dataclasses.MISSING, "the prepared data set (output of preprocess.prepare)")
    split: str = opt("test", "which clips: a split, or all", choices=(*SPLITS, "all"))
    output_dir: Path | None = opt(None, "where results are written; default: beside the checkpoint")
    model: str = opt(
        "beyond_masking",
        "method of a bare state_dict; a run's checkpoint knows its own",
        choices=sorted(MODELS),
    )
    preset: str = opt("released", "preset of a bare state_dict; a run's checkpoint knows its own")
    precision: str = opt(
        "auto", "auto = bf16 autocast where the device computes it fast, else fp32", choices=PRECISIONS
    )
    device: str = opt("auto", "auto, cpu, cuda or cuda:N; auto = cuda where there is one")


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation needs, from flags and checkpoint."""

    test: TestConfig
    workers: WorkerConfig
    data: DataConfig
    listing: ListingConfig
    split: SplitConfig
    model: nn.Module
    trained_checksums: dict[str, str]  # of the split files that the model was trained with


def parse_args(argv: list[str] | None = None) -> Evaluation:
    """Flags and checkpoint -> Evaluation. The clip pipeline is the checkpoint's unless a flag differs."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("checkpoint", None), ("model", None), ("preset", None)):
        first.add_argument(f"--{name}", default=default)
    chosen, _ = first.parse_known_args(argv)
    wants_help = chosen.checkpoint is None
    content = {} if wants_help else load_checkpoint(Path(chosen.checkpoint))
    saved: dict[str, dict[str, Any]] = content.get("config", {})
    # where a run's split file once lay is no flag of this call: the run's own copy is beside the checkpoint
    saved.get("split", {}).pop("split_file", None)
    model_type = MODELS[_known_model(saved.get("train", {}).get("model", chosen.model or TestConfig.model))]
    preset_name = chosen.preset or TestConfig.preset
    if preset_name not in model_type.presets:
        raise UsageError(f"unknown --preset {preset_name}; there are {', '.join(model_type.presets)}")
    if saved and chosen.model:
        raise UsageError(f"--model is for bare state_dicts: {chosen.checkpoint} knows its own")
    if saved and chosen.preset:
        raise UsageError(f"--preset is for bare state_dicts: {chosen.checkpoint} holds its own configuration")

    groups = {
        "test": TestConfig,
        "workers": WorkerConfig,
        "data": DataConfig,
        "listing": ListingConfig,
        "split": SplitConfig,
    }
    if not saved:
        groups["model_config"] = model_type.config_type
    parser = Parser(__doc__, *groups.values())
    args = parser.parse_args(argv)
    preset = {} if saved else model_type.presets[preset_name]
    configs = {
        name: from_args(
            group, args, ("the checkpoint", saved.get(name, {})), (f"preset {preset_name}", preset)
        )
        for name, group in groups.items()
        if name != "test"
    }
    test = from_args(TestConfig, args)
    if saved:
        model_config = from_args(
            model_type.config_type, argparse.Namespace(), ("the checkpoint", saved["model"])
        )
    else:
        model_config = configs.pop("model_config")
    model = _load_model(model_type, model_config, content, test.checkpoint)
    return Evaluation(test=test, model=model, trained_checksums=content.get("split_checksums", {}), **configs)


def _known_model(name: str) -> str:
    if name not in MODELS:
        raise UsageError(f"unknown model {name}; there are {', '.join(sorted(MODELS))}")
    return name


def _load_model(model_type: Any, config: Any, content: dict[str, Any], path: Path) -> nn.Module:
    model = model_type(config)
    try:
        if "released" in content:
            model.load_released(content["released"])
        else:
            model.load_state_dict(content["model"])
    except (RuntimeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model


def choose_split(evaluation: Evaluation, clips: list[Clip]) -> Split:
    """The split that the model was trained with where there is one, else the one that the flags ask for.

    A checkpoint's own split file lies beside it in `splits/`. Raises UsageError rather than draw another
    split of the data set that the model was trained on: test clips could then be training clips.
    """
    test, config = evaluation.test, evaluation.split
    own_file = test.checkpoint.parent / "splits" / f"{test.dataset}.csv"
    trained = evaluation.trained_checksums.get(test.dataset)
    if config.split_file is None and trained and not own_file.is_file():
        raise UsageError(
            f"{own_file} is missing: say --split_file, the split that {test.checkpoint} was trained with"
        )
    if trained and config.split_file is None:
        config = dataclasses.replace(config, split_file=own_file)
    split = make_split(test.dataset, clips, config)
    if trained and test.split != "all" and split_checksum(split) != trained:
        raise UsageError(f"{config.split_file}: is not the split that {test.checkpoint} was trained with")
    return split


def against_the_reals(clips: list[Clip], scores: ClipScores, key: str) -> dict[str, np.ndarray]:
    """Rows of `scores` for each category or method of fakes, every one together with all real clips."""
    value_of = {clip.clip_id: getattr(clip, key) for clip in clips}
    values = np.array([value_of[clip_id] for clip_id in scores.clip_ids])
    fake = scores.labels == 1
    return {str(value): np.flatnonzero(~fake | (values == value)) for value in sorted(set(values[fake]))}


def category_metrics(clips: list[Clip], scores: ClipScores) -> dict[str, Any]:
    """Metrics per category and per method of the fakes, each against the same reals, and the mean AUC."""
    result: dict[str, Any] = {}
    for key in ("category", "method"):
        rows = {
            name: dataclasses.asdict(
                detection_metrics(scores.labels[rows], scores.logits[rows], f"{key} {name}")
            )
            for name, rows in against_the_reals(clips, scores, key).items()
        }
        result[f"per_{key}"] = rows
        result[f"macro_auc_{key}"] = float(np.mean([row["auc"] for row in rows.values()]))
    return result


def write_predictions(path: Path, clips: list[Clip], scores: ClipScores, split: Split) -> None:
    """predictions.csv: one row per clip."""
    by_id = {clip.clip_id: clip for clip in clips}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        (
            "clip_id",
            "identity",
            "category",
            "method",
            "label",
            "logit",
            "prob",
            "video_prob",
            "audio_prob",
            "num_windows",
            "donor_disjoint",
        )
    )
    nothing = np.full(len(scores.logits), np.nan)
    video = nothing if scores.video_logits is None else expit(scores.video_logits)
    audio = nothing if scores.audio_logits is None else expit(scores.audio_logits)
    for row, clip_id in enumerate(scores.clip_ids):
        clip = by_id[clip_id]
        heads = ["" if np.isnan(value) else f"{value:.6f}" for value in (video[row], audio[row])]
        writer.writerow(
            (
                clip_id,
                clip.identity,
                clip.category,
                clip.method,
                int(scores.labels[row]),
                f"{scores.logits[row]:.6f}",
                f"{expit(scores.logits[row]):.6f}",
                *heads,
                scores.num_windows[row],
                int(clip_id in split.donor_disjoint),
            )
        )
    write_text(path, buffer.getvalue())


def main() -> int:
    evaluation = parse_args()
    test = evaluation.test
    output_dir = test.output_dir or test.checkpoint.parent
    device = resolve_device(test.device)
    precision = resolve_precision(test.precision, device)
    configure_logging()
    output_dir.mkdir(parents=True, exist_ok=True)  # before the work: it may not be allowed
    listing = DATASETS[test.dataset](test.data_root, evaluation.listing)
    split = choose_split(evaluation, listing.clips + listing.missing + listing.excluded)
    for line in summarize(listing, split.split_of):
        log.info(line)
    clips = listing.clips if test.split == "all" else split.select(listing.clips, test.split)
    batches = evaluation_loader(clips, evaluation.data, evaluation.workers)
    log.info(
        "%d clips, %d windows of %.1f s, device %s, precision %s",
        len(clips),
        len(batches.sampler),
        evaluation.data.window_s,
        device,
        precision,
    )
    with logging_redirect_tqdm():
        scores = evaluate(
            evaluation.model.to(device), batches, device, precision=precision, description=test.split
        )
    overall = detection_metrics(scores.labels, scores.logits, f"the {test.split} split of {test.dataset}")
    result: dict[str, Any] = {
        "dataset": test.dataset,
        "split": test.split,
        "overall": dataclasses.asdict(overall),
        **category_metrics(clips, scores),
    }
    disjoint = np.array([clip_id in split.donor_disjoint for clip_id in scores.clip_ids])
    subset = disjoint | (scores.labels == 0)
    if (scores.labels[subset] == 1).any() and test.split != "all":
        metrics = detection_metrics(scores.labels[subset], scores.logits[subset], "the donor-disjoint subset")
        result["donor_disjoint"] = dataclasses.asdict(metrics)
    result |= {
        "checkpoint": test.checkpoint.name,
        "split_checksum": split_checksum(split),
        "window_s": evaluation.data.window_s,
        "windows_per_clip": evaluation.data.windows_per_clip,
        "data": to_plain(evaluation.data),
        "command": shlex.join(sys.argv),
        "environment": describe_environment(device),
    }
    text = json.dumps(result, indent=1)
    write_text(output_dir / "test_metrics.json", text + "\n")
    write_predictions(output_dir / "predictions.csv", clips, scores, split)
    groups = {"all": (scores.labels, scores.logits)}
    for category, rows in against_the_reals(clips, scores, "category").items():
        groups[category] = (scores.labels[rows], scores.logits[rows])
    title = f"{test.dataset}, {test.split} split, {len(clips)} clips"
    plot_roc(output_dir / "roc.png", groups, title)
    plot_score_histogram(output_dir / "scores.png", scores.labels, expit(scores.logits), title)
    sys.stdout.write(text + "\n")
    log.info(
        "AUC %.4f, EER %.4f, balanced accuracy %.4f; written to %s",
        overall.auc,
        overall.eer,
        overall.balanced_accuracy,
        output_dir,
    )
    return 0


if __name__ == "__main__":
    run_command(main)
