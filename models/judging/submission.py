"""test.py --submission: the files of a challenge, for clips whose labels are hidden.

    python -m preprocess.prepare --input RAW/testA --output PREPARED/testA --allow_silent
    python test.py --submission codabench --checkpoint saved_models/X/best.pt --file_list RAW/testA_files.txt
        --data_root PREPARED/testA --output_dir submissions/testA

For AV-Deepfake1M (test_files.txt) and AV-Deepfake1M++ (testA_files.txt, testB_files.txt): writes
prediction.txt and detection.zip, P(fake) of each file as `test.py` scores it, and, if the checkpoint holds
rules for segments, prediction.json and localisation.zip. Names and order are the list's.

Clips are scored --part_clips at a time, and nothing else is kept in memory but the names. After an
interruption, give the same command again: parts that are there are not scored again, and the bytes are the
same. A file that is not prepared or cannot be read gets 0.5 and no segment: without_score.txt names them;
more than 2 % of them need --allow_missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy.special import expit
from torch import nn

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.sliding import score_timelines
from loaders.datasets.metadata import parts_inside, require_folder, without_suffix
from loaders.listing import MAX_MISSING_SHARE, ClipFolders
from models.judging.batches import unlabelled_clip
from models.method import check_config, needs_of
from models.restore import Judgement, restore_judgement, restore_model
from utils.checkpoint.files import load_checkpoint
from utils.clip_type import Clip
from utils.config import from_args, opt, parse_groups, require_at_least, to_plain
from utils.errors import CheckpointError, DatasetError, UsageError
from utils.evaluation.scoring import evaluate
from utils.evaluation.submission import Prediction, finish, part_path, read_parts, write_part
from utils.files import file_sha256, locked_folder, read_lines, read_text, write_text
from utils.names import parse_json
from utils.run.bad_clips import BadClips
from utils.run.device import device_flag, precision_flag, resolve_device, resolve_precision
from utils.run.distributed import is_main, process_group
from utils.run.progress import configure_logging, logging_redirect_tqdm, map_files, progress

log = logging.getLogger("test")
SETTINGS, WITHOUT_SCORE = "settings.json", "without_score.txt"
STREAM = "clip"  # forged in picture or sound: the challenge's fake_segments


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """test.py --submission: predictions for clips without labels."""

    submission: str = opt("codabench", "whose files are written", choices=("codabench",))
    checkpoint: Path = opt(MISSING, "best.pt of a run")
    file_list: Path = opt(MISSING, "the challenge's list: the name of a file on each line")
    data_root: Path = opt(MISSING, "prepared clips; the names of the list are paths below it")
    output_dir: Path = opt(MISSING, "folder of the submission, for nothing else")
    localise: bool = opt(True, "also look for forged segments, if the checkpoint holds rules for them")
    part_clips: int = opt(500, "clips that are scored, and then kept, together")
    allow_missing: bool = opt(False, "go on even if more than 2 % of the files cannot be scored")
    allow_links: bool = opt(False, "follow links that lead out of --data_root")
    precision: str = precision_flag()
    device: str = device_flag()

    def __post_init__(self) -> None:
        require_at_least(self, 1, "part_clips")


@dataclass(frozen=True)
class Scorer:
    """A restored checkpoint, and how it scores clips."""

    model: nn.Module
    judgement: Judgement
    data: DataConfig
    workers: WorkerConfig
    where: tuple[Any, str]  # device, precision
    localise: bool
    bad_clips: BadClips
    needs: dict[str, Any]  # of the loader, for the method

    def predict(self, names: Sequence[str], clips: Sequence[Clip]) -> list[Prediction]:
        """Predictions for `names`, whose prepared `clips` have these names. All processes call this."""
        device, precision = self.where
        probs: dict[str, float] = {}
        segments: dict[str, list[list[float]]] = {}
        options = {"bad_clips": self.bad_clips, **self.needs}
        if clips:
            batches = evaluation_loader(clips, self.data, self.workers, **options)
            pooling: dict[str, Any] = {"pooling": self.data.pooling, "bad_clips": self.bad_clips}
            scores = evaluate(self.model, batches, device, precision=precision, **pooling)
            decision = self.judgement.decision
            found = decision.clip.prob(scores.logits) if decision else np.asarray(expit(scores.logits))
            probs = dict(zip(scores.clip_ids, found.tolist(), strict=True))
        localiser = self.judgement.localiser
        if probs and self.localise and localiser is not None:
            options["bad_clips"] = BadClips(len(clips))  # said above of those that cannot be read
            clips = [clip for clip in clips if clip.clip_id in probs]
            how = self.data, self.workers, localiser.stride_s, device, precision
            for name, timeline in score_timelines(self.model, clips, *how, **options).items():
                segments[name] = localiser.propose(timeline)[STREAM].tolist()
        return [Prediction(name, probs.get(name), segments.get(name, [])) for name in names]


def restore_scorer(config: SubmissionConfig, workers: WorkerConfig, num_bad: int) -> Scorer:
    """The scorer of a run's checkpoint. Raises CheckpointError or UsageError if it cannot score clips."""
    path = config.checkpoint
    content = load_checkpoint(path)
    if "released" in content:
        raise CheckpointError(f"{path}: a bare state_dict does not say how to cut clips; use a run's best.pt")
    model = restore_model(content, path)
    assert isinstance(model, nn.Module)  # every method is one
    data: DataConfig = from_args(
        DataConfig, argparse.Namespace(), ("the checkpoint", content["config"]["data"])
    )
    if data.label_rule == "emotion":
        raise UsageError(f"{path}: tells emotions apart, not forgeries")
    check_config(type(model), {"data": to_plain(data), "model": to_plain(model.config)})
    device = resolve_device(config.device)
    judgement = restore_judgement(content, path)
    return Scorer(
        model=model.to(device),
        judgement=judgement,
        data=replace(data, label_rule="any"),  # there are no labels
        workers=workers,
        where=(device, resolve_precision(config.precision, device)),
        localise=config.localise and judgement.localiser is not None and STREAM in judgement.localiser.rules,
        bad_clips=BadClips(num_bad),
        needs=dict(needs_of(model, model.config)),
    )


def read_names(path: Path) -> list[str]:
    """The names in a challenge's list. Raises DatasetError if one cannot be a file's, or is there twice."""
    names: dict[str, None] = {}
    for where, line in read_lines(path):
        parts_inside(line, where)
        if ";" in line:
            raise DatasetError(f"{where}: {line!r} has a semicolon, which ends a name in prediction.txt")
        if line in names:
            raise DatasetError(f"{where}: {line} is listed twice")
        names[line] = None
    if not names:
        raise DatasetError(f"{path}: lists no file")
    return list(names)


class PreparedClips:
    """The clip folders of listed files."""

    def __init__(self, config: SubmissionConfig) -> None:
        self.root = require_folder(config.data_root)
        self.folders = ClipFolders(config.data_root, allow_links=config.allow_links)

    def of(self, names: Sequence[str]) -> list[Clip]:
        """The clips of those files that are prepared, in their order."""
        clips = [unlabelled_clip(name, self.root / without_suffix(PurePosixPath(name))) for name in names]
        is_there = map_files(self.folders.is_there, clips, "prepared clips")
        return [clip for clip, there in zip(clips, is_there, strict=True) if there]


def require_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Note what decides the predictions. Raises UsageError if parts in the folder were made otherwise."""
    path = folder / SETTINGS
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1) + "\n")
        return
    try:
        found = parse_json(read_text(path))
    except ValueError as error:
        raise DatasetError(f"{path}: is not JSON ({error})") from error
    if changed := [name for name in settings if found.get(name) != settings[name]]:
        raise UsageError(
            f"{folder} holds parts of a submission with another {', '.join(changed)}: choose another "
            "--output_dir, or remove it"
        )


def limit_of_missing(config: SubmissionConfig, names: Sequence[str], clips: PreparedClips) -> int:
    """How many of the prepared clips may turn out to be unreadable.

    Raises DatasetError if too few are prepared.
    """
    size, num_there, example = config.part_clips, 0, ""
    for start in progress(range(0, len(names), size), "prepared clips", "part"):
        there = {clip.clip_id for clip in clips.of(names[start : start + size])}
        num_there += len(there)
        example = example or next((name for name in names[start : start + size] if name not in there), "")
    num_missing = len(names) - num_there
    allowed = len(names) if config.allow_missing else int(MAX_MISSING_SHARE * len(names))
    said = f"{num_missing:,} of {len(names):,} listed files are not prepared below {config.data_root}"
    if num_missing > allowed or not num_there:
        remedy = ", or give --allow_missing to go on without" if num_there else ""
        raise DatasetError(f"{said}, e.g. {example}; run preprocess.prepare{remedy}")
    if num_missing:
        log.warning("%s, e.g. %s", said, example)
    return allowed - num_missing


def run(config: SubmissionConfig, workers: WorkerConfig) -> None:
    """Score what is not scored yet, and write the files of the submission."""
    names, folder = read_names(config.file_list), config.output_dir
    clips = PreparedClips(config)
    scorer = restore_scorer(config, workers, limit_of_missing(config, names, clips))
    size, (device, precision) = config.part_clips, scorer.where
    settings = {
        "checkpoint": file_sha256(config.checkpoint),
        "file_list": file_sha256(config.file_list),
        "localise": scorer.localise,
        "part_clips": size,
        "batch_size": workers.batch_size,  # numbers differ in their last digits
        "device": device.type,
        "precision": precision,
    }
    if config.localise and not scorer.localise:
        log.warning("the checkpoint holds no rules for segments: no prediction.json is written")
    num_parts = -(-len(names) // size)
    with process_group(device), contextlib.ExitStack() as stack:
        if is_main():
            stack.enter_context(locked_folder(folder, flag="--output_dir"))
            require_settings(folder, settings)
        stack.enter_context(logging_redirect_tqdm())
        waiting = [number for number in range(num_parts) if not part_path(folder, number).exists()]
        log.info("%s files, %s of %s parts are to be scored", len(names), len(waiting), num_parts)
        for number in progress(waiting, "submission", "part"):
            own = names[number * size : (number + 1) * size]
            predictions = scorer.predict(own, clips.of(own))
            if is_main():
                write_part(part_path(folder, number), predictions)
        if not is_main():
            return
        without = [row.name for row in read_parts(folder, num_parts) if row.prob is None]
        write_text(folder / WITHOUT_SCORE, "".join(f"{name}\n" for name in without))
        made = finish(folder, num_parts, with_segments=scorer.localise)
        log.info(
            "%s files, %s without a score; written to %s", len(names), len(without), " ".join(map(str, made))
        )


def main(argv: Sequence[str] | None = None) -> int:
    """`test.py --submission`."""
    config, workers = parse_groups(__doc__, SubmissionConfig, WorkerConfig, argv=argv)
    configure_logging()
    run(config, workers)
    return 0
