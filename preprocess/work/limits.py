"""Limits on the time, memory and output that one video may cost.

The kernel enforces them, so they also stop native code that hangs or grows. A process that exceeds a limit
ends, which costs one clip (see workers.py).

wall time   ITIMER_REAL: SIGALRM, which has no handler, ends the process
CPU time    RLIMIT_CPU: SIGXCPU ends the process
memory      RLIMIT_DATA: allocations fail
output      RLIMIT_FSIZE: writes fail

Time and output limits depend on the number of frames that a video really has, never on its header alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.config import opt, require_at_least
from utils.media.allowed import MediaLimits, limit_media

# CPU seconds, ten times what preprocess.prepare takes on a core of 2026: 0.007 per frame, 0.005 per megapixel
START_S = 60.0  # imports, opening, very short files
PER_FRAME_S, PER_MEGAPIXEL_S = 0.1, 0.06  # per frame, and per megapixel of each frame
PER_SOUND_S = 0.05  # per second of sound
PER_SOURCE_GB_S = 60.0  # checksums
WALL_FACTOR = 4  # processes may share a core, and disks may be slow
START_OUTPUT, OUTPUT_PER_PIXEL = 1 << 30, 2.0  # bytes; encoded noise takes 0.7 per pixel, raw frames 1.5
PERTURBED = 20.0  # effort: the costliest perturbation of full frames takes 0.23 s per megapixel


@dataclass(frozen=True, kw_only=True)
class LimitConfig(MediaLimits):
    """preprocess/work/limits.py: limits per video; one that exceeds them fails."""

    clip_timeout_s: float = opt(0.0, "wall time per video, in s; 0 = depends on its frames and pixels")
    max_memory_gb: float = opt(4.0, "memory per worker process; 0 = no limit")
    max_output_gb: float = opt(0.0, "size of each output file; 0 = depends on the video's frames and pixels")

    def __post_init__(self) -> None:
        MediaLimits.__post_init__(self)
        require_at_least(self, 0, "clip_timeout_s", "max_memory_gb", "max_output_gb")

    def limits_only(self) -> LimitConfig:
        """These limits without the fields that a subclass adds."""
        return LimitConfig(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(LimitConfig)}
        )

    def cpu_s(
        self, num_frames: int, pixels: int, seconds: float, source_bytes: int, effort: float = 1.0
    ) -> float:
        """CPU time that a video may take, in s; `effort` is the cost of a frame relative to the usual one."""
        if self.clip_timeout_s:
            return 2 * self.clip_timeout_s  # wall time is the limit then
        per_frame = effort * (PER_FRAME_S + PER_MEGAPIXEL_S * pixels / 1e6)
        return START_S + num_frames * per_frame + seconds * PER_SOUND_S + source_bytes / 1e9 * PER_SOURCE_GB_S

    def wall_s(self, cpu_s: float) -> float:
        """Wall time in s that goes with a CPU time limit."""
        return self.clip_timeout_s or WALL_FACTOR * cpu_s

    def output_bytes(self, num_frames: int, pixels: int) -> int:
        """Largest size in bytes of a file made from a video."""
        if self.max_output_gb:
            return round(self.max_output_gb * 1e9)
        return START_OUTPUT + round(num_frames * pixels * OUTPUT_PER_PIXEL)


@contextlib.contextmanager
def limited(
    limits: LimitConfig, source: Path | None, effort: float = 1.0, *, waits: bool = False
) -> Iterator[None]:
    """Apply `limits` to this process while it works on one video, and on nothing else.

    If `source` is None, the video must be downloaded first, and time counts from `begin_with` on. `effort`
    is that of `LimitConfig.cpu_s`. If it `waits` for others, who may take long, wall time has no limit.
    """
    global _meter
    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)
    before = {kind: resource.getrlimit(kind) for kind in kinds}
    _meter = _Meter(limits, effort, waits)
    try:
        with limit_media(limits, _meter.add):
            _set_limit(resource.RLIMIT_CORE, 0)
            if limits.max_memory_gb:
                _set_limit(resource.RLIMIT_DATA, _data_at_start() + round(limits.max_memory_gb * 1e9))
            if source is not None:
                _meter.begin(source)
            yield
    finally:
        _meter = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, (soft, hard) in before.items():
            resource.setrlimit(kind, (soft, hard))


def begin_with(source: Path) -> None:
    """Start the clock for this video; time spent before does not count."""
    if _meter is not None:
        _meter.begin(source)


def stop_clock() -> None:
    """Stop the clock after decoding: an upload has no time limit."""
    if _meter is not None:
        _meter.stop()


def describe_error(error: OSError | MemoryError, limits: LimitConfig) -> str:
    """Why a job failed: the limit that it reached, or the error's own text."""
    if isinstance(error, MemoryError):
        return f"needs more memory than --max_memory_gb {limits.max_memory_gb:g}"
    if error.errno == errno.EFBIG:
        return f"an output file exceeds --max_output_gb ({error})"
    return str(error)


# signal -> why it ended a process, where a limit sends it
LIMIT_SIGNALS: dict[int, str] = {
    signal.SIGALRM: "took longer than allowed for its length; --clip_timeout_s changes the limit",
    signal.SIGXCPU: "took more CPU time than allowed for its length; --clip_timeout_s changes the limit",
}


class _Meter:
    """Applies the limits of the current video as its length becomes known."""

    def __init__(self, limits: LimitConfig, effort: float, waits: bool) -> None:
        self._limits, self._effort, self._waits = limits, effort, waits
        self._start: tuple[float, float] | None = None  # wall and CPU time
        self._source_bytes = 0
        self._longest = (0, 0, 0.0)  # frames, pixels, seconds

    def begin(self, source: Path) -> None:
        self._source_bytes = source.stat().st_size if source.is_file() else 0
        self._start, self._longest = (time.monotonic(), time.process_time()), (0, 0, 0.0)
        self._enforce()

    def stop(self) -> None:
        self._start = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_limit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU)[1])

    def add(self, num_frames: int, pixels: int, seconds: float) -> None:
        """Take note of a file's length. The longest counts: copies of one video do not add up."""
        before = self._longest
        self._longest = max(before[0], num_frames), max(before[1], pixels), max(before[2], seconds)
        self._enforce()

    def _enforce(self) -> None:
        if self._start is None:
            return
        num_frames, pixels, seconds = self._longest
        wall_start, cpu_start = self._start
        cpu_s = self._limits.cpu_s(num_frames, pixels, seconds, self._source_bytes, self._effort)
        _set_limit(resource.RLIMIT_CPU, round(cpu_start + cpu_s) + 1)
        _set_limit(resource.RLIMIT_FSIZE, self._limits.output_bytes(num_frames, pixels))
        left_s = wall_start + self._limits.wall_s(cpu_s) - time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0 if self._waits else max(left_s, 1e-3))


_meter: _Meter | None = None


def _set_limit(kind: int, value: int) -> None:
    """Set a soft limit, at most the hard one."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


@functools.cache
def _data_at_start() -> int:
    """Bytes that counted for RLIMIT_DATA when this process began its first video."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData"))
