"""How long a data set's list takes, and how much memory: FakeAVCeleb's metadata with prepared clips of empty
files.

    python -m tests.benchmarks.lists [--num_clips 25000 50000 100000]
    python -m tests.benchmarks.lists --num_rows 1100000

Prints seconds for metadata + clip folders, for the split, and for writing and reading its file, and the
memory that they hold at their peak. --num_rows: AV-Deepfake1M's metadata of that length, of which one clip is
prepared: seconds of CPU time, and the process's peak memory before, after reading its rows alone, after
listing them, after splitting them, and after counting what the parts share, as each evaluation does.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
import tracemalloc
from pathlib import Path

from loaders.datasets.av1m_rows import KEYS
from loaders.datasets.av_deepfake1m import list_av_deepfake1m
from loaders.datasets.fakeavceleb import list_fakeavceleb
from loaders.datasets.json_files import read_json_entries
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split, read_split, write_split
from loaders.splits.published import protocol_results
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME


def write_tree(root: Path, num_clips: int) -> None:
    """`num_clips` clip folders of empty files, four to a person, and meta_data.csv in its original form."""
    from tests.clip_factory import ROWS  # not at the top: the memory of PyTorch would count

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


def write_rows(root: Path, num_rows: int) -> None:
    """train_metadata.json: four clips of a family, ten families of a video, five videos of a speaker."""
    modify = ("real", "visual_modified", "audio_modified", "both_modified")
    with (root / "train_metadata.json").open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            family, kind = number // 4, modify[number % 4]
            folder = f"id{family // 50:05d}/{family // 10:011x}/{family % 10:05d}"
            spans = [[round(0.01 * (family % 300), 2), round(0.01 * (family % 300) + 0.4, 2)]]
            picture, sound = (spans if kind[:4] in (word, "both") else [] for word in ("visu", "audi"))
            row = {
                "file": f"{folder}/{kind}.mp4",
                "original": f"{folder}/real.mp4" if number % 4 else f"VoxCeleb2/dev/mp4/{folder}.mp4",
                "split": "train",
                "modify_type": kind,
                "audio_model": "yourtts" if sound else None,
                "fake_segments": picture or sound,
                "audio_fake_segments": sound,
                "visual_fake_segments": picture,
                "video_frames": 221,
                "audio_frames": 141_824,
                "operations": [{"operation": "replace", "old_word": "never", "new_word": "always"}],
                "transcript": "a sentence of about as many letters as people say within eight seconds " * 2,
            }
            file.write(("[" if number == 0 else ",\n") + json.dumps(row))
        file.write("]")
    clip = root / "train/id00000/00000000000/00000/real"
    clip.mkdir(parents=True)
    for name in (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME):
        (clip / name).touch()


def peak_mb() -> float:
    """The most memory that this process has had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)


def measure_rows(num_rows: int) -> dict[str, float]:
    """Seconds and MB; the process must have listed nothing before."""
    root = Path(tempfile.mkdtemp())
    try:
        write_rows(root, num_rows)
        path = root / "train_metadata.json"
        found: dict[str, float] = {"num_rows": num_rows, "file_mb": round(path.stat().st_size / 1e6, 1)}
        found["before_mb"] = peak_mb()
        start = time.process_time()

        def note(step: str, num_found: int) -> None:
            nonlocal start
            assert num_found == num_rows
            now = time.process_time()
            found.update({f"{step}_cpu_s": round(now - start, 1), f"{step}_mb": peak_mb()})
            start = now

        note("read", sum(1 for _ in read_json_entries(path, KEYS)))
        listing = list_av_deepfake1m(root, ListingConfig(allow_missing=True))
        note("list", len(listing.all_clips))
        split = make_split(listing, SplitConfig())
        note("split", len(split.split_of))
        shared = protocol_results(listing, split.split_of, None, tells_overlaps=True)["overlaps"]
        note("overlaps", sum(shared["files"]["numbers"].values()))
    finally:
        shutil.rmtree(root)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_clips", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--num_rows", type=int)
    args = parser.parse_args()
    if args.num_rows:
        print(json.dumps(measure_rows(args.num_rows)))  # noqa: T201
        return
    for num_clips in args.num_clips:
        print(json.dumps(measure(num_clips)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
