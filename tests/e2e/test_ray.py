"""preprocess.prepare and extract_features on a Ray cluster of three nodes, of which each kills one half way.

One file, since a cluster takes fifteen CPU seconds to start.
"""

from __future__ import annotations

import functools
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from preprocess.verify import check_clip
from preprocess.work.limits import LimitConfig
from preprocess.work.ray_workers import MAX_ATTEMPTS, Actors, connect, hand_out, run_on_ray
from preprocess.work.stores import open_store
from preprocess.work.workers import lock_partial
from tests.clusters import NODE
from tests.commands import StartedCommand, start_command
from tests.e2e import test_features_elsewhere as features
from tests.moving_face import clicks, moving_face, write_video
from tests.worker_jobs import (
    CountingWork,
    Lacking,
    Tight,
    counted_work,
    hang_on_one_node,
    jobs,
    misbehave,
    which_device,
)
from utils.errors import UsageError

pytestmark = pytest.mark.usefixtures("server")  # started before the cluster, whose nodes are told where it is


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


def test_what_kills_its_process_costs_its_clip_after_some_attempts(cluster, tmp_path):
    names = ["a", "killed", "b", "bug", "c", "bad", "unlucky", "untold", "d"]
    (tmp_path / "attempts").mkdir()
    work = functools.partial(counted_work, attempts=tmp_path / "attempts")
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


def test_rays_processes_are_held_to_the_limits(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("preprocess.work.ray_workers.MAX_ATTEMPTS", 1)
    names, tight = (
        ["a", "hang", "b", "grow at once", "c", "write", "d"],
        Tight(max_memory_gb=0.5, max_output_gb=0.01),
    )
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        outcomes = run_on_ray(jobs(*names), misbehave, tight, partial, 2, address=cluster.address)
        found = {job.name: (status, reason) for job, status, reason in outcomes}
    assert all(found[name] == ("done", "") for name in "abcd")
    for name, words in (
        ("hang", "or a limit"),
        ("grow at once", "--max_memory_gb 0.5"),
        ("write", "--max_output_gb"),
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


# --- extract_features -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return features.write_clips(tmp_path_factory.mktemp("clips") / "set")


@pytest.fixture(scope="module")
def extracted(clips, tmp_path_factory) -> Path:
    return features.extracted_copy(clips, tmp_path_factory.mktemp("extracted") / "set")


def on_ray(cluster: object) -> tuple[str, ...]:
    return ("--executor", "ray", "--ray_address", cluster.address)


def test_actors_work_at_a_url(server, cluster, clips, extracted):
    url = features.put(clips, "s3://bucket/on_ray")
    line = features.last_line(features.extract(url, *features.RESNET, *on_ray(cluster)))
    assert line == f"23 extracted, 0 already there, 1 failed (see {url}/features_failures_audio_resnet18.csv)"
    assert features.tree(url) == tree(extracted)
    assert not open_store(url).workspace().exists()


@pytest.mark.slow
def test_a_node_dies_half_way_and_the_files_are_those_of_a_local_run(cluster, clips, extracted, tmp_path):
    root = shutil.copytree(clips, tmp_path / "set")
    process = features.extract(root, *features.RESNET, *on_ray(cluster))
    while features.count_rows(root) < 4:
        assert process.running(), process.wait().stderr
        time.sleep(0.02)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert process.running()
    assert features.last_line(process).startswith("23 extracted, 0 already there, 1 failed")
    assert tree(root) == tree(extracted)
    shutil.rmtree(root / "part_0/clip_00/features")
    again = features.extract(root, *features.RESNET, *on_ray(cluster))
    assert features.last_line(again).startswith("1 extracted, 22 already there, 1 failed")
    assert tree(root) == tree(extracted)


@pytest.mark.slow
def test_what_kills_its_actor_costs_its_clip_and_not_its_group(cluster, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    groups = [("a", "killed", "b"), ("c", "bug"), ("d", "unlucky", "e"), *((f"f{n}",) for n in range(20))]
    given = [tuple(jobs(*names)) for names in groups]
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        ray = connect(cluster.address)
        crew = Actors(ray, CountingWork(notes), partial, on_gpus=False)
        found = {job.name: rest for job, *rest in hand_out(ray, given, crew)}
        # those of the actors that died, which go with the lock
        assert len(list(partial.iterdir())) == MAX_ATTEMPTS + 1
    assert {name for name, (status, _) in found.items() if status == "failed"} == {"killed", "bug"}
    assert "died" in found["killed"][1]
    assert f"in {MAX_ATTEMPTS} attempts" in found["killed"][1]
    assert found["bug"][1] == "ZeroDivisionError in the worker process; see above"
    attempts = {name: (notes / name).stat().st_size for names in groups for name in names}
    assert attempts == dict.fromkeys(attempts, 1) | {
        "a": 2,
        "killed": 3,
        "c": 2,
        "bug": 2,
        "d": 2,
        "unlucky": 2,
    }
    # what an actor keeps stays for its next group
    groups_of = Counter(reason.split()[0] for status, reason in found.values() if status == "done")
    assert max(int(reason.split()[1]) for status, reason in found.values() if status == "done") > 3
    assert len(groups_of) <= 3 + 2 + 2 + 1


def test_each_gpu_has_one_actor_that_sees_no_other(cluster, tmp_path):
    """GPUs that are there in name only: nothing is computed."""
    node = cluster.add_node(**NODE | {"num_cpus": 4, "num_gpus": 2})
    cluster.wait_for_nodes()
    given = [tuple(jobs(str(n))) for n in range(12)]
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        ray = connect(cluster.address)
        crew = Actors(ray, which_device, partial, on_gpus=True)
        assert crew.places() == 2
        found = [reason.split() for _, _, reason in hand_out(ray, given, crew)]
    assert {(place, device) for place, device, _ in found} == {(node.node_id, "0"), (node.node_id, "1")}
    assert len({process for *_, process in found}) == 2
    cluster.remove_node(node)


def test_a_package_that_a_node_lacks_is_a_usage_error(cluster, tmp_path):
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        ray = connect(cluster.address)
        crew = Actors(ray, Lacking(), partial, on_gpus=False)
        with pytest.raises(UsageError, match=r"node .*No module named 'of_no_node'.*requirements.txt"):
            list(hand_out(ray, [tuple(jobs("a"))], crew))


def test_a_gpu_that_no_node_has_and_torchrun_are_usage_errors(cluster, clips):
    for flags, words in ((["--device", "cuda"], "no node of the Ray cluster has a GPU"),
                         (["--device", "cuda:1"], "say --device cuda")):  # fmt: skip
        result = features.extract(clips, *features.RESNET, *on_ray(cluster), *flags).wait()
        assert result.returncode == 2
        assert words in result.stderr.strip().splitlines()[-1]
