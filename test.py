"""Evaluate a checkpoint on a data set.

    python test.py --checkpoint saved_models/X/best.pt --dataset fakeavceleb --data_root PREPARED
    python test.py --checkpoint saved_models/X/best.pt --dataset dfdc kodf --data_root PREPARED_1 PREPARED_2
    python test.py --checkpoint saved_models/X/best.pt --data_root PREPARED --robustness --raw_root RAW
    python test.py --checkpoint saved_models/X/best.pt --data_root PREPARED --shortcuts --trimmed both
    python test.py --scores scores.csv --higher_means fake --data_root PREPARED
    python test.py --submission codabench --checkpoint X/best.pt --file_list LIST --data_root TESTA
    python test.py --compare runA/predictions.csv runB/predictions.csv
    python test.py --matrix saved_models/A saved_models/B
    python test.py --video clip.mp4 --checkpoint saved_models/X/best.pt --output_dir verdicts
    python test.py --serve --checkpoint saved_models/X/best.pt

Prints the metrics and writes test_metrics.json, result_card.json, predictions.csv, report.html and its plots
to --output_dir (default: the folder of the checkpoint); several data sets get a folder each. The score of a
clip is the mean of the logits of its windows. A checkpoint of a method's published code (*.pth, *.ckpt) needs
--model and --preset released; its sizes are then flags as well.
--robustness perturbs the raw videos, prepares them again and writes robustness.json, .csv and .png;
--shortcuts removes sound, picture or both and writes shortcuts.csv;
--trimmed both adds a row of the clips without their leading silence.
--scores, --submission, --compare, --matrix, --video, --serve have flags of their own: test.py --video --help.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loaders import DATASETS
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig
from loaders.batches.domain import evaluation_batches, score_and_describe
from loaders.batches.sliding import localise
from loaders.listing import ListingConfig
from loaders.splits.drawing import SPLITS, SplitConfig
from loaders.splits.files import seen_by_run, split_checksum, split_of_run
from models import MODELS, restore
from models.judging import outputs
from models.judging.modes import choose_mode
from models.judging.sensitivity import Scored, measure_shortcuts
from models.method import LoaderNeeds, check_config, needs_of
from preprocess.perturb.variants import RobustnessConfig
from utils.clip.generated import caveat_of
from utils.config import Sections, first_look, opt, parse_sections, to_plain
from utils.errors import UsageError, run_command
from utils.evaluation.results import all_metrics, over_data_sets, write_predictions
from utils.evaluation.scoring import evaluate
from utils.evaluation.seen import sentence_of_seen
from utils.files import require_writable
from utils.report import matrix
from utils.report.page import Evaluated
from utils.run.device import device_flag, precision_flag, resolve_device, resolve_precision
from utils.run.distributed import is_main, launched, process_group
from utils.run.progress import configure_logging, logging_redirect_tqdm

log = logging.getLogger("test")


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """test.py: what is evaluated on what."""

    checkpoint: Path = opt(dataclasses.MISSING, "best.pt of a run, or a bare state_dict (published weights)")
    dataset: tuple[str, ...] = opt(
        ("fakeavceleb",), "data sets, each evaluated on its own", choices=sorted(DATASETS)
    )
    data_root: tuple[Path, ...] = opt(
        dataclasses.MISSING, "prepared data sets (outputs of preprocess.prepare), in the order of --dataset"
    )
    split: str = opt("test", "which clips: a split, or all", choices=(*SPLITS, "all"))
    output_dir: Path | None = opt(None, "where results are written; default: next to the checkpoint")
    model: str = opt(
        "beyond_masking", "method of a bare state_dict; a run's checkpoint names it", choices=sorted(MODELS)
    )
    preset: str = opt("released", "preset of a bare state_dict; the checkpoint of a run holds all values")
    precision: str = precision_flag()
    device: str = device_flag()
    trimmed: str = opt(
        "auto",
        "auto = leading silence is trimmed if --trim_silence says so; both = a row with it and a row without "
        "it by --trim_rule amplitude, and their paired difference",
        choices=("auto", "both"),
    )
    localise: bool = opt(
        True, "look for forged segments if data set and checkpoint have some: many more windows (0.2 s apart)"
    )
    shortcuts: bool = opt(False, "also score the clips without sound, picture, ...; writes shortcuts.csv")
    report: bool = opt(True, "write report.html and its plots, which takes a few seconds")
    no_thumbnails: bool = opt(False, "report.html without pictures of the clips, so that it shows no face")

    def __post_init__(self) -> None:
        if len(set(self.dataset)) != len(self.dataset):
            raise ValueError("dataset names a data set twice")
        if len(self.data_root) != len(self.dataset):
            raise ValueError(f"{len(self.data_root)} data_root for {len(self.dataset)} dataset")


@dataclass(frozen=True)
class FlagGroups:
    """All flag groups of an evaluation, in the order of --help."""

    test: TestConfig
    workers: WorkerConfig
    data: DataConfig
    listing: ListingConfig
    split: SplitConfig
    robustness: RobustnessConfig


@dataclass(frozen=True)
class Evaluation(FlagGroups):
    """What an evaluation needs, from flags and checkpoint."""

    model: nn.Module
    needs: LoaderNeeds
    device: torch.device
    precision: str
    judgement: restore.Judgement
    trained_checksums: dict[str, str]  # of the split files used in training
    trained_backends: dict[str, int]  # landmark backend -> number of clips of the run; {} if it is not known
    run: dict[str, Any]  # the run of the checkpoint (see utils/report/matrix.py)
    trimmed_data: DataConfig | None  # of the second row of --trimmed both


def parse_args(argv: list[str] | None = None) -> Evaluation:
    """Flags and checkpoint -> Evaluation. The clip pipeline is the checkpoint's unless a flag differs."""
    chosen = first_look(argv, "checkpoint", "model", "preset")
    path = Path(chosen["checkpoint"] or "")
    content = restore.read_checkpoint(path) if chosen["checkpoint"] else {}  # without one, --help is wanted
    saved: dict[str, dict[str, Any]] = content.get("config", {})
    run = matrix.describe_run(path, content) if chosen["checkpoint"] else {}
    saved.pop("split", None)  # a run's split files lie next to its checkpoint
    for name in ("model", "preset"):
        if saved and chosen[name]:
            raise UsageError(f"--{name} is for bare state_dicts: {path} holds its own configuration")
    method = saved.get("train", {}).get("model", chosen["model"] or TestConfig.model)
    model_type = restore.model_type_of(method)
    content = restore.unwrap(model_type, content)
    groups = typing.get_type_hints(FlagGroups)
    layers: list[tuple[str, Sections]] = [("the checkpoint", saved)]
    if not saved:
        groups["model"] = model_type.config_type
        origin, preset = restore.preset_layer(model_type, chosen["preset"] or TestConfig.preset)
        told = restore.released_fields(model_type, content, path)
        layers.append((origin, {**preset, "model": {**preset.get("model", {}), **told}}))
    configs = parse_sections(__doc__, groups, *layers, argv=argv)
    test = configs["test"]
    bare = None if saved else model_type(configs.pop("model"))
    model = restore.restore_model(content, test.checkpoint, bare)
    assert isinstance(model, nn.Module)  # every method is one
    trimmed_data = None
    if test.trimmed == "both":
        configs["data"], trimmed_data = outputs.both_rows(configs["data"])
    for data in filter(None, (configs["data"], trimmed_data)):
        check_config(model_type, {"data": to_plain(data), "model": to_plain(model.config)})
    if configs["robustness"].raw_root and len(configs["robustness"].raw_root) != len(test.dataset):
        raise UsageError(f"{len(configs['robustness'].raw_root)} raw_root for {len(test.dataset)} dataset")
    device = resolve_device(test.device)
    return Evaluation(
        model=model,
        needs=needs_of(model, model.config),
        device=device,
        precision=resolve_precision(test.precision, device),
        judgement=restore.restore_judgement(content, test.checkpoint),
        trained_checksums=content.get("split_checksums", {}),
        trained_backends=content.get("landmark_backends", {}),
        run=run,
        trimmed_data=trimmed_data,
        **configs,
    )


def evaluate_dataset(evaluation: Evaluation, name: str, data_root: Path, output_dir: Path) -> dict[str, Any]:
    """Score a data set, write its files, return test_metrics.json's content; {} but in the main process."""
    test, data, workers, needs = evaluation.test, evaluation.data, evaluation.workers, evaluation.needs
    model, judgement = evaluation.model, evaluation.judgement
    device, precision, trained = evaluation.device, evaluation.precision, evaluation.trained_checksums
    listing = DATASETS[name](data_root, evaluation.listing)
    split = split_of_run(
        listing, evaluation.split, test.checkpoint, trained, test.dataset, all_clips=test.split == "all"
    )
    is_own = test.split != "all" and trained.get(name) == split_checksum(split)
    protocol = outputs.log_split(listing, split, tells_overlaps=is_own)
    clips = listing.clips if test.split == "all" else split.select(listing.clips, test.split)
    seen = seen_by_run(split, clips, test.checkpoint, trained)
    caveat = caveat_of(evaluation.run["generated_sets"], listing.num_generated(clips), len(clips))
    part = f"the {test.split} split of {name}"
    needs_both = test.shortcuts or evaluation.robustness.robustness
    outputs.check_clips(clips, data.label_rule, part, sentence_of_seen(seen), caveat, needs_both=needs_both)
    batches, facts_of_file = evaluation_batches(judgement.domain, clips, data, workers, **needs)
    num_windows = len(batches.dataset.evaluation_keys())
    log.info(f"{len(clips)} clips, {data.describe(num_windows)}; {device}, {precision}")
    score = functools.partial(evaluate, model, device=device, precision=precision, pooling=data.pooling)
    with logging_redirect_tqdm():
        scores = score_and_describe(score, batches, facts_of_file, judgement.domain, f"{name} {test.split}")
        where = workers, device, precision, output_dir
        located = localise(judgement.localiser, model, batches, *where, wanted=test.localise)
    scored = Scored(clips, scores, score, data, workers, needs, output_dir, device, caveat)
    if not is_main():
        if test.shortcuts:  # all processes score the changed clips
            measure_shortcuts(scored)
        return {}
    donor_disjoint = frozenset() if test.split == "all" else split.donor_disjoint
    result = {
        "dataset": name,
        "split": test.split,
        "seen_in_training": seen,
        "caveat": caveat,
        **outputs.tell_backends(clips, name, evaluation.trained_backends),
        **all_metrics(judgement.decision, clips, scores, donor_disjoint, part, judgement.domain),
        **located,
        "checkpoint": test.checkpoint.name,
        "run": evaluation.run,
        **{name: getattr(data, name) for name in ("window_s", "windows_per_clip")},
        "data": to_plain(data),
        "trimmed": data.trimming,
        **outputs.provenance(split, protocol, scores, device),
    }
    write_predictions(output_dir / "predictions.csv", clips, scores, split.donor_disjoint, judgement.domain)
    row_of = {clip.clip_id: index for index, clip in enumerate(clips)}
    evaluated = Evaluated(
        result=result,
        clips=clips,
        scores=scores,
        spans_of=lambda clip: batches.dataset.window_spans_s(row_of[clip.clip_id]),
        run_dir=test.checkpoint.parent,
        data_root=data_root,
        no_thumbnails=test.no_thumbnails,
    )
    outputs.write_results(scored, evaluated, test, evaluation.robustness)
    return result


def second_row(evaluation: Evaluation, data: DataConfig) -> Evaluation:
    """The evaluation of the second row of --trimmed both; only the first one looks for forged segments."""
    return dataclasses.replace(
        evaluation,
        data=data,
        test=dataclasses.replace(evaluation.test, shortcuts=False, localise=False),
        robustness=dataclasses.replace(evaluation.robustness, robustness=False),
    )


def main() -> int:
    return (choose_mode(sys.argv[1:]) or run_evaluation)()


def run_evaluation() -> int:
    """Evaluate a checkpoint on the data sets that the flags name."""
    configure_logging()  # before the checkpoint is read, whose log says where the weights were found
    evaluation = parse_args()
    if launched() and evaluation.robustness.robustness:
        raise UsageError("--robustness prepares videos in a single process: start it without torchrun")
    with process_group(evaluation.device):
        evaluation.model.to(evaluation.device)
        result = evaluate_all(evaluation, evaluation.test.output_dir or evaluation.test.checkpoint.parent)
        if is_main():
            sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def evaluate_all(evaluation: Evaluation, output_dir: Path) -> dict[str, Any]:
    """Evaluate each data set; the result of the only one, or of all of them with their mean AUC."""
    test = evaluation.test
    several = len(test.dataset) > 1
    folders = [output_dir / name if several else output_dir for name in test.dataset]
    for folder in folders if is_main() else ():
        require_writable(folder)
    results, trimmed = {}, []
    for name, root, folder in zip(test.dataset, test.data_root, folders, strict=True):
        results[name] = evaluate_dataset(evaluation, name, root, folder)
        if evaluation.trimmed_data is not None:
            second = second_row(evaluation, evaluation.trimmed_data)
            trimmed.append(evaluate_dataset(second, name, root, folder / outputs.TRIMMED))
            if is_main():
                outputs.add_trimmed(folder, results[name], trimmed[-1])
    if not several or not is_main():
        return results[test.dataset[0]]
    result, table = over_data_sets(results)
    outputs.write_metrics(output_dir, result, *trimmed)
    log.info("\n".join(table))
    return result


if __name__ == "__main__":
    run_command(main)
