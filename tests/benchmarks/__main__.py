"""All benchmarks: python -m tests.benchmarks [SECTION ...] [--quick] [--json FILE]

    loader      one training sample, cold and packed, against the published code's way and bare decoding
    preprocess  frames a second against bare decoding plus bare Face Mesh; one and two processes; memory
    train       a training step: clips/s, TFLOP/s against the machine's matrix peak, share of waiting for data
    memory      of a training step, with and without --checkpoint_activations
    evaluate    scoring windows
    frames      single frames: training and scoring against the bare network, loading against the released way
    stream      judging a video while it is played, 10 minutes in real time: delay, memory, the file's scores
    judge       judging a window from every frame on, against the naive way; scores; memory
    features    extracting features against the bare backbones; memory; what caching saves
    lists       reading the metadata of 100,000 clips, splitting them
    scale       time and memory per clip at 100, 1,000 and 10,000 clips
    localise    AP, AR and their intervals of 10,000 clips with 100 proposals each

Both figures of a ratio come from one run on one machine; each section runs in its own process. Use an idle
machine. --quick takes a minute or two, with smaller sizes. The JSON has an object per section, and repeats
the main figures under their full names, e.g. "loader.cold_ratio_10s".
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.processes import in_new_process

MAIN_FIGURES = (
    "loader.cold_ratio_10s", "loader.cold_ratio_60s", "loader.packed_ratio_10s", "loader.peak_mb_10min",
    "preprocess.share_of_limit", "preprocess.two_process_ratio", "train.bf16_ratio", "train.data_wait_share",
    "train.tflops", "train.share_of_peak", "frames.train_share_of_bare", "frames.score_share_of_bare",
    "frames.changes_share", "frames.data_ratio", "frames.changes_ratio",
    "features.least_share_of_bare",
    "features.cached_speedup", "judge.tiny_ratio",
)  # fmt: skip


def _loader(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import loader

    return loader.measure(scratch, quick=quick)


def _preprocess(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import preprocess

    return preprocess.measure(repeats=1 if quick else 12)


def _train(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import train

    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = {"num_frames": 12, "image_size": 64, "num_steps": 2} if quick else {}
    return train.measure(device, **small)


def _memory(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import memory

    small = {"num_frames": 12, "image_size": 64} if quick else {}
    return memory.measure("cuda" if torch.cuda.is_available() else "cpu", **small)


def _evaluate(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import evaluate

    return evaluate.measure("cuda" if torch.cuda.is_available() else "cpu")


def _frames(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import frames

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return frames.measure(scratch, device, **(frames.QUICK_SIZES if quick else {}))


def _features(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import features

    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = {"backbones": ("audio_resnet18",), "num_clips": 2, "rounds": 1, "rounds_s": 0.0, "max_batches": 1}
    return features.measure(scratch, device, **(small if quick else {}))


def _judge(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import judge

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return judge.measure(scratch, device, **(judge.QUICK if quick else {}))


def _stream(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import stream

    return stream.measure(scratch, 20.0 if quick else 600.0)


def _lists(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import lists

    return lists.measure(10_000 if quick else 100_000)


def _scale(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import scale

    return scale.measure((50, 200)) if quick else scale.measure()


def _localise(scratch: Path, quick: bool) -> dict[str, Any]:
    from tests.benchmarks import localisation

    return localisation.measure(1000) if quick else localisation.measure()


SECTIONS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "loader": _loader,
    "preprocess": _preprocess,
    "train": _train,
    "memory": _memory,
    "evaluate": _evaluate,
    "frames": _frames,
    "features": _features,
    "judge": _judge,
    "stream": _stream,
    "lists": _lists,
    "scale": _scale,
    "localise": _localise,
}


def measure_section(name: str, quick: bool) -> dict[str, Any]:
    """One section's figures."""
    with tempfile.TemporaryDirectory() as scratch:
        return SECTIONS[name](Path(scratch), quick)


def print_figure(name: str, value: Any) -> None:
    """Write a line of the table, or a line for each row of a list."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for row in value:
            print_figure(name, row)
        return
    if isinstance(value, dict):
        value = ", ".join(f"{key} {part}" for key, part in value.items() if not isinstance(part, dict))
    text = f"{value:>14,.4g}" if isinstance(value, (int, float)) else f" {value}"
    sys.stdout.write(f"    {name:<36}{text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m tests.benchmarks",
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if unknown := set(args.sections) - SECTIONS.keys():
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    figures: dict[str, Any] = {}
    for name in args.sections or SECTIONS:
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        figures[name] = in_new_process(measure_section, name, args.quick)
        for figure, value in figures[name].items():
            print_figure(figure, value)
    for full_name in MAIN_FIGURES:
        section, _, figure = full_name.partition(".")
        if section in figures:
            figures[full_name] = figures[section].get(figure)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tests.benchmarks import __main__ as benchmarks  # by its own name, by which new processes find it

    benchmarks.main()
