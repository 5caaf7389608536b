"""Single frames: training and scoring `exposing_deception`, against its bare network and the released path.

    python -m tests.benchmarks frames                           # ResNet-34 on a CPU: minutes
    measure(scratch, "cuda")                                    # batches of 32 clips

Three comparisons, all on the pictures of one prepared clip, on a CPU with one worker process. Workers make
one batch ahead, so that as many batches are loaded in a measured stretch as are used in it:

- training and scoring, `--frames_per_clip` from prepared clips, with `corrected` changes and mixup on the
  device, against the same network on normalised pictures that are on the device already
- the data path alone, up to changed and normalised pictures, against the released one (released_frames.py)
- the eight changes alone, on the device, against albumentations on one core

Of several runs the fastest counts, since other work on the machine only ever adds to it; of the changes,
which differ from run to run, the median. A share of the bare network is its time over ours.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader, training_loader
from losses.exposing_deception import ExposingLoss, ExposingLossConfig
from models.exposing_deception.config import ExposingConfig
from models.exposing_deception.detector import ExposingDetector
from models.exposing_deception.pictures import PictureFrontEnd
from models.method import LoaderNeeds, needs_of
from tests.benchmarks.loader import FPS, pack_clips, write_clip
from tests.benchmarks.released_frames import (
    HOW_TO_INSTALL,
    has_albumentations,
    png_loader,
    published_changes,
)
from tests.benchmarks.train import Trainer, finish
from tests.clip_factory import make_batch, make_clip
from utils.clip.files import VIDEO_NAME
from utils.clip.frames import read_frames
from utils.clip_type import Clip
from utils.evaluation.scoring import evaluate
from utils.run.device import resolve_precision
from utils.run.training import WaitingTime
from utils.types import ClipBatch

SETTLE_S = 2.0  # in which a worker makes the batch that it was asked for last


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured, and how often."""

    backbone: str = "resnet34"
    num_libs: int = 2
    image_size: int = 224
    batch_size: int = 2  # clips
    num_frames: int = 8  # of each clip
    num_workers: int = 1  # of training and scoring, -1 = from the cores; the data paths have one
    rounds: int = 4
    steps: int = 1  # of training in a round
    score_batches: int = 2
    data_batches: int = 6
    num_pictures: int = 64  # in a batch of the changes alone
    repeats: int = 7  # of the changes
    clip_s: int = 10

    @property
    def batch_pictures(self) -> int:
        """Pictures in a batch."""
        return self.batch_size * self.num_frames


GPU_SIZES = {"batch_size": 32, "num_workers": -1, "steps": 20, "score_batches": 10}
QUICK_SIZES = {
    "backbone": "mobilenet_v1", "image_size": 64, "steps": 5, "num_pictures": 16, "repeats": 3, "clip_s": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """The same clip three times, and its frames as (T, 224, 224, 3) uint8 RGB."""

    prepared: Path
    packed: Path  # with decoded frames
    pngs: tuple[Path, ...]
    frames: np.ndarray


class Resident(nn.Module):
    """In place of the front end of pictures: some that are on the device and normalised already."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.pictures = pictures

    def forward(self, frames: Tensor) -> Tensor:
        return self.pictures


def write_sources(scratch: Path, sizes: Sizes) -> Sources:
    """A grainy clip of `clip_s` seconds, prepared, packed, and as PNG crops."""
    prepared = write_clip(scratch / "prepared" / "real" / "clip", sizes.clip_s)
    packed = pack_clips(scratch / "prepared", scratch / "packed", "rgb") / "real" / "clip"
    frames = read_frames(prepared / VIDEO_NAME, np.arange(sizes.clip_s * FPS))
    folder = scratch / "pngs"
    folder.mkdir()
    pngs = tuple(folder / f"{number:05d}.png" for number in range(len(frames)))
    for path, frame in zip(pngs, frames, strict=True):
        cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return Sources(prepared, packed, pngs, frames)


def clips_of(folder: Path, count: int, frames: tuple[str, ...] | None = None) -> list[Clip]:
    """The clip in a folder as `count` clips, real and fake in turn."""
    return [
        make_clip(folder, clip_id=f"test/{n}", label=n % 2, video_label=n % 2, frames=frames)
        for n in range(count)
    ]


def training_batches(
    folder: Path,
    sizes: Sizes,
    num_batches: int,
    *,
    frames: tuple[str, ...] | None = None,
    workers: int = 1,
) -> Iterator[ClipBatch]:
    """`num_batches` of a training's batches, from the project's loader."""
    clips = clips_of(folder, num_batches * sizes.batch_size, frames)
    data, config = DataConfig(frames_per_clip=sizes.num_frames), worker_config(sizes, workers)
    loader, _ = training_loader(clips, data, config, balance="none", seed=0, **needs())
    return iter(loader)


def worker_config(sizes: Sizes, workers: int) -> WorkerConfig:
    """Each worker makes one batch ahead: when a batch is taken, the making of another one starts."""
    return WorkerConfig(batch_size=sizes.batch_size, num_workers=workers, prefetch_factor=1)


def needs() -> LoaderNeeds:
    return needs_of(ExposingDetector, ExposingConfig())


def make_detector(sizes: Sizes, *, bare_on: torch.device | None = None) -> ExposingDetector:
    """The detector, or on `bare_on` its bare network: without front end and mixup."""
    torch.manual_seed(0)
    network = {"backbone": sizes.backbone, "num_libs": sizes.num_libs, "image_size": sizes.image_size}
    detector = ExposingDetector(ExposingConfig(**network, mixup=bare_on is None))
    if bare_on is not None:
        shape = sizes.batch_pictures, 3, sizes.image_size, sizes.image_size
        detector.pictures = Resident(torch.randn(shape, device=bare_on))
    return detector


def resident_batch(sizes: Sizes, device: torch.device) -> ClipBatch:
    """Labels and masks for the bare network, which does not look at the frames."""
    batch = make_batch(sizes.batch_size, sizes.num_frames, size=2)
    return dataclasses.replace(batch, spread_frames=True).to(device)


def measure_training(sources: Sources, device: torch.device, precision: str, sizes: Sizes) -> dict[str, Any]:
    """Pictures a second of training steps, and of the bare network's, in turn; `data_wait_share` is the share
    of the time in which training waits for its loader.
    """
    criterion = ExposingLossConfig()
    ours, bare = (
        Trainer(device, precision, make_detector(sizes, bare_on=bare_on), ExposingLoss(criterion))
        for bare_on in (None, device)
    )
    resident = resident_batch(sizes, device)
    num_batches = sizes.rounds * (1 + sizes.steps)
    waiting = WaitingTime(training_batches(sources.prepared, sizes, num_batches, workers=sizes.num_workers))
    batches = iter(waiting)
    bare_s, ours_s, waited_s = [], [], []
    for _ in range(sizes.rounds):
        time.sleep(SETTLE_S)
        start = time.perf_counter()
        for _ in range(sizes.steps):
            bare(resident)
        finish(device)
        bare_s.append((time.perf_counter() - start) / sizes.steps)
        batch, waited = next(batches), waiting.seconds
        start = time.perf_counter()
        for _ in range(sizes.steps):
            ours(batch)
            batch = next(batches)
        finish(device)
        ours_s.append((time.perf_counter() - start) / sizes.steps)
        waited_s.append((waiting.seconds - waited) / sizes.steps)
    return {
        "train_images_per_s": sizes.batch_pictures / min(ours_s),
        "train_bare_images_per_s": sizes.batch_pictures / min(bare_s),
        "train_share_of_bare": min(bare_s) / min(ours_s),
        "data_wait_share": sum(waited_s) / sum(ours_s),
    }


def measure_scoring(sources: Sources, device: torch.device, precision: str, sizes: Sizes) -> dict[str, Any]:
    """Pictures a second of utils.evaluation.scoring.evaluate, and of its bare network, in turn."""
    ours, bare = (make_detector(sizes, bare_on=bare_on).to(device) for bare_on in (None, device))
    clips = clips_of(sources.prepared, sizes.score_batches * sizes.batch_size)
    data = DataConfig(frames_per_clip=sizes.num_frames)
    config = worker_config(sizes, sizes.num_workers)
    loader = evaluation_loader(clips, data, config, **needs())
    resident = [resident_batch(sizes, device)] * sizes.score_batches
    score = functools.partial(evaluate, device=device, precision=precision)
    bare_s, ours_s = [], []
    for _ in range(sizes.rounds):
        bare_s.append(_seconds(lambda: score(bare, resident)))
        ours_s.append(_seconds(lambda: score(ours, loader)))
    num_pictures = sizes.score_batches * sizes.batch_pictures
    return {
        "score_images_per_s": num_pictures / min(ours_s),
        "score_bare_images_per_s": num_pictures / min(bare_s),
        "score_share_of_bare": min(bare_s) / min(ours_s),
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_data(sources: Sources, device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Pictures a second of our data path and of the released one, and of our loader alone: from the clip
    folder, from a pack of decoded frames, and from the released path's PNG files.
    """
    front_end = new_front_end(sizes, device)
    num_batches = sizes.rounds * (1 + sizes.data_batches)
    folder, names = sources.pngs[0].parent, tuple(path.name for path in sources.pngs)

    def best_rate(batches: Iterator[Any], use: Callable[[Any], object]) -> float:
        rounds = []
        for _ in range(sizes.rounds):
            batch = next(batches)
            start = time.perf_counter()
            for _ in range(sizes.data_batches):
                use(batch)
                batch = next(batches)
            finish(device)
            rounds.append(time.perf_counter() - start)
        return sizes.data_batches * sizes.batch_pictures / min(rounds)

    def look_at(batch: ClipBatch) -> None:
        front_end(batch.video.to(device, non_blocking=True).transpose(1, 2).flatten(0, 1))

    def rest(batch: ClipBatch) -> None:
        return None

    of_clip = best_rate(training_batches(sources.prepared, sizes, num_batches), rest)
    packed = best_rate(training_batches(sources.packed, sizes, num_batches), rest)
    png = best_rate(training_batches(folder, sizes, num_batches, frames=names), rest)
    ours = best_rate(training_batches(sources.prepared, sizes, num_batches), look_at)
    released = None
    if has_albumentations():
        wanted = num_batches * sizes.batch_pictures
        paths = (sources.pngs * (wanted // len(sources.pngs) + 1))[:wanted]
        batches = iter(png_loader(paths, sizes.image_size, sizes.batch_pictures))
        released = best_rate(batches, lambda batch: batch[0].to(device, non_blocking=True))
    return {
        "loader_images_per_s": of_clip,
        "loader_packed_images_per_s": packed,
        "loader_png_images_per_s": png,
        "data_images_per_s": ours,
        "released_data_images_per_s": released,
        "data_ratio": ours / released if released else None,
    }


def new_front_end(sizes: Sizes, device: torch.device) -> PictureFrontEnd:
    """What changes and normalises a training's pictures."""
    return PictureFrontEnd(sizes.image_size, "rgb", "corrected").to(device).train()


def measure_changes(sources: Sources, device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Pictures a second of the eight changes: ours on the device, normalisation included, and on a CPU also
    on one core; albumentations' on one core. `step_changes_s` is how long a training step's pictures take.
    """
    front_end, side = new_front_end(sizes, device), (sizes.image_size, sizes.image_size)
    places = np.linspace(0, len(sources.frames) - 1, sizes.num_pictures).astype(int)
    pictures = [cv2.resize(sources.frames[place], side) for place in places]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(device)

    def ours(some: Tensor) -> None:
        front_end(some)
        finish(device)

    def median_s(run: Callable[[], object]) -> float:
        run()
        return statistics.median(_seconds(run) for _ in range(sizes.repeats))

    on_device = sizes.num_pictures / median_s(lambda: ours(batch))
    few = batch.repeat(sizes.batch_pictures // sizes.num_pictures + 1, 1, 1, 1)[: sizes.batch_pictures]
    step_s = median_s(lambda: ours(few))
    num_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    one_core = sizes.num_pictures / median_s(lambda: ours(batch)) if device.type == "cpu" else None
    theirs = None
    if has_albumentations():
        changes = published_changes(sizes.image_size)
        theirs = sizes.num_pictures / median_s(lambda: [changes(image=picture) for picture in pictures])
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(cv2_threads)
    return {
        "changes_images_per_s": on_device,
        "changes_one_core_images_per_s": one_core,
        "albumentations_images_per_s": theirs,
        "changes_ratio": on_device / theirs if theirs else None,
        "step_changes_s": step_s,
    }


def measure(scratch: Path, device: str = "cpu", **changes: Any) -> dict[str, Any]:
    """All figures; `changes` of the Sizes. `changes_share` is the share of a training step's time that the
    eight changes take on the device. What needs albumentations is None without it.
    """
    # workers are forked, as by train.py: a process that was itself spawned would spawn them
    multiprocessing.set_start_method("fork", force=True)
    where = torch.device(device)
    on_gpu = where.type == "cuda"
    sizes = Sizes(**(GPU_SIZES if on_gpu else {}) | changes)
    precision = resolve_precision("auto", where)
    sources = write_sources(scratch, sizes)
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(where) if on_gpu else "cpu",
        "load_average": os.getloadavg()[0],
        "precision": precision,
        "network": f"{sizes.num_libs} x {sizes.backbone}, {sizes.image_size} px",
        "batch_images": sizes.batch_pictures,
    }
    if not has_albumentations():
        figures["note"] = HOW_TO_INSTALL
    figures |= measure_changes(sources, where, sizes)
    figures |= measure_data(sources, where, sizes)
    figures |= measure_training(sources, where, precision, sizes)
    step_s = sizes.batch_pictures / figures["train_images_per_s"]
    figures["changes_share"] = figures.pop("step_changes_s") / step_s
    return figures | measure_scoring(sources, where, precision, sizes)
