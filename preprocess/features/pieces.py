"""The pieces of clips that a backbone sees and hears."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from models.backbones.backbone import Backbone, Plan
from preprocess.faces.mouth import Mouths
from preprocess.features.places import opened
from preprocess.work.jobs import CLIP_FILES, Job
from preprocess.work.stores import StoreError
from utils.clip.features import FeatureInfo, open_rows, read_info
from utils.clip.files import (
    CROP_SIZE,
    LANDMARKS_NAME,
    VIDEO_NAME,
    find_audio,
    open_landmarks,
    read_info_values,
)
from utils.clip.frames import Crop, open_crop
from utils.clip.sound import read_waveform
from utils.errors import ClipError, UsageError
from utils.files import file_sha256

FRAMES_AT_ONCE = 256  # decoded at a time, at most


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
    failure: str | None  # why it cannot be read


class ClipPieces(IterableDataset[Any]):
    """The pieces of all clips in chunks, or why a clip is passed over.

    `part`: (k, n) for every n-th clip from number k on; a DataLoader's workers share the clips by themselves.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        backbone: Backbone,
        like: FeatureInfo,
        name: str,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.jobs, self.backbone, self.like, self.name, self.part = jobs, backbone, like, name, part

    def __iter__(self) -> Iterator[Chunk | Skipped]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else self.part
        for index in range(start, len(self.jobs), step):
            job = self.jobs[index]
            folder: Path | None = job.folder
            try:
                with opened(job, self.backbone, self.name, self.like) as folder:
                    yield from self._chunks(index, folder) if folder else [Skipped(index, None)]
                    continue
            except ClipError as error:
                # the job's name says which clip it is, but not which of its files
                inside = error.path.name in CLIP_FILES
                reason = f"{error.path.name}: {error.reason}" if inside else error.reason
            except (StoreError, OSError) as error:
                reason = str(error)
            yield Skipped(index, reason.replace(f"{folder}/", ""))  # which may be temporary

    def _chunks(self, index: int, folder: Path) -> Iterator[Chunk | Skipped]:
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
    yield [path], plan, lambda numbers: [_cut(samples, backbone, plan.pieces[numbers, 0])]


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
            heard = [_cut(samples, backbone, numbers * step) for samples in waveforms]
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


def _cut(
    samples: npt.NDArray[np.float32], backbone: Backbone, starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(P, N): the backbone's N samples from each of the starts (P,), with its `after_end` after the end."""
    pieces = np.full((len(starts), backbone.piece_samples), backbone.after_end, np.float32)
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
