"""How long a data set's list takes, and how much memory: FakeAVCeleb's metadata with prepared clips of empty
files.

    python -m tests.benchmarks.lists [--num_clips 25000 50000 100000]

Prints seconds for metadata + clip folders, for the split, and for writing and reading its file, and the
memory that they hold at their peak.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import tracemalloc
from pathlib import Path

from loaders.datasets.fakeavceleb import list_fakeavceleb
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split, read_split, write_split
from tests.clip_factory import ROWS
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME


def write_tree(root: Path, num_clips: int) -> None:
    """`num_clips` clip folders of empty files, four to a person, and meta_data.csv in its original form."""
    lines = ["source,target1,target2,method,category,type,race,gender,path,"]
    for number in range(num_clips // len(ROWS)):
        person, donor = f"id{number:05d}", f"id{(number + 1) % (num_clips // len(ROWS)):05d}"
        for kind, letter, method, target in ROWS:
            folder = f"{kind}/African/men/{person}"
            target = donor if target == "donor" else target
            row = (person, target, "-", method, letter, kind, "African", "men", f"{letter}.mp4")
            lines.append(",".join((*row, f"FakeAVCeleb/{folder}")))
            clip = root / folder / letter
            clip.mkdir(parents=True)
            for name in (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME):
                (clip / name).touch()
    (root / "meta_data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(num_clips: int) -> dict[str, float]:
    """Seconds and MB for one size."""
    root = Path(tempfile.mkdtemp())
    try:
        write_tree(root, num_clips)
        times = [time.perf_counter()]
        listing = list_fakeavceleb(root, ListingConfig())
        times.append(time.perf_counter())
        split = make_split(listing, SplitConfig())
        times.append(time.perf_counter())
        write_split(root / "splits", split)
        read_split(root / "splits" / "fakeavceleb.csv")
        times.append(time.perf_counter())
        del listing, split
        tracemalloc.start()
        make_split(list_fakeavceleb(root, ListingConfig()), SplitConfig())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    finally:
        shutil.rmtree(root)
    seconds = [round(b - a, 2) for a, b in zip(times, times[1:], strict=False)]
    return {
        "num_clips": num_clips,
        "list_s": seconds[0],
        "split_s": seconds[1],
        "split_file_s": seconds[2],
        "peak_mb": round(peak / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_clips", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    for num_clips in parser.parse_args().num_clips:
        print(json.dumps(measure(num_clips)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
