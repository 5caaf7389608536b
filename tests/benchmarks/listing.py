"""How long the list of a large data set takes: python -m tests.benchmarks.listing [--num_clips 100000]

Writes AV-Deepfake1M metadata of so many clips, with empty clip folders if --folders, and prints the seconds
of listing and splitting them and what the list adds to the process's peak memory, in MiB.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from loaders.av_deepfake1m import list_av_deepfake1m
from loaders.listing import ListingConfig
from loaders.splits import SplitConfig, draw_split
from tests.trees.av_deepfake1m import KINDS
from utils.clip_files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.config import opt, parse_command
from utils.errors import DatasetError, run_command


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """tests/benchmarks/listing.py"""

    num_clips: int = opt(100_000, "clips in the metadata, one in ten of them in the released validation part")
    folders: bool = opt(
        False, "make all clip folders, too; without them, one is there and the rest is missing"
    )


def write_tree(root: Path, config: BenchmarkConfig) -> None:
    """Metadata and clip folders."""
    entries: dict[str, list[dict]] = {"train": [], "val": []}
    names = list(KINDS.items())
    for index in range(config.num_clips):
        part = "val" if index % 40 < 4 else "train"
        name, kind = names[index % 4]
        folder = f"id{index // 400 * 2 + (part == 'val'):05d}/21Uxsk56VDQ/{index // 4:05d}"
        video, audio = name.startswith("fake_video"), name.endswith("fake_audio")
        spans = [[3.28, 3.46], [5.0, 5.4]]
        entries[part].append(
            {
                "file": f"{folder}/{name}.mp4",
                "original": None if kind == "real" else f"{folder}/real.mp4",
                "split": part,
                "modify_type": kind,
                "audio_model": "yourtts" if audio else None,
                "fake_segments": spans * (video or audio),
                "audio_fake_segments": spans * audio,
                "visual_fake_segments": spans * video,
                "video_frames": 237,
                "audio_frames": 151_680,
            }
        )
        if config.folders or index == 0:
            clip = root / part / folder / name
            clip.mkdir(parents=True)
            for file in (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME):
                (clip / file).touch()
    for part, values in entries.items():
        (root / f"{part}_metadata.json").write_text(json.dumps(values), encoding="utf-8")


def peak_mib() -> float:
    """Largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    config = parse_command(BenchmarkConfig, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # in a process of its own: what it needed is not part of the list's peak
        writer = multiprocessing.get_context("spawn").Process(target=write_tree, args=(root, config))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise DatasetError(f"{root}: could not write the tree")
        before = peak_mib()
        start = time.perf_counter()
        listing = list_av_deepfake1m(root, ListingConfig(allow_missing=True))
        listed = time.perf_counter()
        split = draw_split(listing, SplitConfig())
        result = {
            "num_clips": len(listing.all_clips),
            "prepared": len(listing.clips),
            "metadata_mib": round(sum(p.stat().st_size for p in root.glob("*.json")) / 2**20, 1),
            "listing_s": round(listed - start, 2),
            "split_s": round(time.perf_counter() - listed, 2),
            "in_parts": len(split.split_of),
            "added_peak_mib": round(peak_mib() - before),
        }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
