"""The files of an evaluation of test.py, and what --trimmed both, --shortcuts and --robustness add."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.labels import clip_labels
from loaders.listing import Listing, summarize
from loaders.parts import count_backends
from loaders.splits.drawing import Split
from loaders.splits.files import split_checksum
from loaders.splits.published import protocol_results
from models.judging.sensitivity import Scored, measure_robustness, measure_shortcuts
from preprocess.perturb.variants import RobustnessConfig
from utils.clip.backends import describe_change, describe_mixture
from utils.clip_type import Clip
from utils.errors import UsageError
from utils.evaluation.metrics import lacks_a_class, require_both_classes
from utils.evaluation.results import headline
from utils.evaluation.scoring import ClipScores
from utils.files import names_sha256, write_text
from utils.report.card import write_cards
from utils.report.compare import NAME as PREDICTIONS
from utils.report.compare import paired_difference
from utils.report.page import Evaluated, write_report
from utils.run.config_file import describe_environment

log = logging.getLogger("test")
TRIMMED = "trimmed"  # folder of the second row of --trimmed both


def tell_backends(clips: Sequence[Clip], name: str, trained: Mapping[str, int]) -> dict[str, Any]:
    """What test_metrics.json says of landmark backends: number of clips by each, and warnings, also logged.

    Warnings name several of them, and others than in training.
    """
    counts = count_backends(clips)
    warnings = list(filter(None, (describe_mixture(counts), describe_change(trained, counts))))
    for warning in warnings:
        log.warning("%s: %s", name, warning)
    return {"landmark_backends": counts, "landmark_warnings": warnings}


def check_clips(clips: Sequence[Clip], label_rule: str, part: str, *told: str, needs_both: bool) -> None:
    """Warn of what is `told`, and of clips of one class. Raises DatasetError if both classes are needed."""
    for text in filter(None, told):
        log.warning("%s", text)
    labels = np.array([clip_labels(clip, label_rule)[0] for clip in clips])
    if not clips or needs_both:
        require_both_classes(labels, part)
    elif reason := lacks_a_class(labels, part):
        log.warning("%s; without: predictions.csv, accuracy, rates at the stored thresholds", reason)


def log_split(listing: Listing, split: Split, *, tells_overlaps: bool) -> dict[str, Any]:
    """Log what is listed, and what its parts are and share; returns the "protocol" of test_metrics.json.

    tells_overlaps: whether the detector was trained with this split.
    """
    protocol = protocol_results(listing, split.split_of, split.published, tells_overlaps=tells_overlaps)
    shared = [f"{listing.dataset}: {line}" for line in protocol["said"]]
    for line in summarize(listing, split.split_of) + split.describe_dropped() + shared:
        log.info(line)
    return protocol


def provenance(
    split: Split, protocol: Mapping[str, Any], scores: ClipScores, device: torch.device
) -> dict[str, Any]:
    """What test_metrics.json says of the clips that were scored, and of how."""
    return {
        "split_checksum": split_checksum(split),
        "ids_sha256": names_sha256(scores.clip_ids),
        "protocol": protocol,
        "command": shlex.join(sys.argv),
        "environment": describe_environment(device),
    }


def write_metrics(folder: Path, result: Mapping[str, Any], *others: Mapping[str, Any]) -> None:
    """Write test_metrics.json of one data set or of several, and its card with those of `others`."""
    write_text(folder / "test_metrics.json", json.dumps(result, indent=1) + "\n")
    write_cards(folder, [*result.get("datasets", {"": result}).values(), *others])


def both_rows(data: DataConfig) -> tuple[DataConfig, DataConfig]:
    """`data` for the rows of --trimmed both: with the leading silence, and without it as in papers.

    Raises UsageError if windows cannot be trimmed.
    """
    if data.frames_per_clip:
        raise UsageError("--trimmed both needs windows, not --frames_per_clip")
    try:
        return (
            dataclasses.replace(data, trim_silence=False, trim_rule="level"),
            dataclasses.replace(data, trim_silence=True, trim_rule="amplitude"),
        )
    except ValueError as error:
        raise UsageError(f"--trimmed both: {error}") from error


def add_trimmed(folder: Path, result: dict[str, Any], trimmed: dict[str, Any]) -> None:
    """Write both rows of --trimmed both to `folder`, whose folder TRIMMED has the second one, and log them.

    Adds to `result` {"also_trimmed": the main numbers, and their paired "difference", trimmed minus not}.
    """
    rows: list[tuple[str, Mapping[str, Any]]] = [("with leading silence", result), ("trimmed", trimmed)]
    kept = ("overall", "intervals", "per_category", "per_method", "reason", "ids_sha256", "trimmed")
    also = {name: trimmed[name] for name in kept if name in trimmed}
    result["also_trimmed"] = also
    if result["overall"].get("auc") is not None:
        also["difference"] = paired_difference([(folder / PREDICTIONS, folder / TRIMMED / PREDICTIONS)])
    for what, row in rows:
        log.info("%s, %s: %s", result["dataset"], what, headline(row))
    if found := also.get("difference"):
        low_high = "({:+.4f} to {:+.4f})".format(*found["interval"]) if "interval" in found else ""
        log.info("%s: AUC without leading silence %+.4f %s", result["dataset"], found["difference"], low_high)
    write_metrics(folder, result, trimmed)


def write_results(scored: Scored, evaluated: Evaluated, test: Any, config: RobustnessConfig) -> None:
    """Write the files of one data set, before and after --shortcuts and --robustness, which take hours.

    test: the TestConfig of test.py.
    """
    result = evaluated.result

    def write() -> None:
        write_metrics(scored.output_dir, result)
        if test.report and "reason" not in result:
            write_report(scored.output_dir, evaluated)

    write()
    if test.shortcuts:
        result["shortcuts"] = measure_shortcuts(scored)
    if config.robustness:
        roots = dict(zip(test.dataset, config.raw_root, strict=True))
        result["robustness"] = measure_robustness(scored, config, evaluated.data_root, roots, test.split)
    if test.shortcuts or config.robustness:
        write()
    log.info("%s: %s; written to %s", result["dataset"], headline(result), scored.output_dir)
