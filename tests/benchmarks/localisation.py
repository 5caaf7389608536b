"""How long the localisation metric takes on large sets, and how much memory."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tests.benchmarks.processes import peak_mb
from utils.evaluation.localisation import FORMS, LocatedFiles, localisation_intervals, localisation_metrics


def random_files(num_files: int, num_proposals: int) -> LocatedFiles:
    """Files of 8 s at 25 fps with 1 to 3 segments, and proposals that are near to them or anywhere."""
    rng = np.random.default_rng(0)
    labels, proposals = [], []
    for _ in range(num_files):
        starts = np.sort(rng.uniform(0, 7, rng.integers(1, 4)))
        spans = np.stack([starts, starts + rng.uniform(0.2, 1, len(starts))], axis=1)
        near = spans[rng.integers(len(spans), size=num_proposals)] * 25 + rng.normal(0, 4, (num_proposals, 2))
        anywhere = np.sort(rng.uniform(0, 200, (num_proposals, 2)), axis=1)
        ends = np.where(rng.random((num_proposals, 1)) < 0.2, np.sort(near, axis=1), anywhere)
        confidence = np.sort(rng.random(num_proposals))[::-1]
        labels.append(spans.tolist())
        proposals.append(np.column_stack([confidence, ends]).tolist())
    return LocatedFiles.of([f"{i:06d}.mp4" for i in range(num_files)], labels, proposals, 25.0)


def measure(num_files: int = 10_000, num_proposals: int = 100) -> dict[str, Any]:
    """CPU seconds of both forms and of the intervals over 500 persons, and the peak memory of the process."""
    files = random_files(num_files, num_proposals)
    times = [time.process_time()]
    for form in FORMS:
        localisation_metrics(files, form)
    times.append(time.process_time())
    localisation_intervals(files, [f"person {i % 500}" for i in range(num_files)], "the benchmark")
    times.append(time.process_time())
    return {
        "num_files": num_files,
        "num_proposals": len(files.proposals),
        "metrics_cpu_s": round(times[1] - times[0], 2),
        "intervals_cpu_s": round(times[2] - times[1], 2),
        "peak_mb": round(peak_mb()),
    }
