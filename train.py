"""Train a detector: build, loop, validate, checkpoint.

    python train.py --dataset fakeavceleb --data_root PREPARED --run_dir saved_models/X
    python train.py --dataset fakeavceleb kodf --data_root PREPARED_1 PREPARED_2 --run_dir saved_models/Y

The flags are those of the chosen --model. The command line wins over --config FILE, that over the --preset.
A run directory holds config.json, splits/, train.log, metrics.csv, TensorBoard events, best.pt and last.pt;
--resume continues from last.pt. --search FILE.json trains many configurations: see train.py --search --help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import shlex
import signal
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loaders import DATASETS
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import ClipLoader, WorkerConfig, evaluation_loader, training_loader
from loaders.batches.domain import describe_training
from loaders.batches.sliding import with_localiser
from loaders.listing import ListingConfig
from loaders.parts import load_parts
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import split_checksum, write_split
from losses import LOSSES
from models import MODELS
from models.blocks.normalization import synchronize_batch_norm
from models.method import check_config, needs_of, without_decay_of_vectors
from models.restore import model_type_of, preset_layer
from utils.clip_type import Clip
from utils.config import first_look, opt, parse_sections, require_above, require_at_least, to_plain
from utils.errors import UsageError, run_command
from utils.evaluation.scoring import evaluate
from utils.evaluation.validation import Validation
from utils.files import locked_folder, write_text
from utils.run.bad_clips import BadClips
from utils.run.config_file import describe_environment, read_run_config, require_known, require_same
from utils.run.device import autocast, require_compiler, resolve_device, resolve_precision, set_float32_math
from utils.run.distributed import StopWaiting, is_main, process_group, world_size
from utils.run.loop_config import LoopConfig
from utils.run.progress import configure_logging, logging_redirect_tqdm
from utils.run.resume import Best, StopRequest, TrainingState, require_no_run, saved_state, stop_request
from utils.run.seed import seed_everything
from utils.run.session import Run
from utils.run.training import TrainingStep, compile_model, loss_groups, make_optimizer, parallel
from utils.search.mode import choose_mode

log = logging.getLogger("train")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """train.py: what is trained, on what, for how long."""

    dataset: tuple[str, ...] = opt(
        ("fakeavceleb",), "data sets; several are trained on together", choices=sorted(DATASETS)
    )
    data_root: tuple[Path, ...] = opt((), "folders made by preprocess.prepare, in the order of --dataset")
    allow_leaks: bool = opt(False, "train although a file or a person is in two parts (see loaders.audit)")
    allow_test_only_training: bool = opt(False, "train on a data set that is meant for testing only")
    dataset_weights: tuple[float, ...] = opt((), "share of each data set in training; none = by its size")
    run_dir: Path = opt(Path("saved_models/run"), "where the run is written")
    model: str = opt("beyond_masking", "method", choices=sorted(MODELS))
    preset: str = opt("corrected", "named set of values: released = the published code to the letter")
    config: Path | None = opt(None, "repeat the run of this config.json; explicit flags win over it")
    resume: bool = opt(False, "continue the run in --run_dir from last.pt, with its configuration")
    save_every_steps: int = opt(0, "also save last.pt every N steps; 0 = only at the end of an epoch")
    keep_checkpoints: int = opt(2, "versions of last.pt to keep: --resume takes the newest undamaged one")
    max_bad_clips: int = opt(0, "set aside up to N clips that become unreadable; 0 = the first stops the run")
    domain_clips: int = opt(1024, "describe up to N clips: videos unlike them are undecided; 0 = none")
    print_config: bool = opt(False, "print the resolved configuration as JSON and exit")

    def __post_init__(self) -> None:
        require_above(self, 0, "keep_checkpoints")
        require_at_least(self, 0, "save_every_steps", "max_bad_clips", "domain_clips")
        if len(set(self.dataset)) != len(self.dataset):
            raise ValueError("dataset names a data set twice; put both parts into one manifest")
        if self.data_root and len(self.data_root) != len(self.dataset):
            raise ValueError(f"{len(self.data_root)} data_root for {len(self.dataset)} dataset")
        weights = self.dataset_weights
        if weights and (len(weights) != len(self.dataset) or min(weights) <= 0):
            raise ValueError("dataset_weights must be one positive number per dataset")


@dataclass(frozen=True)
class RunConfig:
    """All flag groups of a run, in the order of --help."""

    train: TrainConfig
    loop: LoopConfig
    workers: WorkerConfig
    data: DataConfig
    listing: ListingConfig
    split: SplitConfig
    model: Any
    loss: Any

    @property
    def needs_classes(self) -> bool:
        """Whether all classes must be there: something is learnt, or an epoch chosen, by labels."""
        return self.loop.select_by != "val_loss" or MODELS[self.train.model].reads_labels(self.model)

    def as_plain(self) -> dict[str, dict[str, Any]]:
        """Sections of JSON-ready values for config.json; "train" also holds the loop's flags."""
        sections = {field.name: to_plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        sections["train"] |= sections.pop("loop")
        for name in ("resume", "print_config", "config"):
            del sections["train"][name]
        return sections


def parse_args(argv: list[str] | None = None) -> RunConfig:
    """The run's configuration. Raises UsageError for contradictions; exits with 2 on unknown flags."""
    chosen = first_look(argv, "model", "preset", "config", "run_dir", "resume")
    file = Path(chosen["config"]) if chosen["config"] else None
    if not file and (chosen["resume"] or "no").lower() not in {"false", "0", "no", "off"}:
        file = Path(chosen["run_dir"] or TrainConfig.run_dir) / "config.json"
    saved = read_run_config(file) if file else {}
    before = saved.get("train", {})
    model = chosen["model"] or before.get("model", TrainConfig.model)
    model_type, loss = model_type_of(model), LOSSES[model]
    preset = chosen["preset"] or before.get("preset", TrainConfig.preset)
    if before.get("preset", preset) != preset:
        raise UsageError(f"{file} was made with --preset {before['preset']}: give --preset or --config")
    groups = typing.get_type_hints(RunConfig) | {"model": model_type.config_type, "loss": loss.config_type}
    require_known(saved, groups, file)
    # config.json and presets hold the flags of the loop under "train"
    sources = ((str(file), saved), preset_layer(model_type, preset))
    layers = [(origin, {**values, "loop": values.get("train", {})}) for origin, values in sources]
    config = RunConfig(**parse_sections(__doc__, groups, *layers, argv=argv))
    check_config(model_type, config.as_plain())
    if config.train.resume:
        # a flag that the run is older than had its default then
        then = RunConfig(**parse_sections(__doc__, groups, *layers, argv=[]))
        require_same(then.as_plain(), config.as_plain())
    return config


def main() -> int:
    if search := choose_mode(sys.argv[1:], parse_args):
        return search()
    config = parse_args()
    if config.train.print_config:
        sys.stdout.write(json.dumps(config.as_plain(), indent=1) + "\n")
        return 0
    device = resolve_device(config.loop.device)
    with process_group(device):
        if config.loop.compile:
            require_compiler(device)
        return start(config, device)


def start(config: RunConfig, device: torch.device) -> int:
    """Check what the run works on, describe it in its folder, and train. Returns the exit status."""
    train, run_dir = config.train, config.train.run_dir
    if not train.resume:
        require_no_run(run_dir)
    saved = saved_state(run_dir, config.as_plain()) if train.resume else None
    if not train.data_root:
        raise UsageError("missing --data_root, the output of preprocess.prepare; see --help")
    roots, rule = dict(zip(train.dataset, train.data_root, strict=True)), config.data.label_rule
    allowed = {"allow_leaks": train.allow_leaks, "allow_test_only": train.allow_test_only_training}
    reals_only = config.loop.balance == "real" and not config.needs_classes
    how = {"needs_classes": config.needs_classes, "reals_only": reals_only}
    parts = load_parts(roots, config.listing, config.split, rule, **allowed, **how)
    checksums = {name: split_checksum(split) for name, split in parts.splits.items()}
    if saved and saved["split_checksums"] != checksums:
        raise UsageError(f"the clips or the split changed since {run_dir} was begun; start a new --run_dir")
    loaders = make_loaders(config, parts.clips, saved)
    about = {
        "config": config.as_plain(),
        "command": shlex.join(sys.argv),
        "environment": describe_environment(device),
        "split_checksums": checksums,
        **parts.about,
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
        for line in (*(f"{name}: {json.dumps(value)}" for name, value in about.items()), *parts.table):
            log.info("%s", line)
        stack.enter_context(logging_redirect_tqdm())
        request = stack.enter_context(stop_request())
        known: dict[str, Any] = {name: value for name, value in about.items() if name != "command"}
        with contextlib.suppress(StopWaiting):
            where = config.data, config.workers, train.domain_clips, train.max_bad_clips, device
            needs = needs_of(MODELS[train.model], config.model)
            found = saved or describe_training(parts.clips, *where, **needs)
            known |= {name: found.get(name) for name in ("domain", "features")}
            fit(config, loaders, saved, device, known, request)
        if number := request.heard():
            log.info("stopped by %s; --resume goes on from here", signal.Signals(number).name)
    return 128 + number if number else 0


def build(config: RunConfig, steps_per_epoch: int, device: torch.device) -> TrainingState:
    """Model, loss and optimiser before their first step."""
    train, loop = config.train, config.loop
    set_float32_math(device)
    seed_everything(loop.seed)
    model = MODELS[train.model](config.model)
    assert isinstance(model, nn.Module)  # every method is one
    model.to(device)
    criterion: nn.Module = LOSSES[train.model](config.loss).to(device)
    groups = [*model.parameter_groups(), *loss_groups(criterion)]
    groups = groups if loop.decay_vectors else without_decay_of_vectors(groups)
    num_all = sum(p.numel() for p in model.parameters())
    num_trained = sum(p.numel() for group in groups for p in group["params"])
    log.info("%s: %d parameters, %d trained", train.model, num_all, num_trained)
    if world_size() > 1 and loop.sync_batch_norm:
        synchronize_batch_norm(model, device)
    if loop.compile:
        compile_model(model)
    step = parallel(TrainingStep(model, criterion))
    optimizer, scheduler = make_optimizer(loop, groups, steps_per_epoch)
    best = Best(higher_is_better=loop.select_by != "val_loss")
    return TrainingState(model, criterion, step, optimizer, scheduler, best, device)


def make_loaders(
    config: RunConfig, clips: dict[str, list[Clip]], saved: dict[str, Any] | None
) -> tuple[ClipLoader, ClipLoader]:
    """Batches of the training and of the validation clips, without those that `saved` has set aside."""
    train, loop, data, workers = config.train, config.loop, config.data, config.workers
    bad_clips = BadClips(train.max_bad_clips, saved["bad_clips"] if saved else {})
    weights = dict(zip(train.dataset, train.dataset_weights, strict=True)) if train.dataset_weights else None
    order = {name: getattr(loop, name) for name in ("balance", "repeat_reals", "seed", "accumulate_steps")}
    common: dict[str, Any] = {"bad_clips": bad_clips, **needs_of(MODELS[train.model], config.model)}
    loader, _ = training_loader(clips["train"], data, workers, dataset_weights=weights, **order, **common)
    return loader, evaluation_loader(clips["val"], data, workers, **common)


def fit(
    config: RunConfig,
    loaders: tuple[ClipLoader, ClipLoader],
    saved: dict[str, Any] | None,
    device: torch.device,
    known: dict[str, Any],
    request: StopRequest,
) -> None:
    """Train from the first weights, or from `saved`, and validate after every epoch."""
    train, loop, (loader, val_loader) = config.train, config.loop, loaders
    precision = resolve_precision(loop.precision, device)
    about = f"{loader.num_workers} loader workers, {loader.prefetch_factor or 0} batches ahead"
    log.info("device %s, precision %s, %d process(es), each with %s", device, precision, world_size(), about)
    state = build(config, loader.batch_sampler.num_steps, device)
    if saved:
        state.restore(saved)
        log.info("resumed before step %d of epoch %d", state.progress.step, state.progress.epoch)
    saves = train.save_every_steps, train.keep_checkpoints
    run = Run(train.run_dir, loop, state, loader, request, known, *saves)
    try:
        train_epochs(config, run, val_loader, precision)
    except StopWaiting:
        run.stop_here()
    run.close()


def train_epochs(config: RunConfig, run: Run, val_loader: ClipLoader, precision: str) -> None:
    """The training loop: returns when all epochs are done, none gets better, or a signal was heard."""
    state, device, loop, pooling = run.state, run.state.device, config.loop, config.data.pooling
    first = run.progress.epoch
    how: dict[str, Any] = {"select_by": loop.select_by, "needs_classes": config.needs_classes}
    validation = Validation(run.run_dir, first, rate=loop.decision_fpr, **how)
    score = functools.partial(evaluate, precision=precision, pooling=pooling, description="validate")
    for epoch in run.epochs():
        for batch in run.batches():
            with autocast(device, precision):
                terms = state.step(batch, run.clip_ids)
            run.backward(terms)
            if run.is_step:
                run.optimize()
                if run.must_stop():
                    return
        scores = score(state.model, val_loader, device, criterion=state.criterion, bad_clips=run.bad_clips)
        run.end_epoch(*validation.end_epoch(epoch, val_loader.dataset.clips, scores, state.best))
    run.amend_best(with_localiser(validation.complete, state, val_loader, config.workers, loop, precision))


if __name__ == "__main__":
    run_command(main)
