"""Copies of a recording in another split, under another name and encoding.

Each clip has a coarse descriptor of its picture and of its sound (loaders/audit/facts.py), each entry
normalised to mean 0 and deviation 1 over the data set. Unrelated clips are then about 1.4 apart (root mean
square over the entries). On the demo set, 14 clips encoded again at CRF 36 and 24 kbit/s and prepared again
are at most 0.12 (picture) and 0.14 (sound) from the first encoding; the closest clips of two persons are 0.40
and 0.83 apart. Copies cut to another length, mirrored or cropped are not found.

Cost: up to 4,096 clips, all pairs across splits are compared. Above, candidates come from an index: 32 tables
of about log2(n) - 2 random hyperplane bits, i.e. n log n sorting and one comparison per collision. 100,000
clips take minutes, most of it for measuring.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.evaluation.metrics import Rows

Points = npt.NDArray[np.float32]  # (n, d) descriptors

MAX_PICTURE_DISTANCE = 0.22
MAX_SOUND_DISTANCE = 0.35
MIN_DEVIATION = 2.0  # grey levels or dB; smaller differences between clips are encoder noise
COMPARE_ALL_UP_TO = 4096  # clips
NUM_TABLES = 32
MAX_CANDIDATES = 20_000_000  # per table; codes shared by too many clips are skipped and counted
CHUNK = 1 << 15


@dataclass(frozen=True)
class Matches:
    """Pairs of rows in different splits that are within the distance, closest first."""

    pairs: Rows  # (P, 2)
    distances: npt.NDArray[np.floating[Any]]  # (P,)
    num_compared: int
    num_passed_over: int  # candidates that were not compared because there were too many


def standardize(descriptors: Points) -> Points:
    """(n, d) with mean 0 and deviation 1 per column; columns that hardly vary are not amplified."""
    deviation = np.maximum(descriptors.std(axis=0), MIN_DEVIATION)
    return ((descriptors - descriptors.mean(axis=0)) / deviation).astype(np.float32)


def find_copies(descriptors: Points, splits: Sequence[str], max_distance: float) -> Matches:
    """Pairs of rows of `descriptors` (n, d) within `max_distance` and in different ones of the n `splits`."""
    if len(set(splits)) < 2:
        return Matches(np.zeros((0, 2), np.intp), np.zeros(0), 0, 0)
    points = standardize(np.asarray(descriptors, np.float32))
    rows = [np.flatnonzero(np.asarray(splits) == name) for name in sorted(set(splits))]
    found, passed_over, compared = [], 0, 0
    if len(points) <= COMPARE_ALL_UP_TO:
        for first, second in itertools.combinations(rows, 2):
            compared += len(first) * len(second)
            found.append(_compare_all(points, first, second, max_distance))
    else:
        for codes in _hash_tables(points):
            for first, second in itertools.combinations(rows, 2):
                candidates, too_many = _same_code(codes, first, second)
                passed_over += too_many
                compared += len(candidates)
                found.append(_within(points, candidates, max_distance))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    distances = _distances(points, pairs)
    order = np.argsort(distances, kind="stable")
    return Matches(pairs[order], distances[order], compared, passed_over)


def _compare_all(points: Points, first: Rows, second: Rows, limit: float) -> Rows:
    """Pairs (P, 2) of `first` x `second` within the limit, preselected by a matrix product."""
    norms = (points**2).mean(axis=1)
    products = points[first] @ points[second].T / points.shape[1]
    squares = norms[first][:, None] + norms[second][None] - 2 * products
    near = np.argwhere(squares <= limit**2 + 1e-3)
    return _within(points, np.stack([first[near[:, 0]], second[near[:, 1]]], axis=1), limit)


def _hash_tables(points: Points) -> npt.NDArray[np.int64]:
    """(NUM_TABLES, n) codes: the sides of random planes through the origin on which a point lies."""
    num_bits = int(np.clip(np.log2(len(points)) - 2, 8, 20))
    planes = np.random.default_rng(0).standard_normal((NUM_TABLES, points.shape[1], num_bits), np.float32)
    weights = 1 << np.arange(num_bits, dtype=np.int64)
    return np.stack([(points @ plane > 0) @ weights for plane in planes])


def _same_code(codes: npt.NDArray[np.int64], first: Rows, second: Rows) -> tuple[Rows, int]:
    """Pairs (P, 2) of `first` x `second` with equal codes, and the number of pairs left out as too many."""
    second = second[np.argsort(codes[second], kind="stable")]
    low = np.searchsorted(codes[second], codes[first], "left")
    counts = np.searchsorted(codes[second], codes[first], "right") - low
    order = np.argsort(counts, kind="stable")  # rarest codes first: they are the most informative
    kept = order[: int(np.searchsorted(np.cumsum(counts[order]), MAX_CANDIDATES, "right"))]
    repeats = counts[kept]
    offsets = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    partners = second[np.repeat(low[kept], repeats) + offsets]
    return np.stack([np.repeat(first[kept], repeats), partners], axis=1), int(counts.sum() - repeats.sum())


def _distances(points: Points, pairs: Rows) -> npt.NDArray[np.floating[Any]]:
    """(P,) root mean square difference of each pair, computed in chunks."""
    parts = [
        np.sqrt(((points[part[:, 0]] - points[part[:, 1]]) ** 2).mean(axis=1))
        for part in np.split(pairs, range(CHUNK, len(pairs), CHUNK))
    ]
    return np.concatenate(parts)


def _within(points: Points, pairs: Rows, limit: float) -> Rows:
    return pairs[_distances(points, pairs) <= limit]
