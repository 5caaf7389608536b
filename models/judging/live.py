"""test.py --video camera:0 | pipe: : judge what a camera sees, or a file on standard input, as it comes.

    python test.py --video camera:0 --checkpoint saved_models/X/best.pt --output_dir verdict
    ffmpeg -re -i clip.mp4 -c copy -f matroska - | python test.py --video pipe: --checkpoint ...

Prints a line of JSON per verdict and writes live.mp4, the picture with the running verdict drawn into it, and
verdict.json with each face's last one. A camera is stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.judging.annotate import COLORS, caveat_line, draw_face
from models.judging.config import JudgeConfig
from models.judging.detector import LoadedDetector
from models.judging.stream import RunningVerdict
from models.judging.walk import open_copy, to_even
from preprocess.work.limits import LimitConfig
from preprocess.work.workers import iterate_limited
from utils.clip.files import NUM_LANDMARKS, SAMPLE_RATE_HZ
from utils.errors import ClipError, UsageError
from utils.files import write_text
from utils.media.picture import Picture, PictureConverter
from utils.media.pipe import PIPE, Heard, iterate_pipe

log = logging.getLogger("test")
SOURCES = ("camera:", "pipe:")
FALLEN_BACK_S = 2.0  # a camera's frames are left out while this much of older ones waits


class Sound(NamedTuple):
    """Some samples, (C, n) float32."""

    samples: npt.NDArray[np.float32]


@dataclass
class Source:
    """What is shown: its rates, and an iterator over (time in s, frame or sound)."""

    fps: Fraction
    sample_rate_hz: int
    items: Generator[tuple[float, Picture | npt.NDArray[np.uint8] | Sound], None, None]


def is_live(video: Path) -> bool:
    """Whether --video names a camera or a pipe."""
    return str(video).startswith(SOURCES)


def open_source(video: Path, limits: LimitConfig, stall_s: float) -> Source:
    """The camera or the pipe that --video names. Raises UsageError for another name."""
    kind, _, name = str(video).partition(":")
    if kind == "pipe" and not name:
        return open_pipe(sys.stdin.fileno(), limits, stall_s)
    if kind == "camera" and name.isdecimal():
        return open_camera(int(name), stall_s)
    raise UsageError(f"--video {video}: camera:N, with the number of a camera, or pipe:")


def open_pipe(descriptor: int, limits: LimitConfig, stall_s: float) -> Source:
    """The video and sound of a container that comes through a pipe, decoded in a process of its own.

    Raises ClipError for what files are refused for, and if nothing comes for `stall_s`.
    """
    pipe = Connection(os.dup(descriptor), writable=False)
    pieces = iterate_limited(iterate_pipe, pipe, stall_s, source=PIPE, limits=limits)
    fps, rate = next(pieces)

    def items() -> Generator[tuple[float, Picture | Sound], None, None]:
        converter = PictureConverter()
        for piece in pieces:
            is_sound = isinstance(piece, Heard)
            yield piece.time_s, Sound(piece.samples) if is_sound else piece.picture(converter)

    return Source(fps, rate, items())


def open_camera(number: int, stall_s: float) -> Source:
    """A camera, and the default microphone if there is one.

    Raises UsageError if the camera does not open, ClipError if it gives no frame for `stall_s` (0: never).
    """
    import cv2

    device = cv2.VideoCapture(number)
    if not device.isOpened():
        raise UsageError(f"--video camera:{number}: no such camera, or another program uses it")
    rate = device.get(cv2.CAP_PROP_FPS)
    fps = Fraction(rate if rate > 0 else 25).limit_denominator(1001)
    camera = _Camera(device, math.ceil(FALLEN_BACK_S * fps))
    return Source(fps, SAMPLE_RATE_HZ, camera.items(Path(f"camera:{number}"), stall_s))


class _Camera:
    """What a camera sees and a microphone hears, by threads of their own."""

    def __init__(self, device: Any, max_waiting: int) -> None:
        self._device, self._room = device, threading.Semaphore(max_waiting)
        self._items: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._left_out = 0

    def items(self, name: Path, stall_s: float) -> Generator[tuple[float, Any], None, None]:
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            try:
                import sounddevice

                microphone = sounddevice.InputStream(SAMPLE_RATE_HZ, channels=1, callback=self._hear)
                stack.enter_context(microphone)
            except Exception as error:  # noqa: BLE001  # PortAudio's absence has many names
                log.warning("no microphone (%s): the video is silent", error)
            threading.Thread(target=self._see, daemon=True).start()
            seen_s = time.monotonic()
            while True:
                with contextlib.suppress(queue.Empty):
                    time_s, item = self._items.get(timeout=0.2)
                    if item is None:
                        log.warning("the camera gives no more frames")
                        return
                    yield time_s, item
                    if not isinstance(item, Sound):
                        self._room.release()
                        seen_s = time.monotonic()
                if 0 < stall_s < time.monotonic() - seen_s:
                    what = f"no frame came for {stall_s:g} s; --stall_s changes how long that may take"
                    raise ClipError(name, what)

    def _hear(self, samples: Any, *_: Any) -> None:
        self._items.put((time.monotonic() - len(samples) / SAMPLE_RATE_HZ, Sound(samples.T.copy())))

    def _see(self) -> None:
        import cv2

        is_there = True
        while is_there and not self._ended.is_set():
            is_there, image = self._device.read()
            now = time.monotonic()
            if not is_there:
                self._items.put((now, None))
            elif self._room.acquire(blocking=False):
                self._items.put((now, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)))
            else:
                self._left_out += 1
        self._device.release()  # here, since it must not be while a frame is read

    def _end(self) -> None:
        self._ended.set()
        if self._left_out:
            what = "%d frames were left out: judging takes longer than they are shown"
            log.warning(what, self._left_out)


def judge_live(
    detector: LoadedDetector, source: Source, output_dir: Path, config: JudgeConfig, *, annotate: bool = True
) -> dict[int, RunningVerdict]:
    """Judge a source until it ends or Ctrl-C; write and print its verdicts. Returns each face's last one.

    annotate: whether live.mp4 is written. Raises the ClipError with which a source breaks off, after the
    verdicts on what came before.
    """
    stream = detector.stream(source.fps, source.sample_rate_hz, config)
    last: dict[int, RunningVerdict] = {}
    broken = None

    def tell(verdicts: list[RunningVerdict]) -> None:
        for verdict in verdicts:
            last[verdict.face] = verdict
            sys.stdout.write(json.dumps(dataclasses.asdict(verdict), ensure_ascii=False) + "\n")
            sys.stdout.flush()

    path = output_dir / "live.mp4" if annotate else None
    with _Drawing(path, source.fps, detector.caveat) as drawing:
        try:
            with contextlib.closing(source.items):
                for time_s, item in source.items:
                    if isinstance(item, Sound):
                        tell(stream.write_sound(item.samples, time_s))
                    else:
                        tell(stream.write_frame(item, time_s))
                        drawing.draw(stream.picture, last, stream.now_s)
        except KeyboardInterrupt:
            log.info("stopped")
        except ClipError as error:
            broken = error
        tell(stream.close())
        drawing.hold(stream.now_s)
    notes = detector.notes(config)
    for note in notes:
        log.warning("%s", note)
    content: dict[str, Any] = {"caveat": detector.caveat, "notes": notes}
    content["landmark_backend"] = detector.backend_for(config)
    content["faces"] = [dataclasses.asdict(verdict) for verdict in last.values()]
    write_text(output_dir / "verdict.json", json.dumps(content) + "\n")
    if broken:
        raise broken
    return last


class _Drawing:
    """The picture with the last verdicts in it, as it comes, at the stream's constant rate; None: nowhere."""

    def __init__(self, path: Path | None, fps: Fraction, caveat: str) -> None:
        self._path, self._fps, self._caveat = path, fps, caveat
        self._stack, self._converter = contextlib.ExitStack(), PictureConverter()
        self._writer: Any = None
        self._image: npt.NDArray[np.uint8] | None = None  # the last one
        self._num_written = 0

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def draw(self, picture: Picture, last: dict[int, RunningVerdict], now_s: float) -> None:
        self.hold(now_s - float(1 / self._fps))
        if self._path is None or self._is_drawn_to(now_s):
            return  # of several frames between two places one is shown
        image = picture.for_thread(self._converter).rgb().copy()  # faces are looked for in it meanwhile
        height, width = image.shape[:2]
        line = caveat_line(self._caveat, width, height)
        nothing = np.full((NUM_LANDMARKS, 2), np.nan)
        for verdict in last.values():
            if now_s - verdict.end_s < 4.0:  # of a face that is there
                text = f"{verdict.face + 1}: {verdict.verdict}  P(fake) {verdict.prob:.2f}"
                draw_face(image, np.array(verdict.box), nothing, COLORS[verdict.verdict], text)
        if self._writer is None:
            size = width, height + len(line)
            self._writer = self._stack.enter_context(open_copy(self._path, self._fps, *size))
        self._image = to_even(np.concatenate([image, line]))
        self.hold(now_s)

    def hold(self, until_s: float) -> None:
        """Show the last picture up to a time."""
        while self._image is not None and not self._is_drawn_to(until_s):
            self._writer.write(self._image)
            self._num_written += 1

    def _is_drawn_to(self, time_s: float) -> bool:
        return self._num_written >= round(time_s * float(self._fps))
