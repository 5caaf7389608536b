"""Extracting features against the bare backbone, memory as the number of clips grows, and what caching saves.

Backbone and command in turn on the same pieces, from prepared clips with the command and already on the
device without it, for two seconds, or a batch of a slow backbone. Of at least three rounds, and as many as
begin within a minute, the fastest of each counts. A share is the bare backbone's time over the command's. On
a CPU, reading takes cores from the backbone, and other programs disturb both: the share of processor time
says what the command itself costs.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, training_loader
from losses.td3mf import TD3MFLoss, TD3MFLossConfig
from models.backbones.backbone import MOUTH_SIZE, Backbone
from models.backbones.menu import BACKBONES
from models.method import needs_of
from models.td3mf import TD3MFDetector
from models.td3mf.config import TD3MFConfig
from preprocess.features.extraction import ExtractConfig, extract, make_encoder
from preprocess.features.places import folder_jobs
from tests.benchmarks.loader import FPS, write_clip
from tests.benchmarks.processes import in_new_process, peak_mb
from tests.benchmarks.train import finish
from tests.clip_factory import make_clip
from utils.clip.files import CROP_SIZE, INFO_NAME
from utils.clip.packed import FEATURES
from utils.files import file_sha256
from utils.run.device import exact_float32

CLIP_S = 10
ROUNDS_S = 60.0  # other programs slow down most rounds of a fast backbone
MAX_BATCHES = 12  # so that starting and the last, partly filled batch weigh little
ROUND_S = 2.0  # and as many as take that long: of short rounds, some are without disturbance
MEASURED = ("marlin_small", "marlin_base", "marlin_large", "efficientface", "audio_resnet18")


def measure(
    scratch: Path,
    device: str,
    *,
    backbones: tuple[str, ...] = MEASURED,
    num_clips: int = 4,
    rounds: int = 3,
    rounds_s: float = ROUNDS_S,
    max_batches: int = MAX_BATCHES,
) -> dict[str, Any]:
    """{figure: value}; memory with a cheap backbone."""
    clip = prepared_clip(scratch / "clip")
    rows = [
        of_backbone(name, clip, torch.device(device), rounds, rounds_s, max_batches) for name in backbones
    ]
    saved = _training(_clips(clip, scratch / "set", num_clips), torch.device(device))
    few, many = (in_new_process(_peak_mb, scratch / "clip", scratch / str(n), n) for n in (4, 40))
    return {
        "backbones": rows,
        "least_share_of_bare": min(row["share_of_bare"] for row in rows),
        **saved,
        "peak_mb_4_clips": few,
        "peak_mb_40_clips": many,
    }


def prepared_clip(folder: Path) -> Path:
    """A clip folder whose clip.json has the checksums of its files, as preprocess.prepare writes them."""
    write_clip(folder, CLIP_S)
    digests = {path.name: file_sha256(path) for path in folder.iterdir()}
    (folder / INFO_NAME).write_text(json.dumps({"files": digests}))
    return folder


def _clips(clip: Path, place: Path, count: int) -> list[Path]:
    return [Path(shutil.copytree(clip, place / str(number))) for number in range(count)]


def _training(folders: list[Path], device: torch.device) -> dict[str, Any]:
    """Seconds of an epoch of 2D3MF on cached features, and with MARLIN in the graph; the better of two."""
    for name in ("marlin_small", "audio_resnet18"):
        config = ExtractConfig(backbone=name, random_weights=True, device=str(device))
        list(extract(config, folder_jobs(folders)))
    clips = [make_clip(folder, clip_id=str(folder), label=n % 2) for n, folder in enumerate(folders)]
    data, workers = DataConfig(window_s=CLIP_S), WorkerConfig(batch_size=2, num_workers=0)
    epoch_s = {}
    for finetune in (False, True):
        config = TD3MFConfig(audio_features="audio_resnet18", finetune=finetune)
        model, criterion = TD3MFDetector(config).to(device), TD3MFLoss(TD3MFLossConfig())
        optimizer = torch.optim.Adam(model.parameters())
        needs = needs_of(TD3MFDetector, config)
        loader, _ = training_loader(clips, data, workers, balance="none", seed=0, **needs)
        times = []
        for _ in range(2):
            started = time.perf_counter()
            for batch in loader:
                batch = batch.to(device)
                optimizer.zero_grad()
                criterion(model(batch), batch)["total"].backward()
                optimizer.step()
            finish(device)
            times.append(time.perf_counter() - started)
        epoch_s[finetune] = min(times)
    return {
        "epoch_s_cached": epoch_s[False],
        "epoch_s_in_graph": epoch_s[True],
        "cached_speedup": epoch_s[True] / epoch_s[False],
    }


def _peak_mb(clip: Path, place: Path, count: int) -> float:
    """Peak memory of a process that extracts from `count` clips."""
    config = ExtractConfig(backbone="audio_resnet18", random_weights=True, device="cpu")
    list(extract(config, folder_jobs(_clips(clip, place, count))))
    return peak_mb()


def _inputs(backbone: Backbone, num_frames: int) -> list[torch.Tensor]:
    """A batch of random pieces."""
    size, inputs = backbone.batch_size, []
    if backbone.mouth or not backbone.sample_rate_hz:
        picture = (MOUTH_SIZE, MOUTH_SIZE) if backbone.mouth else (CROP_SIZE, CROP_SIZE, 3)
        inputs.append(torch.randint(0, 256, (size, num_frames, *picture), dtype=torch.uint8))
    if backbone.sample_rate_hz:
        inputs.append(torch.rand(size, backbone.piece_samples))
    if backbone.rows_of_piece:
        inputs.append(torch.full((size,), backbone.rows_of_piece))
    return inputs


def of_backbone(
    name: str, clip: Path, device: torch.device, rounds: int, rounds_s: float, max_batches: int
) -> dict[str, Any]:
    """Rates of `name` on copies of `clip`, and its shares of the bare backbone's wall and processor time.

    At least `rounds`, and further ones for `rounds_s` seconds.
    """
    backbone = BACKBONES[name]
    config = ExtractConfig(backbone=name, random_weights=True, device=str(device))
    rate = FPS if backbone.mouth else backbone.sample_rate_hz or FPS
    plan, size = backbone.plan(Fraction(rate), CLIP_S * rate), backbone.batch_size
    inputs = [values.to(device) for values in _inputs(backbone, plan.pieces.shape[1])]

    def bare(num_batches: int) -> None:
        encoder = make_encoder(config)[0].to(device)
        with torch.inference_mode(), exact_float32():
            for _ in range(num_batches):
                encoder(*inputs)
        finish(device)

    bare(1)  # what is done once per process
    wanted = min(max_batches, max(1, round(ROUND_S / _spent(partial(bare, 1))[0])))
    num_clips = math.ceil(wanted * size / len(plan.pieces))
    num_batches = math.ceil(num_clips * len(plan.pieces) / size)
    folders = _clips(clip, clip.with_name(name), num_clips)

    def command() -> None:
        for folder in folders:
            shutil.rmtree(folder / FEATURES, ignore_errors=True)
        list(extract(config, folder_jobs(folders)))

    spent, started = [], time.perf_counter()
    while len(spent) < rounds or time.perf_counter() - started < rounds_s:
        spent.append((*_spent(partial(bare, num_batches)), *_spent(command)))
    shutil.rmtree(clip.with_name(name))
    bare_s, bare_cpu_s, ours_s, ours_cpu_s = map(min, zip(*spent, strict=True))
    return {
        "backbone": name,
        "rounds": len(spent),
        "share_of_bare": bare_s / ours_s,
        "share_of_bare_cpu": bare_cpu_s / ours_cpu_s,
        "pieces_per_s": num_clips * len(plan.pieces) / ours_s,
        "clip_s_per_s": num_clips * CLIP_S / ours_s,
    }


def _spent(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and seconds of processors, that `run` takes."""
    started, cpu_started = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - started, time.process_time() - cpu_started
