"""Loading one training sample: python -m tests.benchmarks loader

One 224x224 clip of 10, 60 and 600 seconds at 25 frames per second, in one process on one core, up to the same
equalised uint8 frames. Beside it, in the same run and from the same files, the baseline (baseline.py) and
bare decoding of the frames that the window needs. A ratio is the baseline's time over ours; the memory is
the peak of a forked worker process that loads 20 windows.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset
from preprocess.faces.track import ENCODER_PRESET
from tests.benchmarks.processes import in_new_process, peak_mb
from tests.clip_factory import make_clip
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, NUM_LANDMARKS, SAMPLE_RATE_HZ, VIDEO_NAME
from utils.media.luma import equalize_luma
from utils.media.writer import VideoWriter
from utils.run.memory import keep_freed_memory

FPS = 25
LENGTHS_S = (10, 60, 600)
NUM_WINDOWS = 20


def write_clip(folder: Path, seconds: int) -> Path:
    """A clip folder with a moving, grainy face, repeated every four seconds."""
    import soundfile

    from tests.moving_face import moving_face

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    images = list(moving_face(4 * FPS, size=(224, 224), face_height=150, path=lambda i: (112 + i % 7, 112)))
    images = [np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8) for image in images]
    options = {"fps": Fraction(FPS), "width": 224, "height": 224, "preset": ENCODER_PRESET}
    with VideoWriter(folder / VIDEO_NAME, **options) as writer:
        for index in range(seconds * FPS):
            writer.write(images[index % len(images)])
    with soundfile.SoundFile(folder / AUDIO_NAME, "w", SAMPLE_RATE_HZ, 1, "PCM_16") as file:
        for _ in range(seconds):
            file.write(0.1 * rng.standard_normal(SAMPLE_RATE_HZ))
    landmarks = np.lib.format.open_memmap(
        folder / LANDMARKS_NAME, "w+", np.float32, (seconds * FPS, NUM_LANDMARKS, 2)
    )
    landmarks[:] = rng.uniform(0.2, 0.8, (NUM_LANDMARKS, 2))
    landmarks.flush()
    return folder


def pack_clips(data_root: Path, output: Path, frames: str) -> Path:
    """The pack of a tree, made in this process."""
    from preprocess import pack

    config = pack.PackConfig(data_root=data_root, output=output, frames=frames)
    (output / pack.PARTIAL_NAME).mkdir(parents=True)
    tree = pack.read_tree(config)
    shards = pack.plan_shards(tree.clips, config)
    for shard in shards:
        pack.write_shard(shard, config)
    pack.copy_metadata(tree, config)
    pack.write_index(config, shards)
    return output


def best_s(run: Callable[[], object], repeats: int) -> float:
    """Wall time of the fastest of several runs: other work on the machine only ever adds to it."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def windows_of(folder: Path) -> Callable[[], np.ndarray]:
    """A function that loads another random training window each time, up to equalised frames."""
    dataset = ClipDataset([make_clip(folder)], DataConfig(), training=True)
    epoch = 0

    def load() -> np.ndarray:
        nonlocal epoch
        epoch += 1
        window = dataset[0, (epoch, 0)]
        frames = window.video.numpy()
        return frames if window.is_equalized else equalize_luma(frames)

    return load


def decode_barely(path: Path, num_frames: int, first: int) -> None:
    """Decode what a window of `num_frames` from `first` on needs, to RGB, and nothing else."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(first / FPS / stream.time_base), stream=stream, backward=True)
        reformatter = av.video.reformatter.VideoReformatter()
        for frame in container.decode(stream):
            if frame.pts * stream.time_base * FPS >= first:
                reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                num_frames -= 1
            if not num_frames:
                return


def _memory_of_worker(folder: Path, connection: Any) -> None:
    load, peak, done = windows_of(folder), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.002):
            rollup = Path("/proc/self/smaps_rollup").read_text()
            peak = max(peak, int(rollup.partition("\nPss:")[2].split()[0]))

    sampler = threading.Thread(target=sample)
    sampler.start()
    keep_freed_memory()
    for _ in range(NUM_WINDOWS):
        load()
    done.set()
    sampler.join()
    connection.send((peak / 1024, peak_mb()))


def _fork_worker(folder: Path, connection: Any) -> None:
    torch.set_num_threads(1)
    worker = multiprocessing.get_context("fork").Process(target=_memory_of_worker, args=(folder, connection))
    worker.start()
    worker.join()


def worker_mb(folder: Path) -> tuple[float, float]:
    """Peak memory of a loader worker, forked as DataLoader does, that loads windows of one clip.

    First its proportional share (PSS): what it has alone, and half of what it shares with the process that
    forked it, above all torch's libraries. Second all that it can reach (RSS), shared or not.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_fork_worker, args=(folder, theirs))
    process.start()
    result = ours.recv()
    process.join()
    return result


def time_baseline(folder: Path) -> float:
    """Seconds in which the published code's way loads a clip."""
    from tests.benchmarks.baseline import load_clip  # not in the process whose memory is measured

    _use_one_core()
    return best_s(lambda: load_clip(folder), 3)


def _use_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def measure(scratch: Path, *, quick: bool = False) -> dict[str, float]:
    """All figures; `quick` leaves out the 10 minutes' clip and repeats less."""
    _use_one_core()
    keep_freed_memory()  # as a loader's worker does
    repeats = 5 if quick else 15
    figures: dict[str, float] = {}
    for seconds in LENGTHS_S[: 2 if quick else 3]:
        root = scratch / f"{seconds}s"
        folder = write_clip(root / "real" / "clip", seconds)
        length = f"{seconds // 60}min" if seconds >= 600 else f"{seconds}s"
        figures[f"peak_mb_{length}"], figures[f"peak_rss_mb_{length}"] = worker_mb(folder)
        if seconds >= 600:
            continue  # the baseline would need 9 GB
        # as torch is by default; huge pages, which utils asks for, make its large float tensors faster
        baseline_s = in_new_process(time_baseline, folder, THP_MEM_ALLOC_ENABLE="0")
        cold_s = best_s(windows_of(folder), repeats)
        bare_s = best_s(lambda path=folder / VIDEO_NAME: decode_barely(path, 60, 3 * FPS + 7), repeats)
        figures[f"baseline_ms_{seconds}s"] = 1000 * baseline_s
        figures[f"cold_ms_{seconds}s"] = 1000 * cold_s
        figures[f"cold_clips_per_s_{seconds}s"] = 1 / cold_s
        figures[f"cold_ratio_{seconds}s"] = baseline_s / cold_s
        figures[f"bare_decoding_share_{seconds}s"] = bare_s / cold_s
        for frames in ("video", "rgb", "equalized"):
            start = time.perf_counter()
            packed = pack_clips(root, scratch / f"{seconds}s_{frames}", frames)
            if (seconds, frames) == (60, "equalized"):  # seconds of clip packed in a second
                figures["pack_seconds_per_s"] = seconds / (time.perf_counter() - start)
            packed_s = best_s(windows_of(packed / "real" / "clip"), repeats)
            figures[f"packed_{frames}_ms_{seconds}s"] = 1000 * packed_s
            figures[f"packed_{frames}_ratio_{seconds}s"] = baseline_s / packed_s
        figures[f"packed_ratio_{seconds}s"] = figures[f"packed_equalized_ratio_{seconds}s"]
    return figures
