"""preprocess.extract_features from and to an object store, and on a Ray cluster: the files of a local run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest
import ray

from preprocess.work.jobs import Job
from preprocess.work.ray_workers import MAX_ATTEMPTS, Actors, connect, hand_out
from preprocess.work.stores import open_store
from preprocess.work.workers import lock_partial
from tests.clip_factory import clip_info, write_clip_folder
from tests.clusters import NODE, SECRET
from tests.commands import StartedCommand, start_command
from utils.clip.files import DATA_FILES
from utils.errors import UsageError
from utils.files import file_sha256

NUM_CLIPS = 24
BAD = "part_1/clip_05"
RESNET = ("--backbone", "audio_resnet18", "--random_weights")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Clips of 26 to 50 frames in two folders, of which one has a sound that cannot be read."""
    root = tmp_path_factory.mktemp("prepared") / "set"
    for number in range(NUM_CLIPS):
        folder = root / f"part_{number % 2}/clip_{number:02}"
        write_clip_folder(folder, num_frames=26 + number, seed=number)
        if folder == root / BAD:
            (folder / "cropped_video.wav").write_text("no sound")
        info = clip_info(files={name: file_sha256(folder / name) for name in DATA_FILES})
        (folder / "clip.json").write_text(json.dumps(info))
    (root / "meta_data.csv").write_text("a table\n")
    return root


def extract(data_root: object, *flags: object) -> StartedCommand:
    words = ("-m", "preprocess.extract_features", "--device", "cpu", "--data_root", data_root)
    return start_command(*words, *(flags or RESNET))


def last_line(process: StartedCommand) -> str:
    result = process.wait()
    assert SECRET not in result.stdout + result.stderr
    assert result.returncode == 1, result.stderr  # one clip cannot be read
    return result.stderr.strip().splitlines()[-1]


def tree(root: str | Path) -> dict[str, bytes]:
    """Relative path -> content of all files in a folder or below a URL."""
    store = open_store(root)
    with tempfile.TemporaryDirectory() as folder:
        return {p.as_posix(): store.fetch(p, Path(folder)).read_bytes() for p in store.all_files()}


def count_rows(root: str | Path) -> int:
    return sum(path.suffix == ".npy" and "features" in path.parts for path in open_store(root).all_files())


@pytest.fixture(scope="module")
def local(prepared, tmp_path_factory) -> Path:
    """What a process of this machine makes in the clip folders."""
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("local") / "set")
    assert last_line(extract(root)).startswith("23 extracted, 0 already there, 1 failed")
    return root


def put(folder: Path, url: str) -> str:
    fsspec.filesystem("s3").put(f"{folder}/", f"{url}/", recursive=True)
    return url


@pytest.fixture(scope="module")
def on_s3(server, prepared) -> str:
    """Made by the command at a URL, with processes that read ahead, and fetch."""
    url = put(prepared, "s3://bucket/features")
    line = last_line(extract(url, *RESNET, "--num_workers", 2))
    assert line == f"23 extracted, 0 already there, 1 failed (see {url}/features_failures.csv)"
    return url


def test_features_at_a_url_are_those_of_a_local_run(on_s3, local):
    assert tree(on_s3) == tree(local)
    assert f"{BAD},cropped_video.wav: is not a readable" in tree(on_s3)["features_failures.csv"].decode()


def test_a_second_run_fetches_no_sound_and_writes_nothing_but_its_list(server, on_s3):
    server.requests.clear()
    assert last_line(extract(on_s3)).startswith("0 extracted, 23 already there, 1 failed")
    kinds = Counter(kind for kind, _ in server.requests)
    assert kinds["PUT"] == 1  # features_failures.csv
    assert kinds["GET"] == 2 * 23 + 2  # clip.json and the features' .json; of the bad clip also the sound


def test_what_was_cut_off_or_made_from_others_is_made_again(on_s3, local):
    files, expected = fsspec.filesystem("s3"), tree(local)
    first, second, third = (f"part_0/clip_{number:02}/features/audio_resnet18" for number in (0, 2, 4))
    files.rm_file(f"bucket/features/{first}.npy")  # an upload that was interrupted
    for name, field in ((second, "source_sha256"), (third, "weights_sha256")):
        info = json.loads(expected[f"{name}.json"]) | {field: "0" * 64}
        files.pipe_file(f"bucket/features/{name}.json", json.dumps(info).encode())
    assert last_line(extract(on_s3)).startswith("3 extracted, 20 already there, 1 failed")
    assert tree(on_s3) == expected


def test_killed_at_a_url_it_goes_on_to_the_same_files(server, prepared, tmp_path):
    unbroken, url = shutil.copytree(prepared, tmp_path / "set"), put(prepared, "s3://bucket/killed")
    last_line(extract(unbroken, *RESNET, "--batch_size", 2))
    for wanted in (3, 9):
        process = extract(url, *RESNET, "--batch_size", 2)
        while count_rows(url) < wanted:
            assert process.running(), process.wait().stderr
            time.sleep(0.02)
        process.signal(signal.SIGKILL, group=True)
        process.wait()
    last_line(extract(url, *RESNET, "--batch_size", 2))
    assert tree(url) == tree(unbroken)
    assert not open_store(url).workspace().exists()


def test_clips_without_clip_json_are_made_once_too(server, prepared, tmp_path):
    """Those of other tools. What they read is fetched to see whether it has changed."""
    for name in ("clip_00", "clip_02"):
        shutil.copytree(prepared / "part_0" / name, tmp_path / name)
        (tmp_path / name / "clip.json").unlink()
    url = put(tmp_path, "s3://bucket/bare")
    for line in ("2 extracted, 0 already there", "0 extracted, 2 already there"):
        assert line in extract(url, "--backbone", "mfcc").wait().stderr
    fsspec.filesystem("s3").pipe_file(
        "bucket/bare/clip_00/cropped_video.wav", (tmp_path / "clip_02/cropped_video.wav").read_bytes()
    )
    assert "1 extracted, 1 already there" in extract(url, "--backbone", "mfcc").wait().stderr


def test_a_url_without_clips_is_an_error_of_one_line(server):
    result = extract("s3://bucket/nowhere").wait()
    assert result.returncode == 1
    message = "error: s3://bucket/nowhere: no clip folder in it; make some with preprocess.prepare"
    assert result.stderr.strip().splitlines()[-1] == message


def on_ray(cluster: object) -> tuple[str, ...]:
    return ("--executor", "ray", "--ray_address", cluster.address)


def test_actors_work_at_a_url(server, cluster, prepared, local):
    url = put(prepared, "s3://bucket/on_ray")
    line = last_line(extract(url, *RESNET, *on_ray(cluster)))
    assert line == f"23 extracted, 0 already there, 1 failed (see {url}/features_failures.csv)"
    assert tree(url) == tree(local)
    assert not open_store(url).workspace().exists()


@pytest.mark.slow
def test_a_node_dies_half_way_and_the_files_are_those_of_a_local_run(cluster, prepared, local, tmp_path):
    root = shutil.copytree(prepared, tmp_path / "set")
    process = extract(root, *RESNET, *on_ray(cluster))
    while count_rows(root) < 4:
        assert process.running(), process.wait().stderr
        time.sleep(0.02)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert process.running()
    assert last_line(process).startswith("23 extracted, 0 already there, 1 failed")
    assert tree(root) == tree(local)
    shutil.rmtree(root / "part_0/clip_00/features")
    again = extract(root, *RESNET, *on_ray(cluster))
    assert last_line(again).startswith("1 extracted, 22 already there, 1 failed")
    assert tree(root) == tree(local)


class Work:
    """What an actor keeps: how many groups it has had. The size of a job's file counts its attempts."""

    def __init__(self, notes: Path) -> None:
        self.notes, self.num_groups = notes, 0

    def __call__(self, jobs: Sequence[Job], scratch: Path) -> list[tuple[str, str]]:
        self.num_groups += 1
        assert list(scratch.iterdir()) == []
        (scratch / "half").write_text("left over")
        for job in jobs:
            with (self.notes / job.name).open("a") as file:
                file.write(".")
            is_first = (self.notes / job.name).stat().st_size == 1
            if job.name == "killed" or (job.name == "unlucky" and is_first):
                os.kill(os.getpid(), signal.SIGKILL)
            if job.name == "bug":
                raise ZeroDivisionError
        return [("done", f"{os.getpid()} {self.num_groups}") for _ in jobs]


@pytest.mark.slow
def test_what_kills_its_actor_costs_its_clip_and_not_its_group(cluster, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    groups = [("a", "killed", "b"), ("c", "bug"), ("d", "unlucky", "e"), *((f"f{n}",) for n in range(20))]
    jobs = [tuple(Job(name=name, source=Path(name), folder=Path(name)) for name in names) for names in groups]
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        crew = Actors(connect(cluster.address), Work(notes), partial, on_gpus=False)
        found = {job.name: rest for job, *rest in hand_out(ray, jobs, crew)}
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


def which_device(jobs: Sequence[Job], scratch: Path) -> list[tuple[str, str]]:
    """Runs in an actor."""
    time.sleep(0.2)  # so that none of them does it all
    about = (ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"], str(os.getpid()))
    return [("done", " ".join(about)) for _ in jobs]


def test_each_gpu_has_one_actor_that_sees_no_other(cluster, tmp_path):
    """GPUs that are there in name only: nothing is computed."""
    node = cluster.add_node(**NODE | {"num_cpus": 4, "num_gpus": 2})
    cluster.wait_for_nodes()
    jobs = [(Job(name=str(n), source=Path(str(n)), folder=Path(str(n))),) for n in range(12)]
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        crew = Actors(connect(cluster.address), which_device, partial, on_gpus=True)
        assert crew.places() == 2
        found = [reason.split() for _, _, reason in hand_out(ray, jobs, crew)]
    assert {(place, device) for place, device, _ in found} == {(node.node_id, "0"), (node.node_id, "1")}
    assert len({process for *_, process in found}) == 2
    cluster.remove_node(node)


class Lacking:
    """Work whose code cannot be imported on a node."""

    def __reduce__(self) -> tuple[object, ...]:
        return __import__, ("of_no_node",)


def test_a_package_that_a_node_lacks_is_a_usage_error(cluster, tmp_path):
    job = Job(name="a", source=Path("a"), folder=Path("a"))
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        crew = Actors(connect(cluster.address), Lacking(), partial, on_gpus=False)
        with pytest.raises(UsageError, match=r"node .*No module named 'of_no_node'.*requirements.txt"):
            list(hand_out(ray, [(job,)], crew))


def test_a_gpu_that_no_node_has_and_torchrun_are_usage_errors(cluster, prepared):
    for flags, words in ((["--device", "cuda"], "no node of the Ray cluster has a GPU"),
                         (["--device", "cuda:1"], "say --device cuda")):  # fmt: skip
        result = extract(prepared, *RESNET, *on_ray(cluster), *flags).wait()
        assert result.returncode == 2
        assert words in result.stderr.strip().splitlines()[-1]
