"""Judging a face with a window from every frame on, against the naive way: frames a second, scores, memory.

The naive way takes each window by itself: its 16 frames are read from the file, OpenCV aligns each of them by
the window's fit, and the network sees a batch of one. Ours is what test.py --video does with a face that has
been found. Both read the same crop in the same process, in turn; of several rounds the fastest of each
counts. The bare network has its inputs ready, alone or in a batch: what is left of a way's time is what
surrounds it. Weights are random, large enough for windows to have scores of their own.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.windows import WindowStart
from models.blocks.alignment import FACE_MESH, template
from models.judging.batches import batch_size_for, batches_of
from models.judging.config import JudgeConfig
from models.judging.detector import LoadedDetector
from models.m2sd.config import CLIP, M2SDConfig
from models.m2sd.detector import M2SDDetector
from models.m2sd.front_end import MEAN, STD
from preprocess.clip.all_faces import TrackClip
from tests.benchmarks.loader import FPS, write_clip
from tests.benchmarks.processes import in_new_process, peak_mb
from utils.clip.files import CROP_SIZE, LANDMARKS_NAME, VIDEO_NAME
from utils.clip.frames import read_frames
from utils.run.device import exact_float32

CLIP_FRAMES = 16
SIDE = 224  # of what OpenCV writes, as in the published code
TEMPLATE = template(SIDE).numpy()
# name, fields of M2SDConfig, frames that are judged
NETWORKS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("tiny at 64", {"vit": "tiny", "image_size": 64}, 250),
    ("tiny at 64, unaligned", {"vit": "tiny", "image_size": 64, "align": False}, 250),
    ("small at 112", {"vit": "small", "image_size": 112}, 40),
)
QUICK: dict[str, Any] = {"networks": ((*NETWORKS[0][:2], 50),), "rounds": 1, "lengths_s": (2, 4)}


def measure(
    scratch: Path,
    device: str,
    *,
    networks: Any = NETWORKS,
    rounds: int = 3,
    lengths_s: tuple[int, ...] = (10, 60),
) -> dict[str, Any]:
    """A row per network, and peaks of processes that judge a short and a long clip with the first of them."""
    folder = write_face(scratch / "clip", max(lengths_s))
    rows = [compare(folder, *network, device, rounds) for network in networks]
    figures: dict[str, Any] = {"networks": rows, "tiny_ratio": rows[0]["ratio"]}
    for seconds in lengths_s:
        peak = in_new_process(measure_peak, folder, networks[0][1], seconds * FPS, device)
        figures[f"peak_mb_{seconds}s"] = peak
    return figures


def write_face(folder: Path, seconds: int) -> Path:
    """A clip folder with a moving, grainy face, whose five points turn and drift and tremble."""
    write_clip(folder, seconds)
    rng, count = np.random.default_rng(1), seconds * FPS
    turn = 0.15 * np.sin(np.arange(count) / 20)
    drift = np.stack([12 * np.sin(np.arange(count) / 31), 8 * np.cos(np.arange(count) / 17)], axis=1)
    cosine, sine = np.cos(turn), np.sin(turn)
    rows = np.stack([np.stack([cosine, -sine], 1), np.stack([sine, cosine], 1)], 1)  # (T, 2, 2)
    points = 0.8 * (TEMPLATE - SIDE / 2) @ rows.transpose(0, 2, 1) + SIDE / 2 + drift[:, None]
    points += rng.normal(0, 0.7, points.shape)
    landmarks = np.load(folder / LANDMARKS_NAME)
    for place, numbers in enumerate(FACE_MESH):
        landmarks[:, list(numbers)] = points[:, place, None] / CROP_SIZE
    np.save(folder / LANDMARKS_NAME, landmarks)
    return folder


def make_model(config: dict[str, Any], device: str) -> M2SDDetector:
    """A model in evaluation mode, whose matrices keep the size of what they are given."""
    generator = torch.Generator().manual_seed(0)
    model = M2SDDetector(M2SDConfig(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                values = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(values / math.sqrt(parameter[0].numel()))
    return model.to(device).eval()


def fit(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(2, 3) from places of the frames to those of the template, by all `points` (T, 5, 2) of a window."""
    x, y = np.tile(TEMPLATE, (len(points), 1)).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.concatenate([np.stack([x, y, one, zero], 1), np.stack([y, -x, zero, one], 1)])
    u, v = points.reshape(-1, 2).T
    a, b, right, down = np.linalg.lstsq(rows, np.concatenate([u, v]), rcond=None)[0]
    return np.asarray(cv2.invertAffineTransform(np.array([[a, b, right], [-b, a, down]])))


def naive_frames(model: M2SDDetector, folder: Path, num_frames: int) -> Iterator[npt.NDArray[np.uint8]]:
    """(16, H, W, 3) of one window after the other, aligned."""
    landmarks = np.load(folder / LANDMARKS_NAME)
    for start in range(num_frames - CLIP_FRAMES + 1):
        numbers = np.arange(start, start + CLIP_FRAMES)
        frames = read_frames(folder / VIDEO_NAME, numbers)
        if model.config.align:
            shown = landmarks[numbers].astype(np.float64) * CROP_SIZE
            matrix = fit(np.stack([shown[:, list(mesh)].mean(axis=1) for mesh in FACE_MESH], axis=1))
            frames = np.stack([cv2.warpAffine(frame, matrix, (SIDE, SIDE)) for frame in frames])
        yield frames


def naive_inputs(model: M2SDDetector, folder: Path, num_frames: int, device: str) -> Iterator[Tensor]:
    """(1, 3, 16, S, S) normalised, of one window after the other."""
    size = model.config.image_size
    mean, std = (torch.tensor(values, device=device)[:, None, None, None] for values in (MEAN, STD))
    for frames in naive_frames(model, folder, num_frames):
        pictures = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float()
        if size != SIDE:
            pictures = F.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)
        yield ((pictures.transpose(0, 1) / 255 - mean) / std)[None]


def network(model: M2SDDetector, video: Tensor) -> list[float]:
    """Logits of normalised clips."""
    with torch.no_grad(), exact_float32():
        scores = model.head(model.vit(video)[:, 0])
        logits: list[float] = (scores[:, 0] - scores[:, 1]).tolist()
    return logits


def judge_naively(model: M2SDDetector, folder: Path, num_frames: int, device: str) -> npt.NDArray[np.float64]:
    """Logits of all windows of the first frames."""
    return np.array([network(model, v)[0] for v in naive_inputs(model, folder, num_frames, device)])


def detector_of(
    model: M2SDDetector, folder: Path, num_frames: int, device: str
) -> tuple[LoadedDetector, TrackClip]:
    """Ours, and a face that it has found."""
    boxes, seen = np.full((num_frames, 3), float(CROP_SIZE)), np.ones(num_frames, bool)
    track = TrackClip(folder=folder, first_frame=0, num_frames=num_frames, face_boxes=boxes, has_face=seen)
    return LoadedDetector(model, DataConfig(**CLIP), None, device=torch.device(device)), track


def judge(
    model: M2SDDetector, folder: Path, num_frames: int, device: str, stride: int = 1
) -> npt.NDArray[np.float64]:
    """The same by models/judging, without its maps; a window every `stride` frames."""
    detector, track = detector_of(model, folder, num_frames, device)
    video: Any = SimpleNamespace(fps=Fraction(FPS), silent=True)
    config = JudgeConfig(stride_s=stride / FPS, explain=False)
    return detector._judge_face(track, video, config, "", []).window_logits


def read(model: M2SDDetector, folder: Path, num_frames: int, device: str) -> None:
    """What `judge` does before a batch goes to the device."""
    detector, track = detector_of(model, folder, num_frames, device)
    dataset, collate = detector._windows_of(track), Collate(FPS)
    windows = (dataset[0, WindowStart(start)] for start in range(num_frames - CLIP_FRAMES + 1))
    for taken in batches_of(windows, batch_size_for(detector.data, detector.inputs)):
        collate(taken)


def compare(
    folder: Path, name: str, config: dict[str, Any], num_frames: int, device: str, rounds: int
) -> dict[str, Any]:
    """Frames a second of both ways and of the bare network, and how far their scores are apart.

    `cpu_ratio` is of the process's CPU seconds, which other work on the machine moves less. `read_ratio` is
    of what has to be done on a CPU even where a GPU aligns and scores.
    """
    model, where = make_model(config, device), (folder, num_frames)
    expected, found = (way(model, *where, device) for way in (judge_naively, judge))
    probs = [1 / (1 + np.exp(-logits)) for logits in (expected, found)]
    ready = list(itertools.islice(naive_inputs(model, *where, device), 8))
    together, scale = torch.cat(ready), len(expected) / len(ready)
    ways: dict[str, Callable[[], object]] = {
        "naive": lambda: judge_naively(model, *where, device),
        "ours": lambda: judge(model, *where, device),
        "naive_read": lambda: list(map(len, naive_frames(model, *where))),
        "read": lambda: read(model, *where, device),
        "alone": lambda: [network(model, video) for video in ready],
        "batch": lambda: network(model, together),
    }
    spent = [{way: _spent(run) for way, run in ways.items()} for _ in range(rounds)]
    wall, cpu = ({way: min(each[way][clock] for each in spent) for way in ways} for clock in (0, 1))
    return {
        "network": name,
        "ratio": wall["naive"] / wall["ours"],
        "cpu_ratio": cpu["naive"] / cpu["ours"],
        "read_ratio": cpu["naive_read"] / cpu["read"],
        "naive_frames_per_s": num_frames / wall["naive"],
        "frames_per_s": num_frames / wall["ours"],
        "score_difference": float(np.abs(probs[0] - probs[1]).max()),
        "score_spread": float(probs[0].std()),
        "naive_network_share": scale * wall["alone"] / wall["naive"],
        "network_share": scale * wall["batch"] / wall["ours"],
    }


def _spent(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall's clock and of the CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure_peak(folder: Path, config: dict[str, Any], num_frames: int, device: str) -> float:
    """Peak memory of a process that judges a window every 8 frames, in MB."""
    judge(make_model(config, device), folder, num_frames, device, stride=8)
    return peak_mb()
