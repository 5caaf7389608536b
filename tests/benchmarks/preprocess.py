"""How fast and how large preprocessing is.

    python -m tests.benchmarks.preprocess [--video clip.mp4] [--repeats 3] [--landmark_backend mesh]

The generated videos resemble camera recordings: a face that sways in a still room, sensor noise, and usual
encoder settings (x264 medium at CRF 23, with B-frames). A clean drawing would decode three times faster.
`mbit_per_s` and `decode_ms` tell how hard the videos are to decode.

Speed is CPU time on one core. The limit is the least that any preprocessing needs: plain PyAV decoding of
every frame to RGB on one thread, and on every finished crop the plain network of the backend: MediaPipe's own
Face Mesh, or Face Landmarker's points in LiteRT's own interpreter.
`share_of_limit` is the rate of `prepare_clip` (with detection, tracking, crop, encoding, sound, checksums)
relative to that. `two_process_ratio` is the rate of two processes on two cores relative to one, by the clock;
`two_process_ratio_of_limit` is the same for the two bare loops: how much the cores slow each other down (they
may be two halves of one core). Memory is the peak of a process that has prepared 10 s, and 60 s, of the same
content.

Prints JSON. Each frame counts with its best time over the repeats, which removes most of the noise from other
load on the machine. Such load slows `prepare_clip` more than the two bare loops, since it uses more of the
caches. The repeats are spread over a few processes, since the memory layout of a process moves its times by
3 %.
"""

from __future__ import annotations

import collections
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from preprocess.clip.make import UNCHANGED, Change, ClipConfig, prepare_clip
from preprocess.faces.attention import AttentionNetwork
from preprocess.faces.backends import backend_flag, resolve_backend
from preprocess.faces.model_files import FACE_MESH, LANDMARKER, read_model
from preprocess.faces.solutions import import_mediapipe, quiet_native_code
from tests.benchmarks.processes import in_new_process, peak_mb
from tests.moving_face import clicks, moving_face, write_video
from utils.clip.files import VIDEO_NAME
from utils.config import opt, parse_command
from utils.errors import run_command
from utils.media.video import iterate_frames
from utils.run.memory import huge_pages_for_children

SIZES = {"640x480": 150, "1280x720": 220, "1920x1080": 330, "1080x1920": 300}  # height of the face
MAIN_SIZE = "1280x720"
FPS = 25
PROCESSES = 4  # over which the repeats are spread
NOISE = 3.0  # standard deviation in grey levels: a webcam indoors


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """tests/benchmarks/preprocess.py"""

    video: Path | None = opt(None, "a video of a face; default: 240 frames of each of four sizes, made here")
    repeats: int = opt(12, "runs; of each frame the best time counts")
    landmark_backend: str = backend_flag()


def make_video(path: Path, size: str, num_frames: int) -> Path:
    """Write a video of a face that sways in a still room, with camera noise, at 25 frames per second."""
    width, height = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    noise = rng.normal(0, NOISE, (2 * height, 2 * width, 3)).astype(np.int8)

    def place(index: int) -> tuple[int, int]:
        return (
            round(width / 2 + width / 20 * np.sin(index / 40)),
            round(height / 2 + 8 * np.sin(index / 7)),
        )

    def record(frame: np.ndarray) -> np.ndarray:
        y, x = rng.integers(height), rng.integers(width)
        return cv2.add(frame, noise[y : y + height, x : x + width], dtype=cv2.CV_8U)

    frames = moving_face(num_frames, size=(width, height), face_height=SIZES[size], path=place)
    waveform = clicks(num_frames / FPS)
    settings = {"crf": 23, "preset": "medium", "colorspace": 1}  # BT.709, as most HD videos say
    return write_video(path, map(record, frames), fps=FPS, waveform=waveform, **settings)


def decode_plainly(path: Path) -> Iterator[None]:
    """Decode a video frame by frame on one thread, in the plainest way."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")
            yield


def prepare(video: Path, change: Change = UNCHANGED, *, backend: str = "auto") -> int:
    """Prepare a video into a folder that is thrown away; returns its number of frames."""
    config = ClipConfig(allow_silent=True, landmark_backend=backend)
    with tempfile.TemporaryDirectory() as folder:
        return prepare_clip(video, Path(folder), config, change=change).num_frames


def prepared_crops(video: Path, backend: str = "auto") -> list[np.ndarray]:
    """The finished crops of a video, (224, 224, 3) uint8 RGB each."""
    with tempfile.TemporaryDirectory() as folder:
        prepare_clip(video, Path(folder), ClipConfig(allow_silent=True, landmark_backend=backend))
        return [image for _, image in iterate_frames(Path(folder) / VIDEO_NAME)]


class FrameTimes:
    """Best CPU time over several runs: of each frame, and of the work before the first and after the last."""

    def __init__(self) -> None:
        self.best_s: np.ndarray | None = None  # (frames + 1,)
        self._marks_s: list[float] = []

    def mark(self, frames: Iterable[Any]) -> Iterator[Any]:
        """The same frames; the clock is read at each."""
        for frame in frames:
            self._marks_s.append(time.process_time())
            yield frame

    def run(self, work: Callable[[], object]) -> None:
        """Time one run."""
        self._marks_s = [time.process_time()]
        work()
        spans_s = np.diff([*self._marks_s, time.process_time()])
        self.best_s = spans_s if self.best_s is None else np.minimum(self.best_s, spans_s)

    def run_loop(self, frames: Iterable[Any]) -> None:
        """Time one run whose work is to go through the frames."""
        self.run(lambda: collections.deque(self.mark(frames), maxlen=0))


Network = Callable[[np.ndarray], Any]


def bare_mesh(crop: np.ndarray, backend: str) -> tuple[Network, Network]:
    """The plain network of a backend, and the same with its landmarks as an array, after a first image.

    The messages on stderr are over by then.
    """
    name = resolve_backend(backend)
    if name == "landmarker":
        return _bare_landmarker()
    if name == "mesh":  # LiteRT has no plain way to run it: three of its operations are the backend's own
        network = AttentionNetwork(read_model(FACE_MESH))
        return (lambda crop: network(cv2.resize(crop, (network.side, network.side))),) * 2
    with quiet_native_code():
        mesh = import_mediapipe().solutions.face_mesh.FaceMesh(refine_landmarks=True)
        mesh.process(crop)

    def read(crop: np.ndarray) -> None:
        for face in mesh.process(crop).multi_face_landmarks or []:
            np.array([(point.x, point.y) for point in face.landmark], np.float32)

    return mesh.process, read


def _bare_landmarker() -> tuple[Network, Network]:
    from ai_edge_litert.interpreter import Interpreter

    content = read_model(LANDMARKER, "face_landmarks_detector.tflite")
    with quiet_native_code():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    size = tuple(image["shape"][1:3].tolist())
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def process(crop: np.ndarray) -> None:
        interpreter.set_tensor(image["index"], cv2.resize(crop, size)[None].astype(np.float32) / 255)
        interpreter.invoke()

    def read(crop: np.ndarray) -> None:
        process(crop)
        for output in outputs:
            interpreter.get_tensor(output)

    return process, read


def pin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    cv2.setNumThreads(1)


def measure_times(video: Path, repeats: int, core: int, backend: str) -> dict[str, np.ndarray]:
    """CPU seconds of each frame in the bare loops and in `prepare_clip`; pins the process to a core."""
    pin(core)
    times = {name: FrameTimes() for name in ("decode", "mesh", "mesh_and_reading", "prepare")}
    change = Change(settings={}, pictures=lambda pictures, fps, folder: times["prepare"].mark(pictures))
    crops = prepared_crops(video, backend)
    process, read = bare_mesh(crops[0], backend)
    for _ in range(repeats):  # in turn, so that other load hits all alike
        times["decode"].run_loop(decode_plainly(video))
        times["mesh"].run_loop(map(process, crops))
        times["mesh_and_reading"].run_loop(map(read, crops))
        times["prepare"].run(lambda: prepare(video, change, backend=backend))
    return {name: frame_times.best_s for name, frame_times in times.items()}


def measure_share(video: Path, repeats: int, core: int, backend: str) -> dict[str, float]:
    """The limit and `prepare_clip` in ms of CPU time per frame."""
    rounds = min(PROCESSES, repeats)
    results = [in_new_process(measure_times, video, repeats // rounds, core, backend) for _ in range(rounds)]
    num_frames = len(results[0]["mesh"]) - 1
    ms = {
        name: 1000 * float(np.minimum.reduce([result[name] for result in results]).sum()) / num_frames
        for name in results[0]
    }
    with av.open(str(video)) as container:
        mbit_per_s = container.bit_rate / 1e6
    return {
        "frames": num_frames,
        "mbit_per_s": round(mbit_per_s, 2),
        **{f"{name}_ms": round(value, 2) for name, value in ms.items()},
        "frames_per_second": round(1000 / ms["prepare"], 1),
        "share_of_limit": round((ms["decode"] + ms["mesh"]) / ms["prepare"], 3),
        # the same, if the bare network also has to give its landmarks as an array
        "share_of_limit_with_reading": round((ms["decode"] + ms["mesh_and_reading"]) / ms["prepare"], 3),
    }


def _peak_mb(video: Path, backend: str) -> float:
    prepare(video, backend=backend)
    return round(peak_mb(), 1)


def _work_plainly(video: Path, backend: str) -> Callable[[], object]:
    """Plain decoding and the bare network on the crops, one after the other."""
    crops = prepared_crops(video, backend)
    process, _ = bare_mesh(crops[0], backend)

    def work() -> None:
        for _ in itertools.chain(decode_plainly(video), map(process, crops)):
            pass

    return work


def _race(
    video: Path, how: tuple[bool, str], core: int, is_second: bool, rounds: int, barrier: Any, results: Any
) -> None:
    pin(core)
    plainly, backend = how
    work = _work_plainly(video, backend) if plainly else lambda: prepare(video, backend=backend)
    work()
    for alone in [True, False] * rounds:
        barrier.wait()
        start_s = time.perf_counter()
        if not (alone and is_second):
            work()
        barrier.wait()  # the slower one counts
        if is_second:
            results.put((alone, time.perf_counter() - start_s))


def race(video: Path, rounds: int, cores: list[int], *, plainly: bool, backend: str) -> float:
    """The rate of two processes, each on its own core, relative to one, by the clock, in the best rounds."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [
        context.Process(
            target=_race,
            args=(video, (plainly, backend), core, core != cores[0], rounds, barrier, results),
        )
        for core in cores[:2]
    ]
    for racer in racers:
        racer.start()
    rows = [results.get(timeout=600) for _ in range(2 * rounds)]
    for racer in racers:
        racer.join()
    one, two = (min(wall_s for alone, wall_s in rows if alone is wanted) for wanted in (True, False))
    return round(2 * one / two, 2)


def measure(video: Path | None = None, *, repeats: int = 12, backend: str = "auto") -> dict[str, Any]:
    """All figures of this benchmark, of `video` or of generated ones of four sizes.

    `share_of_limit` is that of `share_video`; `shares` has those of all videos, with milliseconds per frame.
    The ratios of two processes are left out on a machine of one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory() as scratch,
        huge_pages_for_children(),
    ):  # processes like those of prepare
        root = Path(scratch)
        if video is None:
            videos = {size: make_video(root / f"{size}.mp4", size, 240) for size in SIZES}
        else:
            videos = {video.name: video}
        main = videos.get(MAIN_SIZE) or video
        shares = {name: measure_share(path, repeats, cores[0], backend) for name, path in videos.items()}
        share_video = next(name for name, path in videos.items() if path == main)
        figures = {
            "landmark_backend": resolve_backend(backend),
            "share_video": share_video,
            "share_of_limit": shares[share_video]["share_of_limit"],
            "frames_per_second": shares[share_video]["frames_per_second"],
            "shares": shares,
        }
        if len(cores) > 1:
            figures["two_process_ratio"] = race(main, repeats, cores, plainly=False, backend=backend)
            figures["two_process_ratio_of_limit"] = race(main, repeats, cores, plainly=True, backend=backend)
        for seconds in (10, 60):
            long = make_video(root / f"{seconds}s.mp4", "640x480", seconds * FPS)
            figures[f"peak_mb_{seconds}s"] = in_new_process(_peak_mb, long, backend)
    return figures


def main() -> None:
    config = parse_command(BenchmarkConfig, __doc__)
    figures = measure(config.video, repeats=config.repeats, backend=config.landmark_backend)
    json.dump(figures, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    run_command(main)
