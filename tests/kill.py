"""Kill runs at random moments, resume them, and compare every bit with an uninterrupted run.

    python -m tests.kill --runs 20 --seed 0
    python -m tests.kill --runs 20 --what train

`train`: each run is killed once or twice, at a random time or while it writes a checkpoint, and resumed.
Weights, optimiser, metrics.csv and TensorBoard curves must equal those of the uninterrupted run. `prepare`:
runs fill one output folder and are killed until one of them finishes; it must hold the same files with the
same bytes. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from tests.clip_factory import write_fakeavceleb_tree
from tests.commands import StartedCommand, ok, run_command, start_command
from tests.e2e.test_training import TINY
from tests.moving_face import clicks, moving_face, write_video
from utils.checkpoint.files import content_checksum, load_checkpoint
from utils.files import PARTIAL_SUFFIX

CASES = {  # processes, flags; 6 steps an epoch, 3 in the second case
    "plain": (1, ("--num_workers", "2", "--precision", "fp32")),
    "in parts, balanced by category": (
        1, ("--accumulate_steps", "2", "--balance", "category", "--batch_size", "8"),
    ),
    "two processes": (2, ("--precision", "fp32")),
    "without balance or workers": (1, ("--balance", "none", "--num_workers", "0")),
}  # fmt: skip
EPOCHS = ("--epochs", "2", "--save_every_steps", "1")


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> [(step, value)] of the TensorBoard curves but the ones of speed."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("speed/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def stop_and_resume(words: list[object], run_dir: Path) -> None:
    """Run a training to its first save, stop it with SIGTERM before its second epoch ends, and resume it.

    words: `train.py` and its flags for `run_dir`, of at least two epochs, with --save_every_steps.
    """
    process = start_command(*words)
    while not (run_dir / "last.pt").exists():
        assert process.running()
        time.sleep(0.002)
    process.signal(signal.SIGTERM)
    process.wait()
    assert load_checkpoint(run_dir / "last.pt")["progress"]["epoch"] < 2
    ok(run_command(*words, "--resume"))


def differences(one: Path, two: Path) -> list[str]:
    """What differs between two runs: names of files, and of parts of checkpoints."""
    found = []
    if (one / "metrics.csv").read_bytes() != (two / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    if (one / "val_scores.npz").read_bytes() != (two / "val_scores.npz").read_bytes():
        found.append("val_scores.npz")
    if not curves(one) or curves(one) != curves(two):
        found.append("curves")
    for name in ("last.pt", "best.pt"):
        first, second = (load_checkpoint(run_dir / name) for run_dir in (one, two))
        for key in first.keys() | second.keys():
            if key not in ("config", "environment") and (
                key not in first
                or key not in second
                or content_checksum(first[key]) != content_checksum(second[key])
            ):
                found.append(f"{key} of {name}")
    return sorted(found)


def tree(root: Path) -> dict[str, str]:
    """Path and sha256 of every file below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def count_clips(root: Path) -> int:
    """Number of clip.json files; folders that disappear meanwhile are ignored."""
    return sum("clip.json" in files for _, _, files in os.walk(root))


def kill_at(process: StartedCommand, moment: Callable[[], bool], *, group: bool) -> bool:
    """Kill a command as soon as `moment()` says so; False if it ended before."""
    while process.running():
        if moment():
            process.signal(signal.SIGKILL, group=group)
            return True
        time.sleep(0.0005)
    return False


def kill_training(folder: Path, runs: int, seed: int) -> tuple[list[str], Counter[str]]:
    """Return (what differed, kills by kind) of `runs` trainings, taking the cases in turn."""
    root = write_fakeavceleb_tree(folder / "fakeavceleb", num_identities=12)
    unbroken: dict[str, tuple[Path, float]] = {}
    problems, counts = [], Counter()

    def start(case: str, run_dir: Path, *more: str) -> StartedCommand:
        processes, flags = CASES[case]
        flags = ("--data_root", root, "--run_dir", run_dir, *TINY, *flags, *EPOCHS, *more)
        return start_command("train.py", *flags, processes=processes)

    for number in tqdm(range(runs), "train", unit="run", dynamic_ncols=True):
        case = list(CASES)[number % len(CASES)]
        if case not in unbroken:
            begin = time.monotonic()
            result = start(case, folder / case).wait()
            if result.returncode:
                raise RuntimeError(f"the unbroken run failed: {result.stderr}")
            unbroken[case] = folder / case, time.monotonic() - begin
        expected, duration_s = unbroken[case]
        rng, run_dir = random.Random(f"{seed} {number}"), folder / f"run_{number}"
        kills_left = rng.choice((1, 1, 2))
        while kills_left:
            has_saved = any(run_dir.glob("last*.pt"))
            process = start(case, run_dir, *(["--resume"] if has_saved else []))
            kind = rng.choice(("at a random time", "while saving"))
            end_s = time.monotonic() + rng.uniform(0.2, 0.95) * duration_s
            num_saves, partial, seen = rng.randint(1, 8), run_dir / f"last.pt{PARTIAL_SUFFIX}", []

            def saves(num_saves=num_saves, partial=partial, seen=seen) -> bool:
                """Whether the partial file is there for the `num_saves`-th time."""
                there = partial.exists()
                if there and not (seen and seen[-1]):
                    seen.append(True)
                elif not there and seen and seen[-1]:
                    seen.append(False)
                return there and seen.count(True) >= num_saves

            moment = saves if kind == "while saving" else (lambda end_s=end_s: time.monotonic() > end_s)
            killed = kill_at(process, moment, group=rng.random() < 0.5)
            process.wait()
            if killed:
                counts[f"killed {kind}"] += 1
                kills_left -= 1
            else:  # it was faster
                shutil.rmtree(run_dir)
        has_saved = any(run_dir.glob("last*.pt"))
        result = start(case, run_dir, *(["--resume"] if has_saved else [])).wait()
        if result.returncode:
            problems.append(f"run {number} ({case}) did not go on: {result.stderr.strip().splitlines()[-1]}")
            continue
        found = differences(expected, run_dir)
        if list(run_dir.glob(f"*{PARTIAL_SUFFIX}")):
            found.append("a stray partial file")
        problems += [f"run {number} ({case}): {name} differs" for name in found]
        counts["runs that are identical"] += not found
    return problems, counts


def kill_prepare(folder: Path, kills: int, seed: int) -> tuple[list[str], Counter[str]]:
    """Return (what differed, kills by kind) of one output folder filled by runs that were killed."""
    raw, output, expected = folder / "raw", folder / "killed", folder / "unbroken"
    raw.mkdir(parents=True)
    num_videos = 3 + kills // 2
    for number in range(num_videos):
        frames = moving_face(20 + number, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120))
        write_video(raw / f"video_{number}.mp4", frames, waveform=clicks((20 + number) / 25, at_s=[0.2]))
    (raw / "text.mp4").write_text("this is not a video\n" * 50)

    def start(target: Path) -> StartedCommand:
        flags = ("--input", raw, "--output", target, "--num_workers", "2")
        return start_command("-m", "preprocess.prepare", *flags)

    begin = time.monotonic()
    start(expected).wait()
    duration_s = time.monotonic() - begin
    counts, rng, problems = Counter(), random.Random(seed), []
    progress = tqdm(range(kills), "prepare", unit="kill", dynamic_ncols=True)
    while progress.n < kills:
        process = start(output)
        num_clips = count_clips(output)
        kind = rng.choice(("at a random time", "as a clip is installed"))
        end_s = time.monotonic() + rng.uniform(0.1, 0.9) * duration_s

        def installs(num_clips=num_clips) -> bool:
            """Whether a further clip has its last file, in the scratch folder or in its place."""
            return count_clips(output) > num_clips

        moment = (lambda end_s=end_s: time.monotonic() > end_s) if kind == "at a random time" else installs
        killed = kill_at(process, moment, group=rng.random() < 0.5)
        process.wait()
        if killed:
            counts[f"killed {kind}"] += 1
            progress.update()
        else:  # it had nothing left to do
            problems += compare_trees(expected, output, 4 * num_videos + 1)
            counts["trees that are identical"] += not problems
            shutil.rmtree(output)
    progress.close()
    result = start(output).wait()
    if result.returncode != 1:  # one of the videos is a text file
        problems.append(f"the last run ended with {result.returncode}: {result.stderr[-300:]}")
    problems += compare_trees(expected, output, 4 * num_videos + 1)
    counts["trees that are identical"] += not problems
    return problems, counts


def compare_trees(expected: Path, output: Path, num_files: int) -> list[str]:
    """The files in which two trees differ."""
    wanted, made = tree(expected), tree(output)
    problems = [] if len(wanted) == num_files else [f"the unbroken run made {len(wanted)} files"]
    names = sorted(wanted.keys() | made.keys())
    return problems + [f"{name} differs" for name in names if wanted.get(name) != made.get(name)]


WHAT = {"train": kill_training, "prepare": kill_prepare}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs", type=int, default=20, help="number of trainings, and of kills of prepare (default: 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    parser.add_argument(
        "--what", nargs="+", choices=WHAT, default=list(WHAT), help="what to kill (default: both)"
    )
    args = parser.parse_args()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    all_problems = []
    for what in args.what:
        with tempfile.TemporaryDirectory() as folder:
            problems, counts = WHAT[what](Path(folder), args.runs, args.seed)
        summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        sys.stdout.write(f"{what}: {summary}\n" + "".join(f"  {problem}\n" for problem in problems))
        all_problems += problems
    return 1 if all_problems else 0


if __name__ == "__main__":
    sys.exit(main())
