"""Clips through a frozen backbone: read, cut into pieces, encode in batches, write (S, D) features."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from models.backbones.backbone import Encoder
from models.backbones.menu import BACKBONES
from preprocess.features.pieces import Chunk, ClipPieces, Skipped
from preprocess.features.places import folder_jobs, install_features
from preprocess.work.batch import WorkConfig
from preprocess.work.jobs import Job
from preprocess.work.stores import StoreError
from preprocess.work.workers import Outcomes
from utils.checkpoint.foreign import read_foreign_weights
from utils.clip.features import FeatureInfo, read_info
from utils.clip.packed import FEATURES
from utils.config import opt, require_at_least, require_between
from utils.errors import CheckpointError, ClipError, UsageError
from utils.files import file_sha256
from utils.names import brief
from utils.run.device import (
    autocast,
    device_flag,
    exact_float32,
    resolve_device,
)

PRECISIONS = ("fp32", "bf16")
RANDOM_SEED = 0
RANDOM_WEIGHTS = "random"
NO_WEIGHTS = "none"
READ_ITEMS, READ_BYTES = 16, 1 << 24  # that a thread reads before the backbone goes on
WRITERS = 4  # clips written at a time: most of it is waiting for the disk or the store


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """python -m preprocess.extract_features"""

    backbone: str = opt(dataclasses.MISSING, "the encoder", choices=sorted(BACKBONES))
    weights_dir: Path | None = opt(None, "folder of the published files of weights; mfcc has none")
    random_weights: bool = opt(False, "instead: untrained weights, always the same; to try the software")
    layer: int = opt(0, "features of the N-th layer of a speech encoder, as BACKBONE.layerN; 0: of its end")
    device: str = device_flag()
    precision: str = opt(
        "fp32",
        "bf16: faster on devices that compute it, off by about 1 % (speech encoders 3 %)",
        choices=PRECISIONS,
    )
    batch_size: int = opt(0, "pieces computed at a time, windows, frames or seconds; 0: the backbone's own")
    num_workers: int = opt(-1, "processes that read ahead; -1: four on a GPU, none on a CPU")
    shard: str = opt("1/1", "k/n: take only every n-th clip, starting with the k-th, on this machine")

    def __post_init__(self) -> None:
        require_at_least(self, 0, "batch_size")
        require_at_least(self, -1, "num_workers")
        backbone = BACKBONES[self.backbone]
        if backbone.num_layers:
            require_between(self, 0, backbone.num_layers, "layer")
        if backbone.weights is not None and self.random_weights == (self.weights_dir is not None):
            raise ValueError("give either --weights_dir, or --random_weights for untrained ones")
        WorkConfig(shard=self.shard)

    def unused(self) -> dict[str, str]:
        backbone, reasons = BACKBONES[self.backbone], {}
        if backbone.weights is None:
            reasons = dict.fromkeys(("weights_dir", "random_weights"), f"{self.backbone} has no weights")
        if not backbone.num_layers:
            reasons["layer"] = f"{self.backbone} gives the features of no other layer"
        return reasons

    @property
    def feature_name(self) -> str:
        """Of the files in features/."""
        return self.backbone + (f".layer{self.layer}" if self.layer else "")


@dataclass
class Results:
    """Rows of the clips that are not complete yet, (P, R, E) of P pieces, and how many pieces they lack."""

    jobs: Sequence[Job]
    name: str
    rows: dict[int, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    missing: dict[int, int] = dataclasses.field(default_factory=dict)
    unreadable: set[int] = dataclasses.field(default_factory=set)

    def skip(self, clip: Skipped) -> tuple[Job, str, str]:
        """Outcome of a clip that is left out, of which some pieces may have been read, or may still come."""
        job = self.jobs[clip.index]
        if clip.failure is None:
            return job, "already there", ""
        self.rows.pop(clip.index, None)
        self.unreadable.add(clip.index)
        return job, "failed", clip.failure

    def add(self, chunk: Chunk, place: int, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Take the rows (R, E) of a chunk's piece; of a clip's last one, give all (S, E)."""
        index, total = chunk.index, len(chunk.plan.pieces)
        if index in self.unreadable:
            return None
        rows = self.rows.setdefault(index, np.zeros((total, *row.shape), np.float32))
        rows[chunk.first + place] = row
        self.missing[index] = self.missing.get(index, total) - 1
        if self.missing[index]:
            return None
        del self.rows[index], self.missing[index]
        clip_rows: npt.NDArray[np.float32] = rows.reshape(-1, rows.shape[-1])[: chunk.plan.num_rows]
        return clip_rows

    def write(self, chunk: Chunk, rows: npt.NDArray[np.float32]) -> tuple[Job, str, str]:
        """Write all rows (S, E) of the clip that `chunk` is of: its outcome."""
        job = self.jobs[chunk.index]
        if not np.isfinite(rows).all():
            hint = "" if chunk.info.settings["precision"] == "fp32" else "; try --precision fp32"
            return job, "failed", f"not finite features{hint}"
        try:
            install_features(job, self.name, rows, chunk.info)
        except (StoreError, OSError) as error:  # of a full disk it is another error, which ends all
            return job, "failed", str(error).replace(f"{job.folder}/", "")
        return job, "done", ""


def batches(items: Iterable[Chunk | Skipped], size: int) -> Iterator[Skipped | list[tuple[Chunk, int]]]:
    """Skipped clips as they come, and lists of `size` (chunk, number of its piece); a shorter one at last."""
    waiting: list[tuple[Chunk, int]] = []
    for item in items:
        if isinstance(item, Skipped):
            yield item
            continue
        waiting += [(item, place) for place in range(len(item.inputs[0]))]
        while len(waiting) >= size:
            yield waiting[:size]
            del waiting[:size]
    if waiting:
        yield waiting


def read_in_turn(pieces: Sequence[ClipPieces]) -> Iterator[Chunk | Skipped]:
    """All items, the next ones of all parts read at the same time, in threads, when the last are used up.

    Not while the backbone computes: its threads wait for each other, so one that loses its core to a reader
    holds up all. And several at a time: those threads are still awake for a while when it has computed.
    """
    parts: list[Iterator[Chunk | Skipped]] = [iter(part) for part in pieces]
    with ThreadPoolExecutor(len(parts)) as readers:
        while parts:
            found = list(readers.map(_next_items, parts))
            parts = [part for part, items in zip(parts, found, strict=True) if items]
            yield from itertools.chain.from_iterable(found)


def _next_items(part: Iterator[Chunk | Skipped]) -> list[Chunk | Skipped]:
    items, num_bytes = [], 0
    for item in itertools.islice(part, READ_ITEMS):
        items.append(item)
        num_bytes += sum(values.nbytes for values in item.inputs) if isinstance(item, Chunk) else 0
        if num_bytes >= READ_BYTES:
            break
    return items


def new_encoder(config: ExtractConfig) -> Encoder:
    """The encoder with random weights, always the same."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(RANDOM_SEED)
        encoder = BACKBONES[config.backbone].make().eval()
    encoder.layer = config.layer
    return encoder


def make_encoder(config: ExtractConfig) -> tuple[Encoder, str, str]:
    """(encoder, names and sha256 of its weights). Raises UsageError if a file is not there."""
    backbone, encoder = BACKBONES[config.backbone], new_encoder(config)
    if backbone.weights is None:
        return encoder, NO_WEIGHTS, NO_WEIGHTS
    if config.weights_dir is None:
        return encoder, RANDOM_WEIGHTS, RANDOM_WEIGHTS
    paths = [config.weights_dir / file for file in backbone.weights.files]
    paths = [path if path.is_file() else _of_transformers(path) for path in paths]
    for path in paths:
        if not path.is_file():
            size_mb = sum(value.nbytes for value in encoder.network.state_dict().values()) / 1e6
            raise UsageError(
                f"{path} is missing: get it from {backbone.weights.source} (at least {size_mb:.0f} MB in "
                f"all, licence {backbone.weights.licence}), or try the software with --random_weights"
            )
    state = {key: value for path in paths for key, value in read_foreign_weights(path).items()}
    encoder.load_published(state, ", ".join(map(str, paths)))
    return encoder, ", ".join(path.name for path in paths), ", ".join(map(file_sha256, paths))


@functools.lru_cache(maxsize=2)
def _kept_encoder(config: ExtractConfig) -> tuple[Encoder, str, str]:
    """make_encoder(config), once for all videos that are judged."""
    return make_encoder(config)


def _of_transformers(path: Path) -> Path:
    """The same weights as a safetensors file, if that is there."""
    other = path.with_suffix(".safetensors")
    return other if other.is_file() else path


def encode(
    encoder: Encoder, batch: list[tuple[Chunk, int]], size: int, device: torch.device, precision: str
) -> npt.NDArray[np.float32]:
    """(P, R, E) features of the P <= `size` pieces of a batch.

    Always `size` pieces are computed: sums are grouped by the shape of a batch, so that a piece's last bits
    do not depend on which pieces, of which clips, are computed with it.
    """
    pieces = [[values[place] for values in chunk.inputs] for chunk, place in batch]
    pieces += [pieces[-1]] * (size - len(pieces))
    inputs = [torch.stack(values).to(device, non_blocking=True) for values in zip(*pieces, strict=True)]
    with torch.inference_mode(), autocast(device, precision), exact_float32():
        features = encoder(*inputs)
    return np.asarray(features[: len(batch)].float().cpu().numpy())


def extract(
    config: ExtractConfig, jobs: Sequence[Job], made: tuple[Encoder, str, str] | None = None
) -> Outcomes[Job]:
    """Write the features of all clips that lack them; (job, status, reason) of each, as it is finished.

    `made`: what make_encoder gave for this configuration before.
    """
    backbone, device = BACKBONES[config.backbone], resolve_device(config.device)
    encoder, weights, digest = made or make_encoder(config)
    encoder.to(device)
    size = config.batch_size or backbone.batch_size
    settings = backbone.settings() | {"precision": config.precision}
    settings |= {"layer": config.layer} if config.layer else {}
    like = FeatureInfo(
        backbone=config.backbone, weights=weights, weights_sha256=digest,
        settings=settings, source="", source_sha256="", step_s="1", length_s="1", rows_sha256="",
        tools={"torch": torch.__version__},
    )  # fmt: skip
    name = FEATURES + config.feature_name
    num_workers = config.num_workers if config.num_workers >= 0 else 4 if device.type == "cuda" else 0
    items: Iterable[Chunk | Skipped]
    if num_workers:
        pieces = ClipPieces(jobs, backbone, like, name)
        pin = device.type == "cuda"
        items = DataLoader(pieces, batch_size=None, num_workers=num_workers, pin_memory=pin)
    else:
        count = torch.get_num_threads()
        items = read_in_turn([ClipPieces(jobs, backbone, like, name, (k, count)) for k in range(count)])
    results = Results(jobs, name)
    writing: deque[Future[tuple[Job, str, str]]] = deque()
    with ThreadPoolExecutor(WRITERS) as writers:
        for batch in batches(items, size):
            if isinstance(batch, Skipped):
                yield results.skip(batch)
                continue
            rows = encode(encoder, batch, size, device, config.precision)
            for (chunk, place), row in zip(batch, rows, strict=True):
                if (clip_rows := results.add(chunk, place, row)) is not None:
                    writing.append(writers.submit(results.write, chunk, clip_rows))
            while writing and (writing[0].done() or len(writing) > 2 * WRITERS):
                yield writing.popleft().result()
        yield from (future.result() for future in writing)


def config_alike(
    name: str, recipe: Mapping[str, Any], weights_dir: Path | None, device: torch.device
) -> ExtractConfig:
    """The flags that make the features that a recipe (FeatureInfo.recipe) describes; errors as below."""
    settings, is_random = recipe["settings"], recipe["weights"] == RANDOM_WEIGHTS
    needs_file = not is_random and recipe["weights"] != NO_WEIGHTS
    if needs_file and weights_dir is None:
        raise UsageError(f"give --weights_dir: the checkpoint reads {name}, of {recipe['weights']}")
    try:
        config = ExtractConfig(
            backbone=recipe["backbone"],
            weights_dir=weights_dir if needs_file else None,
            random_weights=is_random,
            layer=settings.get("layer", 0),
            device=str(device),
            precision=settings.get("precision", "fp32"),
            batch_size=0 if device.type == "cuda" else 1,  # a short video has few pieces
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"nothing gives {brief(name)} ({error})") from error
    if FEATURES + config.feature_name != name:
        raise CheckpointError(f"{brief(name)} would be {config.feature_name}")
    return config


def extract_alike(
    folders: list[Path],
    recipes: Mapping[str, Mapping[str, Any]],
    weights_dir: Path | None,
    device: torch.device,
) -> None:
    """Write the features that `recipes` (name -> FeatureInfo.recipe) describe into clip folders.

    Raises UsageError without the weights or with others, CheckpointError for an unknown recipe, ClipError if
    a clip cannot be read.
    """
    for name, recipe in recipes.items() if folders else ():
        config = config_alike(name, recipe, weights_dir, device)
        for job, status, reason in extract(config, folder_jobs(folders), _kept_encoder(config)):
            if status == "failed":
                raise ClipError(job.folder, reason)
        if (made := read_info(folders[0], name).recipe()) != recipe:
            raise UsageError(f"{name} would be made with {made}, but the checkpoint learnt with {recipe}")
