"""Features of a frozen backbone for prepared clips, computed once and loaded instead of the signals.

    python -m preprocess.extract_features --data_root prepared --backbone marlin_small --weights_dir weights
    torchrun --nproc_per_node 4 -m preprocess.extract_features --data_root prepared --backbone ...   # 4 GPUs

Every clip folder gets features/BACKBONE.npy, (S, D) float32, and features/BACKBONE.json: which seconds a row
belongs to, the settings, and checksums of the weights and of the files that were read. preprocess.verify
checks them, preprocess.pack packs them, and a clip that is prepared again loses them.

Weights are not downloaded: a missing file is an error that says where it comes from and under which licence.
After an interruption, call it again: features that fit the flags, the weights and the clip stay. Machines
take a --shard each (1/16, 2/16, ...). DATA_ROOT/features_failures.csv lists the clips that cannot be read;
the exit status is then 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from models.backbones.backbone import Backbone, Encoder, Plan
from models.backbones.menu import BACKBONES
from preprocess.faces.mouth import Mouths
from preprocess.work.batch import FolderConfig, WorkConfig, clip_folders
from preprocess.work.jobs import PARTIAL_NAME
from preprocess.work.progress import failures_csv
from preprocess.work.workers import lock_partial
from utils.checkpoint.foreign import read_foreign_weights
from utils.clip.features import FeatureInfo, open_rows, read_info, write_features
from utils.clip.files import (
    CROP_SIZE,
    LANDMARKS_NAME,
    VIDEO_NAME,
    find_audio,
    open_landmarks,
    read_info_values,
)
from utils.clip.frames import Crop, open_crop
from utils.clip.packed import FEATURES
from utils.clip.sound import read_waveform
from utils.config import opt, parse_groups, require_at_least
from utils.errors import ClipError, UsageError, run_command
from utils.files import file_sha256, write_atomically
from utils.run.device import (
    autocast,
    device_flag,
    exact_float32,
    resolve_device,
)
from utils.run.distributed import launched

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16")
RANDOM_SEED = 0
RANDOM_WEIGHTS = "random"
FRAMES_AT_ONCE = 256  # decoded at a time, at most


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """python -m preprocess.extract_features"""

    backbone: str = opt(dataclasses.MISSING, "the encoder", choices=sorted(BACKBONES))
    weights_dir: Path | None = opt(None, "folder of the published files of weights")
    random_weights: bool = opt(False, "instead: untrained weights, always the same; to try the software")
    device: str = device_flag()
    precision: str = opt(
        "fp32", "bf16: faster on devices that compute it, off by up to 1 %", choices=PRECISIONS
    )
    batch_size: int = opt(0, "pieces computed at a time, windows, frames or seconds; 0: the backbone's own")
    num_workers: int = opt(-1, "processes that read ahead; -1: four on a GPU, none on a CPU")
    shard: str = opt("1/1", "k/n: take only every n-th clip, starting with the k-th, on this machine")

    def __post_init__(self) -> None:
        require_at_least(self, 0, "batch_size")
        require_at_least(self, -1, "num_workers")
        if self.random_weights == (self.weights_dir is not None):
            raise ValueError("give either --weights_dir, or --random_weights for untrained ones")
        WorkConfig(shard=self.shard)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of a clip's pieces, from number `first` on, as the backbone takes them."""

    index: int  # of the clip
    plan: Plan
    info: FeatureInfo
    first: int
    inputs: tuple[Tensor, ...]  # of the encoder, (P, ...) each


@dataclass(frozen=True, slots=True)
class Skipped:
    """A clip that is finished already, or cannot be read."""

    index: int
    failure: tuple[str, str] | None  # path, reason


class ClipPieces(IterableDataset[Any]):
    """The pieces of all clips in chunks, or why a clip is passed over."""

    def __init__(self, folders: list[Path], backbone: Backbone, like: FeatureInfo, name: str) -> None:
        self.folders, self.backbone, self.like, self.name = folders, backbone, like, name

    def __iter__(self) -> Iterator[Chunk | Skipped]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(start, len(self.folders), step):
            try:
                yield from self._chunks(index)
            except (ClipError, OSError) as error:
                path = error.path if isinstance(error, ClipError) else self.folders[index]
                yield Skipped(index, (str(path), getattr(error, "reason", str(error))))

    def _chunks(self, index: int) -> Iterator[Chunk | Skipped]:
        folder = self.folders[index]
        hears, mouth = self.backbone.sample_rate_hz > 0, self.backbone.mouth
        open_pieces = _open_mouths if mouth else _open_sound if hears else _open_faces
        with open_pieces(folder, self.backbone) as (sources, plan, read):
            digests = {source.name: _checksum(folder, source) for source in sources}
            info = dataclasses.replace(
                self.like, source=sources[0].name, source_sha256=digests.pop(sources[0].name),
                more_sources=digests, step_s=str(plan.step_s), length_s=str(plan.length_s),
            )  # fmt: skip
            if _is_current(folder, self.name, info, plan.num_rows):
                yield Skipped(index, None)
                return
            at_once = max(1, FRAMES_AT_ONCE // plan.pieces.shape[1])
            for first in range(0, len(plan.pieces), at_once):
                numbers = np.arange(first, min(first + at_once, len(plan.pieces)))
                inputs = read(numbers)
                if self.backbone.rows_of_piece:
                    inputs.append(plan.num_rows - numbers * self.backbone.rows_of_piece)
                yield Chunk(index, plan, info, first, tuple(map(torch.from_numpy, inputs)))


# a reader of some of a clip's pieces, by their numbers: (P, ...) for each of the encoder's inputs
Reader = Callable[[npt.NDArray[np.int64]], list[npt.NDArray[Any]]]
# the files of a clip that a backbone reads, the plan for it, and a reader of its pieces
Opened = Iterator[tuple[list[Path], Plan, Reader]]


@contextlib.contextmanager
def _open_sound(folder: Path, backbone: Backbone) -> Opened:
    path = find_audio(folder)
    samples = read_waveform(path, backbone.sample_rate_hz)
    plan = backbone.plan(Fraction(backbone.sample_rate_hz), len(samples))
    yield [path], plan, lambda numbers: [_seconds(samples, backbone.piece_samples, plan.pieces[numbers, 0])]


@contextlib.contextmanager
def _open_faces(folder: Path, backbone: Backbone) -> Opened:
    path = folder / VIDEO_NAME
    with open_crop(path) as crop:
        plan = backbone.plan(crop.fps, crop.num_frames or len(open_landmarks(folder)))
        yield [path], plan, lambda numbers: [_frames(crop, plan.pieces[numbers], _whole)]


@contextlib.contextmanager
def _open_mouths(folder: Path, backbone: Backbone) -> Opened:
    """With the sound of the same seconds, if the backbone hears it."""
    path, rate = folder / VIDEO_NAME, backbone.sample_rate_hz
    mouths = Mouths(folder)
    sounds = [find_audio(folder)] if rate else []
    waveforms = [read_waveform(sound, rate) for sound in sounds]
    with open_crop(path) as crop:
        if crop.num_frames not in (0, len(mouths)):
            what = f"{len(mouths)} landmark frames for {crop.num_frames} video frames; prepare it again"
            raise ClipError(folder, what)
        plan = backbone.plan(crop.fps, len(mouths))
        step = int(plan.step_s * backbone.rows_of_piece * rate)  # samples from a piece to the next one

        def read(numbers: npt.NDArray[np.int64]) -> list[npt.NDArray[Any]]:
            heard = [_seconds(samples, backbone.piece_samples, numbers * step) for samples in waveforms]
            return [_frames(crop, plan.pieces[numbers], mouths.cut), *heard]

        yield [path, folder / LANDMARKS_NAME, *sounds], plan, read


def _frames(
    crop: Crop,
    numbers: npt.NDArray[np.int64],
    prepare: Callable[[npt.NDArray[np.int64], npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
) -> npt.NDArray[np.uint8]:
    """(P, n, ...) of the frames with the numbers (P, n): what `prepare` makes of numbers and pictures."""
    if crop.is_equalized:
        raise UsageError("these clips are packed equalised, which no backbone takes; use the prepared clips")
    wanted, places = np.unique(numbers, return_inverse=True)
    prepared = prepare(wanted, crop.read(wanted))
    taken: npt.NDArray[np.uint8] = prepared[places.reshape(numbers.shape)]
    return taken


def _whole(_: npt.NDArray[np.int64], images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(n, 224, 224, 3)."""
    if images.shape[1:3] == (CROP_SIZE, CROP_SIZE):
        return images
    import cv2  # another tool's: a batch has one size

    size = CROP_SIZE, CROP_SIZE
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])


def _seconds(
    samples: npt.NDArray[np.float32], length: int, starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(P, N): N = `length` samples from each of the starts (P,), with silence after the end."""
    pieces = np.zeros((len(starts), length), np.float32)
    for row, start in zip(pieces, starts, strict=True):
        found = samples[start : start + len(row)]
        row[: len(found)] = found
    return pieces


def _checksum(folder: Path, source: Path) -> str:
    """The sha256 of a clip's file: what clip.json says, so that a million clips are not read for it."""
    known = read_info_values(folder).get("files", {}).get(source.name)
    return str(known) if known else file_sha256(source)


def _is_current(folder: Path, name: str, info: FeatureInfo, num_rows: int) -> bool:
    """Whether the features are there, whole, and what would be computed."""
    with contextlib.suppress(ClipError):
        return read_info(folder, name).made_like(info) and len(open_rows(folder, name)) == num_rows
    return False


@dataclass
class Results:
    """Rows of the clips that are not complete yet, (P, R, E) of P pieces, and how many pieces they lack."""

    folders: list[Path]
    name: str
    rows: dict[int, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    missing: dict[int, int] = dataclasses.field(default_factory=dict)

    def add(self, chunk: Chunk, place: int, row: npt.NDArray[np.float32]) -> bool:
        """Take the rows (R, E) of a chunk's piece. Writes the clip's features with the last one: True."""
        index, total = chunk.index, len(chunk.plan.pieces)
        rows = self.rows.setdefault(index, np.zeros((total, *row.shape), np.float32))
        rows[chunk.first + place] = row
        self.missing[index] = self.missing.get(index, total) - 1
        if self.missing[index]:
            return False
        if not np.isfinite(rows).all():
            raise UsageError(f"{self.folders[index]}: features are not finite; try --precision fp32")
        clip_rows = rows.reshape(-1, rows.shape[-1])[: chunk.plan.num_rows]
        write_features(self.folders[index], self.name, clip_rows, chunk.info)
        del self.rows[index], self.missing[index]
        return True


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


def make_encoder(config: ExtractConfig) -> tuple[Encoder, str, str]:
    """(encoder, name and sha256 of its weights). Raises UsageError if the file is not there."""
    backbone = BACKBONES[config.backbone]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(RANDOM_SEED)
        encoder = backbone.make().eval()
    if config.weights_dir is None:
        return encoder, RANDOM_WEIGHTS, RANDOM_WEIGHTS
    path = config.weights_dir / backbone.weights.file
    if not path.is_file() and path.with_suffix(".safetensors").is_file():
        path = path.with_suffix(".safetensors")
    if not path.is_file():
        size_mb = sum(value.nbytes for value in encoder.network.state_dict().values()) / 1e6
        raise UsageError(
            f"{path} is missing: get it from {backbone.weights.source} (about {size_mb:.0f} MB, licence "
            f"{backbone.weights.licence}), or try the software with --random_weights"
        )
    encoder.load_published(read_foreign_weights(path), str(path))
    return encoder, path.name, file_sha256(path)


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


def extract(config: ExtractConfig, folders: list[Path], failures: list[tuple[str, str]]) -> tuple[int, int]:
    """Write the features of all clips that lack them; (how many were done, how many were there already)."""
    from tqdm import tqdm

    backbone, device = BACKBONES[config.backbone], resolve_device(config.device)
    encoder, weights, digest = make_encoder(config)
    encoder.to(device)
    size = config.batch_size or backbone.batch_size
    like = FeatureInfo(
        backbone=config.backbone, weights=weights, weights_sha256=digest,
        settings=backbone.settings() | {"precision": config.precision}, source="", source_sha256="",
        step_s="1", length_s="1", rows_sha256="", tools={"torch": torch.__version__},
    )  # fmt: skip
    name = FEATURES + config.backbone
    num_workers = config.num_workers if config.num_workers >= 0 else 4 if device.type == "cuda" else 0
    pieces = ClipPieces(folders, backbone, like, name)
    loader = DataLoader(pieces, batch_size=None, num_workers=num_workers, pin_memory=device.type == "cuda")
    results, done, there = Results(folders, name), 0, 0
    with tqdm(total=len(folders), unit="clip", smoothing=0.05, dynamic_ncols=True) as bar:
        for batch in batches(loader, size):
            finished = 1
            if isinstance(batch, Skipped):
                results.rows.pop(batch.index, None)
                failures += [batch.failure] if batch.failure else []
                there += batch.failure is None
            else:
                rows = encode(encoder, batch, size, device, config.precision)
                finished = sum(results.add(*piece, row) for piece, row in zip(batch, rows, strict=True))
                done += finished
            bar.set_postfix(failed=len(failures), refresh=False)
            bar.update(finished)
    return done, there


def main() -> int:
    config, data = parse_groups(__doc__, ExtractConfig, FolderConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shard, num_shards = WorkConfig(shard=config.shard).shard_numbers()
    if launched():  # each process is a shard of this machine's
        shard += num_shards * int(os.environ["RANK"])
        num_shards *= int(os.environ["WORLD_SIZE"])
    folders = clip_folders(data.data_root)[shard - 1 :: num_shards]
    failures: list[tuple[str, str]] = []
    with lock_partial(data.data_root / PARTIAL_NAME, f"{config.backbone}_{shard}_of_{num_shards}"):
        done, there = extract(config, folders, failures)
    suffix = "" if num_shards == 1 else f"_{shard}_of_{num_shards}"
    table = data.data_root / f"features_failures{suffix}.csv"
    table.unlink(missing_ok=True)
    if failures:
        write_atomically(table, lambda partial: partial.write_bytes(failures_csv(failures)))
    where = f" (see {table})" if failures else ""
    log.info("%d extracted, %d already there, %d failed%s", done, there, len(failures), where)
    return 1 if failures else 0


if __name__ == "__main__":
    run_command(main)
