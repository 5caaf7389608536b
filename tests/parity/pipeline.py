"""Parity of the clip pipeline (window "released" and the front ends) with the published code's tensors.

    python -m tests.parity.pipeline FIXTURE.npz PREPARED_DIR

FIXTURE holds, per clip folder of PREPARED_DIR, `<clip>.video` (every 6th frame, every 8th row and column of
the equalised 60x224x224 clip), `<clip>.video_mean_per_frame`, `<clip>.mfcc` (40, 600) and `<clip>.landmarks`
(60, 956). Prints the differences as JSON; exit status 1 if one is above its tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset
from models.beyond_masking.config import PRESETS
from models.beyond_masking.mfcc import Mfcc, centre_columns
from models.beyond_masking.video import VideoFrontEnd
from utils.clip_type import Clip

TOLERANCES = {
    "video_max": 1 / 255,
    "video_mean": 0.01 / 255,
    "video_mean_per_frame": 0.01 / 255,
    "mfcc": 2e-3,
    "landmarks": 1e-5,
}
IMAGE_SIZE = 224


def clip_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The published code's three tensors of a clip folder, made by our loader and front ends."""
    clip = Clip(
        clip_id=folder.name, place=str(folder), label=0, video_label=0, audio_label=0, category="",
        method="real",
        identity="", source_ids=(), target_id="", pair_key="", stratum="", dataset="",
    )  # fmt: skip
    dataset = ClipDataset([clip], DataConfig(**PRESETS["released"]["data"]), training=False)
    batch = Collate(video_fps=25.0)([dataset[dataset.evaluation_keys()[0]]])
    video = VideoFrontEnd(IMAGE_SIZE, equalize=True, kinetics_normalization=False)(batch.video)
    mfcc = centre_columns(*Mfcc(40, batch.sample_rate_hz)(batch.waveform, batch.audio_padding_mask), 600)
    return {
        "video": video[0].permute(1, 0, 2, 3).numpy(),  # (60, 3, 224, 224)
        "mfcc": mfcc[0].numpy(),
        "landmarks": batch.landmarks[0].flatten(1).numpy(),
    }


def compare(fixture: Path, prepared: Path) -> dict[str, dict[str, float]]:
    """Largest (and for the picture also mean) absolute difference of every tensor of every clip."""
    expected = np.load(fixture, allow_pickle=False)
    differences: dict[str, dict[str, float]] = {}
    for name in sorted({key.rpartition(".")[0] for key in expected.files}):
        actual = clip_tensors(prepared / name)
        video = np.abs(actual["video"][::6, :, ::8, ::8] - expected[f"{name}.video"])
        means = np.abs(actual["video"].mean(axis=(1, 2, 3)) - expected[f"{name}.video_mean_per_frame"])
        differences[name] = {
            "video_max": float(video.max()),
            "video_mean": float(video.mean()),
            "video_mean_per_frame": float(means.max()),
            "mfcc": float(np.abs(actual["mfcc"] - expected[f"{name}.mfcc"]).max()),
            "landmarks": float(np.abs(actual["landmarks"] - expected[f"{name}.landmarks"]).max()),
        }
    return differences


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fixture", type=Path)
    parser.add_argument("prepared", type=Path, help="folder of the clip folders that the fixture names")
    args = parser.parse_args(argv)
    differences = compare(args.fixture, args.prepared)
    passed = bool(differences) and all(
        values[name] <= tolerance for values in differences.values() for name, tolerance in TOLERANCES.items()
    )
    report = {"passed": passed, "tolerances": TOLERANCES, "differences": differences}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
