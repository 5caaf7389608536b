"""Train a detector: build, loop, validate, checkpoint.

    python train.py --dataset fakeavceleb --data_root PREPARED --run_dir saved_models/X
    python train.py --dataset fakeavceleb kodf --data_root PREPARED_1 PREPARED_2 --run_dir saved_models/Y

The flags below are those of the chosen --model. Values come from the command line, then --config FILE, then
the --preset, then the default. A run directory holds config.json, splits/, train.log, metrics.csv,
TensorBoard events, best.pt and last.pt; --resume goes on where last.pt was saved.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from loaders import DATASETS
from loaders.batches.data_loader import ClipLoader, WorkerConfig, evaluation_loader, training_loader
from loaders.batches.samplers import TrainingSampler
from loaders.batches.windows import DataConfig
from loaders.listing import ListingConfig
from loaders.parts import load_parts
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import split_checksum, write_split
from losses import LOSSES
from models import MODELS
from models.blocks.normalization import synchronize_batch_norm
from models.method import check_config
from utils.checkpoint.files import newest_checkpoint, save_checkpoint
from utils.config import first_look, opt, parse_sections, to_plain
from utils.errors import UsageError, run_command
from utils.evaluation.decision import decision_of_scores
from utils.evaluation.metrics import detection_metrics
from utils.evaluation.scoring import evaluate, validation_row
from utils.files import locked_folder, write_text
from utils.run.bad_clips import BadClips
from utils.run.config_file import read_run_config, require_known, require_same
from utils.run.device import PRECISIONS, require_compiler, resolve_device, resolve_precision, set_float32_math
from utils.run.distributed import is_main, process_group, rank, same_buffers, world_size
from utils.run.log import RunLog, configure_logging, describe_environment, logging_redirect_tqdm
from utils.run.resume import Best, StopRequest, TrainingState, require_state, stop_request
from utils.run.seed import seed_everything
from utils.run.training import TrainingStep, compile_model, learning_rate_factor, parallel, train_epoch
from utils.types import Clip

log = logging.getLogger("train")
# what may differ between a run and its resumption
RESUMABLE = {"epochs", "patience", "num_workers", "device", "run_dir", "data_root", "decision_fpr"}
RESUMABLE |= {"prefetch_factor", "checkpoint_activations", "compile", "save_every_steps", "keep_checkpoints"}
RESUMABLE |= {"max_bad_clips", "loader_timeout_s"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """train.py: what is trained, on what, for how long."""

    dataset: tuple[str, ...] = opt(
        ("fakeavceleb",), "data sets; several are trained on together", choices=sorted(DATASETS)
    )
    data_root: tuple[Path, ...] = opt(
        (), "the prepared data sets (outputs of preprocess.prepare), in the order of --dataset"
    )
    allow_leaks: bool = opt(False, "train although a file or a person is in two parts (see loaders.audit)")
    dataset_weights: tuple[float, ...] = opt(
        (), "shares of the data sets in the training draws; none = by their numbers of clips"
    )
    run_dir: Path = opt(Path("saved_models/run"), "where the run is written")
    model: str = opt("beyond_masking", "method", choices=sorted(MODELS))
    preset: str = opt("corrected", "named set of values: released = the published code to the letter")
    config: Path | None = opt(None, "repeat the run of this config.json; explicit flags win over it")
    resume: bool = opt(False, "go on with --run_dir where last.pt was saved, with its configuration")
    save_every_steps: int = opt(0, "save last.pt every so many steps, too; 0 = when an epoch ends")
    keep_checkpoints: int = opt(
        2, "versions of last.pt that stay: should the newest be damaged, --resume takes the one before it"
    )
    max_bad_clips: int = opt(
        0, "set aside at most so many clips that turn unreadable; 0 = the first one stops the run"
    )
    print_config: bool = opt(False, "print the resolved configuration as JSON and exit")
    epochs: int = opt(30, "passes over the training clips")
    learning_rate: float = opt(1e-4, "peak learning rate")
    optimizer: str = opt("adamw", "optimiser", choices=("adamw", "adam"))
    weight_decay: float = opt(0.01, "weight decay")
    schedule: str = opt("cosine", "learning rate after the warm-up", choices=("cosine", "constant"))
    warmup_epochs: float = opt(1.0, "epochs over which the learning rate rises from 0")
    max_grad_norm: float = opt(1.0, "gradients are clipped to this norm; 0 = not clipped")
    precision: str = opt(
        "auto", "auto = bf16 autocast where the device computes it fast, else fp32", choices=PRECISIONS
    )
    balance: str = opt(
        "label",
        "training draws as many clips of each class: real / fake, or the data set's categories",
        choices=("none", "label", "category"),
    )
    select_by: str = opt("val_auc", "what the best epoch is best in", choices=("val_auc", "val_loss"))
    patience: int = opt(10, "stop after this many epochs without a better one; 0 = never")
    decision_fpr: float = opt(
        0.01, "share of validation reals that the stored verdict may call fake, and of fakes, real"
    )
    accumulate_steps: int = opt(
        1,
        "a step's clips are computed in so many parts, one after the other: less memory; batch norm, "
        "contrastive pairs and means over frames are then those of a part",
    )
    compile: bool = opt(
        False, "compile the model: faster steps after some minutes; needs a C++ compiler, on a GPU Triton"
    )
    sync_batch_norm: bool = opt(
        True, "under torchrun, batch norm over the clips of all processes, as one process would see them"
    )
    seed: int = opt(42, "seed of weights, order and windows")
    device: str = opt(
        "auto", "auto, cpu, cuda or cuda:N; auto = cuda where there is one, its own for each process"
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "accumulate_steps", "keep_checkpoints"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0 < self.decision_fpr < 0.5:
            raise ValueError(f"decision_fpr must lie between 0 and 0.5, got {self.decision_fpr}")
        if len(set(self.dataset)) != len(self.dataset):
            raise ValueError("dataset names a data set twice; put both parts into one manifest")
        if self.data_root and len(self.data_root) != len(self.dataset):
            raise ValueError(f"{len(self.data_root)} data_root for {len(self.dataset)} dataset")
        weights = self.dataset_weights
        if weights and (len(weights) != len(self.dataset) or min(weights) <= 0):
            raise ValueError("dataset_weights must be one positive number per dataset")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        for name in ("save_every_steps", "max_bad_clips"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.warmup_epochs < 0 or self.max_grad_norm < 0 or self.patience < 0 or self.weight_decay < 0:
            raise ValueError("warmup_epochs, max_grad_norm, patience and weight_decay must not be negative")


@dataclass(frozen=True)
class RunConfig:
    """All flag groups of a run, in the order of --help."""

    train: TrainConfig
    workers: WorkerConfig
    data: DataConfig
    listing: ListingConfig
    split: SplitConfig
    model: Any
    loss: Any

    def as_plain(self) -> dict[str, dict[str, Any]]:
        """Sections of JSON-ready values, without the flags that say what to do with them: for config.json."""
        sections = {field.name: to_plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        for name in ("resume", "print_config", "config"):
            del sections["train"][name]
        return sections


def parse_args(argv: list[str] | None = None) -> RunConfig:
    """The run's configuration. Raises UsageError for contradictions; argparse exits with 2 on an unknown
    flag.
    """
    chosen = argparse.Namespace(**first_look(argv, "model", "preset", "config", "run_dir", "resume"))
    file = Path(chosen.config) if chosen.config else None
    if chosen.resume and chosen.resume.lower() not in {"false", "0", "no", "off"}:
        file = file or Path(chosen.run_dir or TrainConfig.run_dir) / "config.json"
    saved = read_run_config(file) if file else {}
    model_name = chosen.model or saved.get("train", {}).get("model", TrainConfig.model)
    if model_name not in MODELS:
        raise UsageError(f"unknown --model {model_name}; there are {', '.join(sorted(MODELS))}")
    model_type, loss_type = MODELS[model_name], LOSSES[model_name]
    saved_preset = saved.get("train", {}).get("preset")
    if chosen.preset and saved_preset and chosen.preset != saved_preset:
        raise UsageError(f"{file} was made with --preset {saved_preset}; give either --preset or --config")
    preset_name = chosen.preset or saved.get("train", {}).get("preset", TrainConfig.preset)
    if preset_name not in model_type.presets:
        raise UsageError(
            f"unknown --preset {preset_name} of {model_name}; there are {', '.join(model_type.presets)}"
        )

    groups: dict[str, type[Any]] = {
        "train": TrainConfig,
        "workers": WorkerConfig,
        "data": DataConfig,
        "listing": ListingConfig,
        "split": SplitConfig,
        "model": model_type.config_type,
        "loss": loss_type.config_type,
    }
    require_known(saved, groups, file)
    layers = ((str(file), saved), (f"preset {preset_name}", model_type.presets[preset_name]))
    config = RunConfig(**parse_sections(__doc__, groups, *layers, argv=argv))
    check_config(model_type, config.as_plain())
    if config.train.resume:
        # a flag that the run is older than had its default then
        before = RunConfig(**parse_sections(__doc__, groups, *layers, argv=[]))
        require_same(before.as_plain(), config.as_plain(), RESUMABLE)
    return config


def main() -> int:
    config = parse_args()
    if config.train.print_config:
        sys.stdout.write(json.dumps(config.as_plain(), indent=1) + "\n")
        return 0
    device = resolve_device(config.train.device)
    with process_group(device):
        if config.train.compile:
            require_compiler(device)
        return run(config, device)


def run(config: RunConfig, device: torch.device) -> int:
    """Check what the run is to work on, describe it in its folder, and train. Returns the exit status."""
    train, run_dir = config.train, config.train.run_dir
    precision = resolve_precision(train.precision, device)
    if not train.resume:
        require_no_run(run_dir)
    if not train.data_root:
        raise UsageError("missing --data_root, the output of preprocess.prepare; see --help")
    found = newest_checkpoint(run_dir / "last.pt") if train.resume else None
    if train.resume and not found:
        raise UsageError(f"{run_dir / 'last.pt'}: there is nothing to resume; start without --resume")
    saved = found[1] if found else None
    if found:
        require_state(*found, config.as_plain(), RESUMABLE)
    parts = load_parts(
        dict(zip(train.dataset, train.data_root, strict=True)),
        config.listing,
        config.split,
        config.data.label_rule,
        allow_leaks=train.allow_leaks,
    )
    checksums = {name: split_checksum(split) for name, split in parts.splits.items()}
    if saved and saved["split_checksums"] != checksums:
        raise UsageError(f"the clips or the split changed since {run_dir} was begun; start a new --run_dir")
    weights = dict(zip(train.dataset, train.dataset_weights, strict=True)) if train.dataset_weights else None
    bad_clips = BadClips(train.max_bad_clips)
    if saved:
        bad_clips.restore(saved["bad_clips"])
    method = MODELS[train.model]
    batches, sampler = training_loader(
        parts.clips["train"], config.data, config.workers, balance=train.balance, seed=train.seed,
        dataset_weights=weights, accumulate_steps=train.accumulate_steps, bad_clips=bad_clips,
        inputs=method.inputs, min_window_s=method.min_window_s,
    )  # fmt: skip
    about = {
        "config": config.as_plain(),
        "command": shlex.join(sys.argv),
        "environment": describe_environment(device),
        "split_checksums": checksums,
    }
    with contextlib.ExitStack() as stack:
        if is_main():
            stack.enter_context(locked_folder(run_dir))
            if not train.resume:
                require_no_run(run_dir)  # again: another run may have come first
            for split in parts.splits.values():
                write_split(run_dir / "splits", split)
            write_text(run_dir / "config.json", json.dumps(about, indent=1) + "\n")
        configure_logging(run_dir / "train.log")
        for name, value in about.items():
            log.info("%s: %s", name, json.dumps(value))
        log.info(
            "device %s, precision %s, %d process(es), each with %d loader workers, %d batches ahead", device,
            precision, world_size(), config.workers.resolved_workers, config.workers.resolved_prefetch,
        )  # fmt: skip
        for line in parts.table:
            log.info(line)
        stack.enter_context(logging_redirect_tqdm())
        request = stack.enter_context(stop_request())
        fit(config, batches, sampler, parts.clips["val"], saved, device, precision, about, request)
        if number := request.heard():
            log.info("stopped by %s; --resume goes on from here", signal.Signals(number).name)
    return 128 + number if number else 0


def require_no_run(run_dir: Path) -> None:
    """Raise UsageError if a run has saved a checkpoint in its folder."""
    if any(run_dir.glob("last*.pt")):
        raise UsageError(
            f"{run_dir} holds a run already: --resume goes on with it, another --run_dir starts anew"
        )


def build(config: RunConfig, steps_per_epoch: int, device: torch.device) -> tuple[nn.Module, TrainingState]:
    """Model, loss and optimiser at their first step, and the module that computes a step of them."""
    train = config.train
    set_float32_math(device)
    seed_everything(train.seed)
    model = MODELS[train.model](config.model)
    assert isinstance(model, nn.Module)  # every method is one
    model.to(device)
    criterion = LOSSES[train.model](config.loss).to(device)
    groups = model.parameter_groups()
    if own := [p for p in criterion.parameters() if p.requires_grad]:
        groups.append({"params": own})
    num_parameters = sum(p.numel() for p in model.parameters())
    num_trained = sum(p.numel() for group in groups for p in group["params"])
    log.info("%s: %d parameters, %d trained", train.model, num_parameters, num_trained)
    if world_size() > 1 and train.sync_batch_norm:
        synchronize_batch_norm(model, device)
    if train.compile:
        compile_model(model)
    step = parallel(TrainingStep(model, criterion))
    optimizer_type = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[train.optimizer]
    optimizer = optimizer_type(groups, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    factor = learning_rate_factor(
        train.schedule, train.warmup_epochs * steps_per_epoch, train.epochs * steps_per_epoch
    )
    best = Best(higher_is_better=train.select_by == "val_auc")
    return step, TrainingState(model, criterion, optimizer, LambdaLR(optimizer, factor), best, device)


def fit(
    config: RunConfig,
    batches: ClipLoader,
    sampler: TrainingSampler,
    val_clips: list[Clip],
    saved: dict[str, Any] | None,
    device: torch.device,
    precision: str,
    about: dict[str, Any],
    request: StopRequest,
) -> None:
    """The training loop, from the first weights to the last checkpoint; `saved` is what a resume starts
    from.
    """
    train, run_dir = config.train, config.train.run_dir
    bad_clips = batches.bad_clips
    method = MODELS[train.model]
    val_batches = evaluation_loader(
        val_clips, config.data, config.workers, bad_clips=bad_clips,
        inputs=method.inputs, min_window_s=method.min_window_s,
    )  # fmt: skip
    steps_per_epoch = batches.batch_sampler.num_steps

    step, state = build(config, steps_per_epoch, device)
    model, best = state.model, state.best
    progress = state.progress
    if saved:
        state.restore(saved)
        progress = state.progress
        log.info("resumed before step %d of epoch %d", progress.step, progress.epoch)
    first_step = progress.epoch * steps_per_epoch + progress.step
    run_log = RunLog(run_dir, first_step=first_step, num_epochs=progress.epoch)

    known = {name: about[name] for name in ("config", "environment", "split_checksums")}

    def save_last(**more: Any) -> None:
        run_log.flush()
        bad_clips.share()
        content = state.as_plain() | {"bad_clips": bad_clips.found}  # of all processes
        if is_main():
            state_of_run = known | content | more
            save_checkpoint(run_dir / "last.pt", state_of_run, keep_older=train.keep_checkpoints - 1)

    def after_step(bring_up_to_date: Callable[[], None]) -> bool:
        due = train.save_every_steps and progress.step % train.save_every_steps == 0
        stop = request.heard()
        if due or stop:
            bring_up_to_date()
            save_last()
        return bool(stop)

    while progress.epoch < train.epochs and not request.heard():
        if train.patience and best.epochs_since >= train.patience:
            log.info("stopped: %d epochs without a better %s", best.epochs_since, train.select_by)
            break
        epoch = progress.epoch
        if progress.step == 0:
            seed_everything(train.seed, epoch + 1, rank())
        sampler.epoch = bad_clips.epoch = epoch
        row = train_epoch(
            step, state, batches, run_log, precision=precision, accumulate_steps=train.accumulate_steps,
            max_grad_norm=train.max_grad_norm, after_step=after_step,
        )  # fmt: skip
        if row is None:
            break
        same_buffers(model)
        scores = evaluate(
            model, val_batches, device, precision=precision, criterion=state.criterion,
            pooling=config.data.pooling, bad_clips=bad_clips, description="validate",
        )  # fmt: skip
        metrics = detection_metrics(scores.labels, scores.logits, "the validation split")
        row |= validation_row(scores, metrics) | {"bad_clips": len(bad_clips.found)}
        improved = best.update(row[train.select_by])
        run_log.epoch(epoch, row)
        log.info(
            "epoch %d: train loss %.4f, val loss %.4f, val AUC %.4f, EER %.4f%s", epoch, row["train_total"],
            row["val_loss"], metrics.auc, metrics.eer, ", best so far" if improved else "",
        )  # fmt: skip
        progress.epoch, progress.step, progress.sums = epoch + 1, 0, {}
        decision = decision_of_scores(val_clips, scores, train.decision_fpr, "the validation split")
        result = {"epoch": epoch, "val": dataclasses.asdict(metrics), "decision": decision.as_plain()}
        if improved and is_main():
            save_checkpoint(run_dir / "best.pt", known | result | {"model": model.state_dict()})
        save_last(**result)
    run_log.close()
    if best.value is None:
        log.info("no epoch has ended yet: there is no best.pt")
    else:
        log.info("best %s %.4f, checkpoint %s", train.select_by, best.value, run_dir / "best.pt")


if __name__ == "__main__":
    run_command(main)
