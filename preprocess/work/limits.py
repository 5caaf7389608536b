"""What one video may cost: time, memory, output. A process that works on somebody else's file holds itself to
that by means of the kernel, so that native code that hangs or grows cannot help it. Going too far ends the
process, and costs one clip (see workers.py).

wall time   ITIMER_REAL: SIGALRM, which nobody handles, ends the process
CPU time    RLIMIT_CPU: SIGXCPU does
memory      RLIMIT_DATA: no more is given out
output      RLIMIT_FSIZE: no file grows further

Time and output are measured by the frames that a video really has, as soon as these have been counted, and
never by a header's word alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.config import opt
from utils.media.allowed import MediaLimits, limit_media

# CPU seconds: ten times what preprocess.prepare takes on one core of 2026, 0.007 a frame, 0.005 a megapixel
START_S = 60.0  # imports, opening, and what is too short to be counted
PER_FRAME_S, PER_MEGAPIXEL_S = 0.1, 0.06  # and this for every frame
PER_SOUND_S = 0.05  # for every second of sound
PER_SOURCE_GB_S = 60.0  # checksums
WALL_FACTOR = 4  # processes may share a core, and disks may be slow
START_OUTPUT, OUTPUT_PER_PIXEL = 1 << 30, 2.0  # bytes of a file; noise takes 0.7, frames as they are 1.5
PERTURBED = 20.0  # the costliest perturbation of full frames takes 0.23 a megapixel


@dataclass(frozen=True, kw_only=True)
class LimitConfig(MediaLimits):
    """preprocess/work/limits.py: what one video may cost before it is given up."""

    clip_timeout_s: float = opt(
        0.0, "wall time that one video may take; 0 = by its number of frames and pixels"
    )
    max_memory_gb: float = opt(4.0, "memory that a process may take for a video; 0 = no limit")
    max_output_gb: float = opt(
        0.0, "size of one file made of a video; 0 = by its number of frames and pixels"
    )

    def __post_init__(self) -> None:
        MediaLimits.__post_init__(self)
        if min(self.clip_timeout_s, self.max_memory_gb, self.max_output_gb) < 0:
            raise ValueError("clip_timeout_s, max_memory_gb and max_output_gb must not be negative")

    def limits_only(self) -> LimitConfig:
        """The same limits without what a command's flags add to them."""
        return LimitConfig(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(LimitConfig)}
        )

    def cpu_s(
        self, num_frames: int, pixels: int, seconds: float, source_bytes: int, effort: float = 1.0
    ) -> float:
        """CPU time that a video may take; `effort` says how many times as much a frame takes as usual."""
        if self.clip_timeout_s:
            return 2 * self.clip_timeout_s  # the wall time is what counts
        per_frame = effort * (PER_FRAME_S + PER_MEGAPIXEL_S * pixels / 1e6)
        return START_S + num_frames * per_frame + seconds * PER_SOUND_S + source_bytes / 1e9 * PER_SOURCE_GB_S

    def wall_s(self, cpu_s: float) -> float:
        """Wall time that a video may take, if it may take so much CPU time."""
        return self.clip_timeout_s or WALL_FACTOR * cpu_s

    def output_bytes(self, num_frames: int, pixels: int) -> int:
        """How large one file may become that is made of a video."""
        if self.max_output_gb:
            return round(self.max_output_gb * 1e9)
        return START_OUTPUT + round(num_frames * pixels * OUTPUT_PER_PIXEL)


@contextlib.contextmanager
def limited(limits: LimitConfig, source: Path | None, effort: float = 1.0) -> Iterator[None]:
    """Hold this process to `limits` while it works on one video. It should do nothing else then.

    With `source` None, the video is still to be fetched: time counts from `begin_with` on. `effort`: see
    `LimitConfig.cpu_s`.
    """
    global _meter
    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)
    before = {kind: resource.getrlimit(kind) for kind in kinds}
    _meter = _Meter(limits, effort)
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
    """Say that work on this video begins now: what was spent until here does not count."""
    if _meter is not None:
        _meter.begin(source)


def stop_clock() -> None:
    """Say that nothing is decoded any more: an upload may take its time."""
    if _meter is not None:
        _meter.stop()


def describe_error(error: OSError | MemoryError, limits: LimitConfig) -> str:
    """Why a job failed that met a limit without dying of it; other errors in their own words."""
    if isinstance(error, MemoryError):
        return f"takes more memory than --max_memory_gb {limits.max_memory_gb:g}"
    if error.errno == errno.EFBIG:
        return f"a file that is made of it grew beyond what --max_output_gb allows ({error})"
    return str(error)


def describe_death(signal_number: int) -> str | None:
    """Which limit this signal stands for; None if it stands for none."""
    return {
        signal.SIGALRM: "took longer than a video of its length may; --clip_timeout_s sets a limit",
        signal.SIGXCPU: "took more CPU time than a video of its length may; --clip_timeout_s sets a limit",
    }.get(signal_number)


class _Meter:
    """What the video at hand may cost."""

    def __init__(self, limits: LimitConfig, effort: float) -> None:
        self._limits, self._effort = limits, effort
        self._start: tuple[float, float] | None = None  # wall and CPU time
        self._source_bytes = 0
        self._longest = (0, 0, 0.0)  # frames, pixels, seconds

    def begin(self, source: Path) -> None:
        self._source_bytes = source.stat().st_size if source.is_file() else 0
        self._start, self._longest = (time.monotonic(), _cpu_s()), (0, 0, 0.0)
        self._enforce()

    def stop(self) -> None:
        self._start = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_limit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU)[1])

    def add(self, num_frames: int, pixels: int, seconds: float) -> None:
        """A video, or its sound, turns out to be so long. Its parts and copies do not add up."""
        self._longest = tuple(map(max, self._longest, (num_frames, pixels, seconds)))
        if self._start is not None:
            self._enforce()

    def _enforce(self) -> None:
        num_frames, pixels, seconds = self._longest
        wall_start, cpu_start = self._start
        cpu_s = self._limits.cpu_s(num_frames, pixels, seconds, self._source_bytes, self._effort)
        _set_limit(resource.RLIMIT_CPU, round(cpu_start + cpu_s) + 1)
        _set_limit(resource.RLIMIT_FSIZE, self._limits.output_bytes(num_frames, pixels))
        left_s = wall_start + self._limits.wall_s(cpu_s) - time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(left_s, 1e-3))


_meter: _Meter | None = None
_base: int | None = None


def _set_limit(kind: int, value: int) -> None:
    """A soft limit, as far as the hard one allows."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _data_at_start() -> int:
    """Bytes that count for RLIMIT_DATA, when this process began with its first video."""
    global _base
    if _base is None:
        lines = Path("/proc/self/status").read_text().splitlines()
        _base = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData"))
    return _base
