"""Evaluate a checkpoint on a data set.

    python test.py --checkpoint saved_models/X/best.pt --dataset fakeavceleb --data_root PREPARED
    python test.py --checkpoint saved_models/X/best.pt --dataset dfdc kodf --data_root PREPARED_1 PREPARED_2
    python test.py --checkpoint saved_models/X/best.pt --data_root PREPARED --robustness --raw_root RAW
    python test.py --checkpoint saved_models/X/best.pt --data_root PREPARED --shortcuts
    python test.py --compare runA/predictions.csv runB/predictions.csv
    python test.py --matrix saved_models/A saved_models/B
    python test.py --video clip.mp4 --checkpoint saved_models/X/best.pt --output_dir verdicts

Writes test_metrics.json, predictions.csv, report.html and its plots as PNG to --output_dir (default: the
checkpoint's folder) and prints the metrics; with several data sets, into a folder for each, and a row for
each into test_metrics.json. One score per clip: the mean of the logits of its windows. A checkpoint of a
method's published code (*.pth, *.ckpt) needs --model and --preset released; its sizes are then flags, too.
--robustness perturbs the raw videos, prepares them anew and writes robustness.json, .csv and .png;
--shortcuts takes sound, picture or both away and writes shortcuts.csv.
--compare, --matrix and --video are modes of their own, with their own flags: see test.py --video --help.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from loaders import DATASETS
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.labels import clip_labels
from loaders.batches.shortcut_probes import probe_batches
from loaders.batches.windows import DataConfig
from loaders.listing import Listing, ListingConfig, summarize
from loaders.splits.drawing import SPLITS, Split, SplitConfig
from loaders.splits.files import make_split, split_checksum
from models import MODELS
from models.judging import command as judging
from models.method import check_config
from models.restore import (
    model_type_of,
    read_checkpoint,
    released_fields,
    restore_decision,
    restore_model,
)
from preprocess.perturb.kinds import DEEPER_FORENSICS, Perturbation, ladder
from preprocess.perturb.variants import RobustnessConfig, make_variants
from utils.config import first_look, opt, parse_sections, to_plain
from utils.errors import UsageError, run_command
from utils.evaluation.decision import Decision
from utils.evaluation.metrics import detection_metrics, require_both_classes
from utils.evaluation.results import against_the_reals, category_metrics, statistics_of, write_predictions
from utils.evaluation.scoring import ClipScores, evaluate
from utils.files import write_text
from utils.report import compare, matrix
from utils.report.page import Evaluated, write_report
from utils.report.robustness import robustness_row, shortcut_row, write_robustness, write_rows
from utils.run.device import PRECISIONS, resolve_device, resolve_precision
from utils.run.distributed import is_main, launched, process_group
from utils.run.log import configure_logging, describe_environment, logging_redirect_tqdm
from utils.types import Clip

log = logging.getLogger("test")
Score = Callable[..., ClipScores]  # (batches, description=...), with the evaluation's model and device
# flag of a mode that needs no data set -> (its flags, what it does)
MODES = {
    "compare": (compare.CompareConfig, compare.main),
    "matrix": (matrix.MatrixConfig, matrix.main),
    "video": (judging.VideoConfig, judging.main),
}


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """test.py: what is evaluated on what."""

    checkpoint: Path = opt(
        dataclasses.MISSING, "best.pt of a run, or a bare state_dict of the published code"
    )
    dataset: tuple[str, ...] = opt(
        ("fakeavceleb",), "data sets, each evaluated for itself", choices=sorted(DATASETS)
    )
    data_root: tuple[Path, ...] = opt(
        dataclasses.MISSING,
        "the prepared data sets (outputs of preprocess.prepare), in the order of --dataset",
    )
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
    shortcuts: bool = opt(False, "score the clips without sound, picture, ..., too; writes shortcuts.csv")
    report: bool = opt(True, "draw report.html and its plots, which take some seconds")
    no_thumbnails: bool = opt(False, "report.html shows no face: it is made without pictures of the clips")

    def __post_init__(self) -> None:
        if len(set(self.dataset)) != len(self.dataset):
            raise ValueError("dataset names a data set twice")
        if len(self.data_root) != len(self.dataset):
            raise ValueError(f"{len(self.data_root)} data_root for {len(self.dataset)} dataset")


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation needs, from flags and checkpoint."""

    test: TestConfig
    workers: WorkerConfig
    data: DataConfig
    listing: ListingConfig
    split: SplitConfig
    robustness: RobustnessConfig
    model: nn.Module
    decision: Decision | None  # how the checkpoint's scores become verdicts; None: it does not say
    trained_checksums: dict[str, str]  # of the split files that the model was trained with
    run: dict[str, Any]  # which run the checkpoint is of (see utils/report/matrix.py)

    @property
    def needs(self) -> dict[str, Any]:
        """What the method asks of a loader."""
        return {"inputs": self.model.inputs, "min_window_s": self.model.min_window_s}


def parse_args(argv: list[str] | None = None) -> Evaluation:
    """Flags and checkpoint -> Evaluation. The clip pipeline is the checkpoint's unless a flag differs."""
    chosen = first_look(argv, "checkpoint", "model", "preset")
    path = Path(chosen["checkpoint"] or "")
    content = read_checkpoint(path) if chosen["checkpoint"] else {}  # without one, --help is wanted
    saved: dict[str, dict[str, Any]] = content.get("config", {})
    run = matrix.describe_run(path, saved) if chosen["checkpoint"] else {}
    saved.pop("split", None)  # a run's split files lie next to its checkpoint
    for name in ("model", "preset"):
        if saved and chosen[name]:
            raise UsageError(f"--{name} is for bare state_dicts: {path} holds its own configuration")
    model_type = model_type_of(saved.get("train", {}).get("model", chosen["model"] or TestConfig.model))
    preset_name = chosen["preset"] or TestConfig.preset
    if preset_name not in model_type.presets:
        raise UsageError(f"unknown --preset {preset_name}; there are {', '.join(model_type.presets)}")
    groups: dict[str, type[Any]] = {
        "test": TestConfig,
        "workers": WorkerConfig,
        "data": DataConfig,
        "listing": ListingConfig,
        "split": SplitConfig,
        "robustness": RobustnessConfig,
    }
    preset: dict[str, dict[str, Any]] = {}
    if not saved:
        groups["model"] = model_type.config_type
        preset = dict(model_type.presets[preset_name])
        preset["model"] = preset.get("model", {}) | released_fields(model_type, content, path)
    configs = parse_sections(
        __doc__, groups, ("the checkpoint", saved), (f"preset {preset_name}", preset), argv=argv
    )
    test = configs["test"]
    bare = None if saved else model_type(configs.pop("model"))
    model = restore_model(content, test.checkpoint, bare)
    assert isinstance(model, nn.Module)  # every method is one
    check_config(model_type, {"data": to_plain(configs["data"]), "model": to_plain(model.config)})
    if configs["robustness"].raw_root and len(configs["robustness"].raw_root) != len(test.dataset):
        raise UsageError(f"{len(configs['robustness'].raw_root)} raw_root for {len(test.dataset)} dataset")
    return Evaluation(
        model=model,
        decision=restore_decision(content, test.checkpoint),
        trained_checksums=content.get("split_checksums", {}),
        run=run,
        **configs,
    )


def choose_mode(argv: list[str]) -> Callable[[], int]:
    """What the flags ask for. Raises UsageError where they belong to different modes."""
    given = list(dict.fromkeys(word.split("=")[0][2:] for word in argv if word.startswith("--")))
    modes = [name for name in given if name in MODES]
    if not modes:
        return run_evaluation
    config_type, mode = MODES[modes[0]]
    if not {"-h", "--help"}.isdisjoint(argv):
        sys.argv[1:] = ["--help"]  # "--video --help" names no video
    known = {"help", "debug", *(field.name for field in dataclasses.fields(config_type))}
    if foreign := [f"--{name}" for name in given if name not in known]:
        raise UsageError(f"--{modes[0]} does not go with {', '.join(foreign)}; see --{modes[0]} --help")
    return mode


def choose_split(evaluation: Evaluation, listing: Listing) -> Split:
    """The split that the model was trained with where there is one, else the one that the flags ask for.

    A checkpoint's own split files lie beside it in `splits/`. Raises UsageError rather than draw another
    split of a data set that the model was trained on: test clips could then be training clips.
    """
    test, config, name = evaluation.test, evaluation.split, listing.dataset
    trained = evaluation.trained_checksums.get(name)
    if trained and not config.split_file:
        own_file = test.checkpoint.parent / "splits" / f"{name}.csv"
        if not own_file.is_file():
            raise UsageError(
                f"{own_file} is missing: say --split_file, the split that {test.checkpoint} was trained with"
            )
        if config != SplitConfig() and set(test.dataset) <= evaluation.trained_checksums.keys():
            raise UsageError(f"{test.checkpoint} was trained on {name}, and is tested on that run's split")
        config = SplitConfig(split_file=(own_file,))
    split = make_split(listing, config)
    if trained and test.split != "all" and split_checksum(split) != trained:
        raise UsageError(
            f"{' '.join(map(str, config.split_file))}: is not the split that {test.checkpoint} was "
            "trained with"
        )
    return split


def measure_shortcuts(
    evaluation: Evaluation, clips: list[Clip], plain: ClipScores, score: Score, output_dir: Path
) -> list[dict[str, Any]]:
    """Score the same clips with something taken away from them; write shortcuts.csv."""
    rows = [shortcut_row(plain, plain, "untouched")]
    for change, batches in probe_batches(clips, evaluation.data, evaluation.workers, **evaluation.needs):
        rows.append(shortcut_row(score(batches, description=change), plain, change))
        log.info("%s: AUC %.4f (%+.4f)", change, rows[-1].auc, rows[-1].auc_difference)
    if is_main():
        write_rows(output_dir / "shortcuts.csv", rows)
    return [dataclasses.asdict(row) for row in rows]


def measure_robustness(
    evaluation: Evaluation,
    clips: list[Clip],
    plain: ClipScores,
    score: Score,
    roots: tuple[Path, Path, Path],
    title: str,
) -> dict[str, Any]:
    """Score the clips under each perturbation; write robustness.json, .csv and .png.

    `roots`: the prepared set, the raw set, and where results go.
    """
    data_root, raw_root, output_dir = roots
    config, name = evaluation.robustness, clips[0].dataset
    perturbations = [p for kind in config.robustness_kinds for p in (Perturbation(kind, 0), *ladder(kind))]
    cache_dir = config.cache_dir or output_dir / "variants"
    all_variants = make_variants(
        clips, perturbations, dataset=name, data_root=data_root, raw_root=raw_root,
        cache_dir=cache_dir / name if len(evaluation.test.dataset) > 1 else cache_dir,
        num_workers=max(1, evaluation.workers.resolved_workers),
    )  # fmt: skip
    rows = []
    for variants in all_variants:
        kind, level, scores = variants.perturbation.kind, variants.perturbation.level, plain
        if level:
            batches = evaluation_loader(
                variants.clips, evaluation.data, evaluation.workers, **evaluation.needs
            )
            scores = score(batches, description=variants.perturbation.name)
        row = robustness_row(
            scores, kind=kind, level=level, value=variants.perturbation.value,
            num_lost=len(variants.lost), face_share=variants.face_share,
        )  # fmt: skip
        rows.append(row)
        log.info("%s %d (%s): AUC %.4f, %d lost", kind, level, row.value, row.auc, row.num_lost)
    about = {
        "dataset": name,
        "split": evaluation.test.split,
        "lost": {v.perturbation.name: v.lost for v in all_variants if v.lost},
    }
    families = {"deeper_forensics": DEEPER_FORENSICS}
    return write_robustness(output_dir, rows, families=families, title=title, about=about)


def write_results(output_dir: Path, evaluated: Evaluated, *, report: bool) -> None:
    """test_metrics.json, and the page that shows it if it is wanted."""
    write_text(output_dir / "test_metrics.json", json.dumps(evaluated.result, indent=1) + "\n")
    if report:
        write_report(output_dir, evaluated)


def evaluate_dataset(
    evaluation: Evaluation, name: str, data_root: Path, output_dir: Path, device: torch.device, precision: str
) -> dict[str, Any]:
    """Score one data set, write its files to `output_dir`, and return what test_metrics.json says. Of several
    processes, which share the clips, only the main one writes; the others return nothing.
    """
    test = evaluation.test
    if is_main():
        output_dir.mkdir(parents=True, exist_ok=True)  # before the work: it may not be allowed
    listing = DATASETS[name](data_root, evaluation.listing)
    split = choose_split(evaluation, listing)
    for line in summarize(listing, split.split_of) + split.describe_dropped():
        log.info(line)
    clips = listing.clips if test.split == "all" else split.select(listing.clips, test.split)
    part = f"the {test.split} split of {name}"
    require_both_classes(np.array([clip_labels(clip, evaluation.data.label_rule)[0] for clip in clips]), part)
    batches = evaluation_loader(clips, evaluation.data, evaluation.workers, **evaluation.needs)
    log.info(
        "%d clips, %d windows of %.1f s, device %s, precision %s",
        len(clips),
        len(batches.dataset.evaluation_keys()),
        evaluation.data.window_s,
        device,
        precision,
    )
    score = functools.partial(
        evaluate, evaluation.model, device=device, precision=precision, pooling=evaluation.data.pooling
    )
    with logging_redirect_tqdm():
        scores = score(batches, description=f"{name} {test.split}")
    if not is_main():
        if test.shortcuts:  # its scores are shared work, too
            measure_shortcuts(evaluation, clips, scores, score, output_dir)
        return {}
    overall = detection_metrics(scores.labels, scores.logits, part)
    result: dict[str, Any] = {
        "dataset": name,
        "split": test.split,
        "overall": dataclasses.asdict(overall),
        **category_metrics(clips, scores),
        **statistics_of(evaluation.decision, clips, scores, part),
    }
    disjoint = np.array([clip_id in split.donor_disjoint for clip_id in scores.clip_ids])
    subset = disjoint | (scores.labels == 0)
    if (scores.labels[subset] == 1).any() and test.split != "all":
        metrics = detection_metrics(scores.labels[subset], scores.logits[subset], "the donor-disjoint subset")
        result["donor_disjoint"] = dataclasses.asdict(metrics)
    result |= {
        "checkpoint": test.checkpoint.name,
        "run": evaluation.run,
        "split_checksum": split_checksum(split),
        "window_s": evaluation.data.window_s,
        "windows_per_clip": evaluation.data.windows_per_clip,
        "data": to_plain(evaluation.data),
        "command": shlex.join(sys.argv),
        "environment": describe_environment(device),
    }
    write_predictions(output_dir / "predictions.csv", clips, scores, split.donor_disjoint)
    row_of = {clip.clip_id: index for index, clip in enumerate(clips)}
    evaluated = Evaluated(
        result=result,
        clips=clips,
        scores=scores,
        groups={key: against_the_reals(clips, scores, key) for key in ("category", "method")},
        spans_of=lambda clip: batches.dataset.window_spans_s(row_of[clip.clip_id]),
        run_dir=test.checkpoint.parent,
        data_root=data_root,
        no_thumbnails=test.no_thumbnails,
    )
    write_results(output_dir, evaluated, report=test.report)
    if test.shortcuts:
        result["shortcuts"] = measure_shortcuts(evaluation, clips, scores, score, output_dir)
    if evaluation.robustness.robustness:
        roots = (data_root, evaluation.robustness.raw_root[test.dataset.index(name)], output_dir)
        title = f"{name}, {test.split} split, {len(clips)} clips"
        result["robustness"] = measure_robustness(evaluation, clips, scores, score, roots, title)
    if "shortcuts" in result or "robustness" in result:  # they may take hours: the rest is there before
        write_results(output_dir, evaluated, report=test.report)
    log.info(
        "%s: AUC %.4f, EER %.4f, balanced accuracy %.4f; written to %s",
        name,
        overall.auc,
        overall.eer,
        overall.balanced_accuracy,
        output_dir,
    )
    return result


def main() -> int:
    return choose_mode(sys.argv[1:])()


def run_evaluation() -> int:
    """Evaluate a checkpoint on the data sets that the flags name."""
    evaluation = parse_args()
    test = evaluation.test
    output_dir = test.output_dir or test.checkpoint.parent
    device = resolve_device(test.device)
    precision = resolve_precision(test.precision, device)
    if launched() and evaluation.robustness.robustness:
        raise UsageError("--robustness prepares videos anew, in one process: start it without torchrun")
    with process_group(device):
        configure_logging()
        evaluation.model.to(device)
        result = evaluate_all(evaluation, output_dir, device, precision)
        if is_main():
            sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def evaluate_all(
    evaluation: Evaluation, output_dir: Path, device: torch.device, precision: str
) -> dict[str, Any]:
    """Evaluate each data set for itself; the result of the only one, or of all of them with their mean."""
    test = evaluation.test
    several = len(test.dataset) > 1
    results = {
        name: evaluate_dataset(
            evaluation, name, root, output_dir / name if several else output_dir, device, precision
        )
        for name, root in zip(test.dataset, test.data_root, strict=True)
    }
    if not several or not is_main():
        return results[test.dataset[0]]
    result = {"datasets": results}
    result["macro_auc_dataset"] = float(np.mean([row["overall"]["auc"] for row in results.values()]))
    write_text(output_dir / "test_metrics.json", json.dumps(result, indent=1) + "\n")
    log.info(f"{'data set':<18}{'real':>7}{'fake':>7}{'AUC':>8}{'AP':>8}{'EER':>8}")
    for name, row in results.items():
        row = row["overall"]
        log.info(
            f"{name:<18}{row['num_real']:>7}{row['num_fake']:>7}"
            f"{row['auc']:>8.4f}{row['ap']:>8.4f}{row['eer']:>8.4f}"
        )
    return result


if __name__ == "__main__":
    run_command(main)
