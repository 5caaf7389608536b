"""What a job may cost: one that crashes, hangs, spins, grows or writes without end costs itself alone."""

from __future__ import annotations

import dataclasses
import functools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from preprocess.clip.all_faces import track_video
from preprocess.clip.make import ClipConfig
from preprocess.prepare import prepare_job
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig, limited
from preprocess.work.workers import call_limited, lock_partial, run_job, run_workers
from tests.hostile_media import write_small
from tests.moving_face import clicks, moving_face, write_video
from tests.worker_jobs import Tight, act, jobs, misbehave, say_how_long, take_64_mb
from utils.errors import ClipError
from utils.media.allowed import report_length

ROOT = Path(__file__).resolve().parents[4]


TIGHT = Tight(max_memory_gb=0.3, max_output_gb=0.01)


def test_whatever_a_job_does_costs_that_job_alone(tmp_path):
    expected = {
        "crash": "SIGSEGV",
        "abort": "SIGABRT",
        "hang": "took longer",
        "hang in native code": "took longer",
        "spin": "more CPU time",
        "grow": "--max_memory_gb 0.3",
        "grow at once": "--max_memory_gb 0.3",
        "write": "--max_output_gb",
    }
    names = [name for bad in expected for name in (bad, f"good after {bad}")]
    started = time.monotonic()
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        outcomes = {j.name: rest for j, *rest in run_workers(jobs(*names), misbehave, TIGHT, partial, 2)}
    assert sorted(outcomes) == sorted(names)
    for bad, words in expected.items():
        assert outcomes[bad][0] == "failed"
        assert words in outcomes[bad][1]
        assert outcomes[f"good after {bad}"] == ["done", ""]
    assert time.monotonic() - started < 60
    assert not list(tmp_path.iterdir())  # neither scratch files nor core dumps


def test_limits_grow_with_the_video_and_are_set_anew_for_the_next(tmp_path):
    video = write_small(tmp_path / "video.mp4", num_frames=200, size=(640, 480))
    short, long, shorter = jobs("short", "long", "shorter")
    several = [short, dataclasses.replace(long, source=video), shorter]
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        outcomes = run_workers(several, say_how_long, LimitConfig(), partial, 1)
        found = {job.name: [float(n) for n in status.split()] for job, status, _ in outcomes}
    cpu_s, wall_s, output = np.subtract(found["long"], found["short"])
    per_video = LimitConfig().cpu_s(200, 640 * 480, 8.0, 0) - LimitConfig().cpu_s(0, 0, 0.0, 0)
    assert per_video > 20
    assert cpu_s == pytest.approx(per_video, abs=2)
    assert wall_s == pytest.approx(4 * per_video, abs=2)
    assert output == 2 * 200 * 640 * 480
    assert found["shorter"] == pytest.approx(found["short"], abs=2)


def test_a_given_time_holds_for_any_length_and_what_was_before_comes_back(tmp_path):
    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)
    before = [resource.getrlimit(kind) for kind in kinds]
    with limited(LimitConfig(clip_timeout_s=100.0, max_memory_gb=0), tmp_path):
        report_length(10**6, 10**7, 1e4)
        assert 99 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
        assert resource.getrlimit(resource.RLIMIT_DATA) == before[1]
    assert [resource.getrlimit(kind) for kind in kinds] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    with limited(LimitConfig(), None):  # not fetched yet: no clock runs
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    with limited(LimitConfig(), tmp_path, waits=True):  # others may be slow, but what it does itself counts
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        assert 0 < resource.getrlimit(resource.RLIMIT_CPU)[0] < 1000
    for name in ("clip_timeout_s", "max_memory_gb", "max_output_gb", "max_pixels"):
        with pytest.raises(ValueError, match="must not be negative|must be >= 0"):
            LimitConfig(**{name: -1})


def test_a_call_returns_raises_or_dies_and_the_next_one_goes_on(capsys):
    limits = LimitConfig(clip_timeout_s=1.0)
    source = Path("clip.mp4")

    def call(kind: str, **options: str) -> object:
        return call_limited(act, kind, source=source, limits=limits, **options)

    pid = call("")
    assert pid not in (os.getpid(), None)
    assert call("count", progress="watching") == (["a", "b", "c"], pid)
    assert "watching: 100%" in capsys.readouterr().err
    with pytest.raises(ClipError, match="is no good"):
        call("refuse")
    assert call("") == pid  # kept
    for kind, reason in (("crash", "SIGSEGV"), ("hang", "took longer")):
        with pytest.raises(ClipError, match=reason) as caught:
            call(kind)
        assert caught.value.path == source
    assert call("") != pid


def test_workers_take_huge_pages_and_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    with pytest.raises(ClipError):  # ends the process that may be there
        call_limited(act, "crash", source=Path("clip.mp4"), limits=LimitConfig())
    tunables, huge_kb = call_limited(take_64_mb, source=Path("clip.mp4"), limits=LimitConfig())
    assert tunables == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0"
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if (
        offered.is_file()
        and "[never]" not in offered.read_text()
        and os.confstr("CS_GNU_LIBC_VERSION") >= "glibc 2.35"
    ):
        assert huge_kb >= 1 << 15


def test_a_script_without_a_guard_may_judge(tmp_path):
    """The child must not run the script again: the README's three lines have no `if __name__`."""
    video = write_small(tmp_path / "video.mp4")
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from preprocess.work.limits import LimitConfig\n"
        "from preprocess.work.workers import call_limited\n"
        "from utils.media.times import read_video_times\n"
        f"video = Path({str(video)!r})\n"
        "print(len(call_limited(read_video_times, video, source=video, limits=LimitConfig()).starts_s))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr


def test_workers_of_a_script_do_not_run_it_again(tmp_path):
    """It may have no guard and, as test.py, import PyTorch."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "print('runs', flush=True)\n"
        "from preprocess.work.limits import LimitConfig\n"
        "from preprocess.work.workers import run_workers\n"
        "from tests.worker_jobs import jobs, say_how_long\n"
        f"partial = Path({str(tmp_path / 'partial')!r})\n"
        "print(len(list(run_workers(jobs('a', 'b'), say_how_long, LimitConfig(), partial, 2))))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, script]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.returncode) == ("runs\n2\n", 0), done.stderr


def test_memory_that_is_short_ends_a_real_video_with_a_reason(tmp_path):
    """8K, which is allowed, takes 50 MB a frame and again 100 as RGB, besides some 60 MB of libraries."""
    video = write_small(
        tmp_path / "8k.avi",
        codec="mjpeg",
        container="avi",
        pixel_format="yuvj420p",
        size=(7680, 4320),
        num_frames=2,
    )
    with pytest.raises(ClipError) as caught:
        call_limited(
            track_video, video, tmp_path / "work", source=video, limits=LimitConfig(max_memory_gb=0.12)
        )
    assert "memory" in caught.value.reason


@pytest.mark.parametrize(
    ("max_output_gb", "rate_hz"),
    [(1e-5, 48_000), (1e-5, 8_000), (3.75e-5, 8_000)],
    ids=["sound", "picture", "landmarks"],
)
def test_a_file_without_room_fails_its_clip_in_words_and_leaves_nothing(tmp_path, max_output_gb, rate_hz):
    """A full disk ends the same writes with the same kind of error."""
    frames = moving_face(10, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120))
    video = write_video(tmp_path / "video.mp4", frames, waveform=clicks(0.4))
    job = Job(name="video", source=video, folder=tmp_path / "out" / "video")
    prepare = functools.partial(prepare_job, clip=ClipConfig(sample_rate_hz=rate_hz))
    limits = LimitConfig(max_output_gb=max_output_gb, max_memory_gb=0)
    status, reason = run_job(job, prepare, limits, tmp_path / "scratch")
    assert status == "failed"
    assert "exceeds --max_output_gb" in reason
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
