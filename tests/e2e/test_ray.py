"""preprocess.prepare on a Ray cluster of three nodes, one of which is killed half way."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from preprocess.verify import check_clip
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from preprocess.work.ray_workers import MAX_ATTEMPTS, run_on_ray
from preprocess.work.stores import open_store
from preprocess.work.workers import lock_partial
from tests.clusters import NODE
from tests.commands import StartedCommand, start_command
from tests.moving_face import clicks, moving_face, write_video
from utils.errors import ClipError, UsageError


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """15 videos of a drawn face in three folders, and one that cannot be used."""
    root = tmp_path_factory.mktemp("raw")
    for number in range(15):
        (root / f"part_{number % 3}").mkdir(exist_ok=True)
        frames = moving_face(20 + number, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120))
        sound = clicks((20 + number) / 25, at_s=[0.2])
        write_video(root / f"part_{number % 3}/{number:02}.mp4", frames, waveform=sound)
    (root / "part_0/text.mp4").write_text("no video")
    return root


def prepare(raw: object, output: object, *flags: object) -> StartedCommand:
    return start_command("-m", "preprocess.prepare", "--input", raw, "--output", output, *flags)


def last_line(process: StartedCommand) -> str:
    lines = process.wait().stderr.strip().splitlines()
    return next(line for line in reversed(lines) if "already there" in line)


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def local(raw, tmp_path_factory) -> Path:
    """What processes of this machine make."""
    output = tmp_path_factory.mktemp("local") / "out"
    assert "15 prepared, 0 already there, 1 failed" in last_line(prepare(raw, output, "--num_workers", 2))
    return output


@pytest.mark.slow
def test_a_node_dies_half_way_and_every_clip_is_made_once_with_the_same_bytes(cluster, raw, local, tmp_path):
    output = tmp_path / "ray"
    process = prepare(raw, output, "--executor", "ray", "--ray_address", cluster.address)
    node = next(node for node in cluster.worker_nodes)
    while len(list(output.rglob("clip.json"))) < 4:  # those in .partial/ are work in progress
        assert process.running(), process.wait().stderr
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    finished = process.wait()
    assert "15 prepared, 0 already there, 1 failed" in finished.stderr
    assert finished.returncode == 1
    assert tree(output) == tree(local)
    assert all(check_clip(path.parent, deep=True) == [] for path in output.rglob("clip.json"))

    # called again, also in shards and without Ray: what is finished stays
    shutil.rmtree(next(output.glob("part_1/**/clip.json")).parent)
    again = prepare(raw, output, "--executor", "ray", "--ray_address", cluster.address, "--shard", "1/1")
    assert "1 prepared, 14 already there, 1 failed" in last_line(again)
    assert "0 prepared, 15 already there, 1 failed" in last_line(prepare(raw, output))
    assert tree(output) == tree(local)


def test_nodes_prepare_from_and_to_urls(cluster, raw, local, tmp_path):
    """Each node has its own scratch folder, from which it removes what killed processes have left."""
    output, name = tmp_path / "out", "part_2"
    workspace = open_store(f"file://{output}").workspace()
    (workspace / "task_0").mkdir(parents=True)
    (workspace / "task_0" / "half.mp4").write_text("left over")
    (workspace / "task_0.lock").touch()
    flags = ("--only", f"{name}/**/*.mp4", "--executor", "ray", "--ray_address", cluster.address)
    finished = prepare(f"file://{raw}", f"file://{output}", *flags).wait()
    assert finished.returncode == 0, finished.stderr
    assert tree(output / name) == tree(local / name)
    assert len(tree(output / name)) >= 4
    assert not workspace.exists()


def some_work(job: Job, attempts: Path) -> str:
    """Runs in a process of Ray; the size of a file in `attempts` counts the calls."""
    with (attempts / job.name).open("a") as file:
        file.write(".")
    is_first = (attempts / job.name).stat().st_size == 1
    if job.name == "killed" or (job.name in ("unlucky", "untold") and is_first):
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.name == "untold":  # the first call did it, and was killed before anybody knew
        return "already there"
    if job.name == "bug":
        raise ZeroDivisionError
    if job.name == "bad":
        raise ClipError(job.source, "is no good")
    (job.scratch / "half").write_text("left over")
    return "done"


def hang_on_one_node(job: Job, folder: Path) -> str:
    """Notes the node that it runs on; on the one that `folder` names, it never ends."""
    node = ray.get_runtime_context().get_node_id()
    (folder / f"{job.name}_on_{node}").touch()
    time.sleep(600 if (folder / f"victim_{node}").exists() else 0.5)
    return "done"


def jobs(*names: str) -> list[Job]:
    return [Job(name=name, source=Path(name), folder=Path(name)) for name in names]


def test_what_kills_its_process_costs_its_clip_after_some_attempts(cluster, tmp_path):
    names = ["a", "killed", "b", "bug", "c", "bad", "unlucky", "untold", "d"]
    (tmp_path / "attempts").mkdir()
    work = functools.partial(some_work, attempts=tmp_path / "attempts")
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        outcomes = {
            job.name: rest
            for job, *rest in run_on_ray(
                jobs(*names), work, LimitConfig(), partial, 2, address=cluster.address
            )
        }
    assert {name: status for name, (status, _) in outcomes.items()} == {
        **dict.fromkeys([*"abcd", "unlucky", "untold"], "done"),
        **dict.fromkeys(["killed", "bug", "bad"], "failed"),
    }
    assert "died" in outcomes["killed"][1]
    assert f"in {MAX_ATTEMPTS} attempts" in outcomes["killed"][1]
    assert "ZeroDivisionError" in outcomes["bug"][1]
    assert outcomes["bad"][1] == "is no good"
    assert {path.name: path.stat().st_size for path in (tmp_path / "attempts").iterdir()} == {
        **dict.fromkeys(names, 1),
        "killed": MAX_ATTEMPTS,
        "unlucky": 2,
        "untold": 2,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tight(LimitConfig):
    """So little that a test need not wait long."""

    def cpu_s(self, *video: float) -> float:
        return 1.0

    def wall_s(self, cpu_s: float) -> float:
        return 3.0


def misbehave(job: Job) -> str:
    """Runs in a process of Ray."""
    if job.name == "hangs":
        time.sleep(600)
    if job.name == "grows":
        np.ones(1 << 40, np.uint8)
    if job.name == "writes":
        (job.scratch / "bomb").write_bytes(bytes(20_000_000))
    return "done"


def test_rays_processes_are_held_to_the_limits(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("preprocess.work.ray_workers.MAX_ATTEMPTS", 1)
    names, tight = (
        ["a", "hangs", "b", "grows", "c", "writes", "d"],
        Tight(max_memory_gb=0.5, max_output_gb=0.01),
    )
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        outcomes = run_on_ray(jobs(*names), misbehave, tight, partial, 2, address=cluster.address)
        found = {job.name: (status, reason) for job, status, reason in outcomes}
    assert all(found[name] == ("done", "") for name in "abcd")
    for name, words in (
        ("hangs", "or a limit"),
        ("grows", "--max_memory_gb 0.5"),
        ("writes", "--max_output_gb"),
    ):
        assert found[name][0] == "failed"
        assert words in found[name][1]


def test_what_runs_on_a_node_that_dies_runs_again_on_another(cluster, tmp_path):
    victim = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / f"victim_{victim.node_id}").touch()

    def kill() -> None:
        while not list(notes.glob(f"job*_on_{victim.node_id}")):
            time.sleep(0.05)
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    names = [f"job{index:02}" for index in range(20)]
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        work = functools.partial(hang_on_one_node, folder=notes)
        outcomes = run_on_ray(jobs(*names), work, LimitConfig(), partial, 0, address=cluster.address)
        assert sorted((job.name, *rest) for job, *rest in outcomes) == [(name, "done", "") for name in names]
    killer.join()
    (lost,) = {path.name.split("_")[0] for path in notes.glob(f"job*_on_{victim.node_id}")}
    assert {name: len(list(notes.glob(f"{name}_on_*"))) for name in names} == {
        **dict.fromkeys(names, 1),
        lost: 2,
    }


def test_an_output_that_nodes_do_not_see_is_a_usage_error(cluster, tmp_path):
    nowhere = tmp_path / "nowhere" / ".partial" / "1_of_1"
    with pytest.raises(UsageError, match="all nodes share"):
        list(run_on_ray(jobs("a"), misbehave, LimitConfig(), nowhere, 1, address=cluster.address))


def test_no_cluster_is_one_line(tmp_path, raw):
    finished = prepare(raw, tmp_path, "--executor", "ray", "--ray_address", "127.0.0.1:1").wait()
    errors = finished.stderr.strip().splitlines()
    assert finished.returncode == 2
    assert errors[-1].startswith("error: no Ray cluster at 127.0.0.1:1")
    assert errors[-1].endswith("ray start --head")
