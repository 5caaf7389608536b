"""preprocess.prepare from and to an object store: an S3 server of the test's own, asked over HTTP."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import fsspec
import pytest
import soundfile

from preprocess.clip.make import ClipConfig
from preprocess.prepare import prepare_job
from preprocess.work.batch import InputConfig, find_jobs
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from preprocess.work.stores import UrlStore, open_store
from preprocess.work.workers import run_job
from tests.clusters import SECRET
from tests.commands import run_command
from tests.moving_face import clicks, moving_face, write_video
from utils.errors import ClipError, UsageError

ROOT = Path(__file__).resolve().parents[2]
FILES = {"cropped_video.mp4", "cropped_video.wav", "landmarks.npy", "clip.json"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A data set in DeepfakeTIMIT's layout, whose sound lies in files of its own, and with one bad video."""
    root = tmp_path_factory.mktemp("raw") / "DeepfakeTIMIT"
    for name in ("fadg0-with a blank/sa1-video-fram1", "fram1/sx4-video-fadg0"):
        path = root / "higher_quality" / f"{name}.avi"
        path.parent.mkdir(parents=True)
        frames = moving_face(12, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120))
        write_video(path, frames, waveform=clicks(12 / 25) if name.startswith("fram1") else None)
    soundfile.write(root / "higher_quality/fadg0-with a blank/sa1.wav", clicks(12 / 25), 48_000)
    write_video(
        path.with_name("sx9-video-fadg0.avi"), moving_face(8, path=lambda i: None), waveform=clicks(8 / 25)
    )
    return root


def run(*flags: object) -> tuple[int, str]:
    """(exit status, last line of stderr) of preprocess.prepare."""
    result = run_command("-m", "preprocess.prepare", *flags, "--num_workers", "1")
    assert SECRET not in result.stdout + result.stderr
    return result.returncode, result.stderr.strip().splitlines()[-1]


def tree(root: str | Path) -> dict[str, bytes]:
    """Relative path -> content of all files in a folder or below a URL."""
    store = open_store(root)
    with tempfile.TemporaryDirectory() as folder:
        return {p.as_posix(): store.fetch(p, Path(folder)).read_bytes() for p in store.all_files()}


@pytest.fixture(scope="module")
def local_tree(raw, tmp_path_factory) -> dict[str, bytes]:
    """What comes out with paths."""
    output = tmp_path_factory.mktemp("local")
    assert run("--dataset", "deepfaketimit", "--source", raw, "--output", output)[0] == 1
    return {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def on_s3(server, raw, local_tree) -> str:
    """Prepared by the command, from S3 to S3."""
    fsspec.filesystem("s3").put(f"{raw}/", "bucket/raw/DeepfakeTIMIT/", recursive=True)
    flags = "--dataset deepfaketimit --source s3://bucket/raw --output s3://bucket/prepared".split()
    status, last = run(*flags)
    assert (status, last) == (
        1,
        "2 prepared, 0 already there, 1 failed (see s3://bucket/prepared/failures.csv)",
    )
    return "s3://bucket/prepared"


def test_a_tree_on_a_store_equals_the_one_on_disk(on_s3, local_tree):
    assert tree(on_s3) == local_tree
    assert len(local_tree) == 2 * 4 + 1


def test_a_second_run_reads_little_and_writes_nothing_but_its_list(server, on_s3, raw):
    server.requests.clear()
    status, last = run("--dataset", "deepfaketimit", "--source", "s3://bucket/raw", "--output", on_s3)
    assert (status, last.split(" failed")[0]) == (1, "0 prepared, 2 already there, 1")
    kinds = [kind for kind, _ in server.requests]
    assert kinds.count("PUT") == 1  # failures.csv
    assert kinds.count("GET") == 3  # two clip.json, and the video that cannot be used


def test_what_is_cut_off_or_stale_is_made_again(on_s3, local_tree):
    files = fsspec.filesystem("s3")
    first, second = sorted({name.rpartition("/")[0] for name in local_tree if "/" in name})
    files.rm_file(f"bucket/prepared/{first}/clip.json")  # an upload that was interrupted
    files.pipe_file(f"bucket/prepared/{first}/landmarks.npy", b"half")
    info = json.loads(local_tree[f"{second}/clip.json"])
    files.pipe_file(
        f"bucket/prepared/{second}/clip.json", json.dumps(info | {"source_bytes": 7}).encode()
    )  # another video lies under this name now
    _, last = run("--dataset", "deepfaketimit", "--source", "s3://bucket/raw", "--output", on_s3)
    assert last.startswith("2 prepared, 0 already there, 1 failed")
    assert tree(on_s3) == local_tree


def test_recheck_finds_a_changed_byte(on_s3, local_tree):
    name = next(name for name in local_tree if name.endswith("cropped_video.mp4"))
    fsspec.filesystem("s3").pipe_file(f"bucket/prepared/{name}", local_tree[name][:-1] + b"?")
    flags = ["--dataset", "deepfaketimit", "--source", "s3://bucket/raw", "--output", on_s3]
    assert run(*flags)[1].startswith("0 prepared, 2 already there")
    assert run(*flags, "--recheck")[1].startswith("1 prepared, 1 already there")
    assert tree(on_s3) == local_tree


@pytest.mark.parametrize("where", ["from s3", "to s3", "file"])
def test_stores_and_folders_mix(server, on_s3, raw, local_tree, tmp_path, where):
    source = on_s3.replace("prepared", "raw") if where == "from s3" else raw
    output = {"from s3": tmp_path / "out", "to s3": "s3://bucket/mixed", "file": f"file://{tmp_path}/out"}[
        where
    ]
    if where == "file":
        source = f"file://{raw}"
    for expected in ("2 prepared, 0 already there", "0 prepared, 2 already there"):
        assert run("--dataset", "deepfaketimit", "--source", source, "--output", output)[1].startswith(
            expected
        )
        assert tree(output) == local_tree


def prepare(job: Job) -> str:
    return prepare_job(job, ClipConfig())


def work(inputs: InputConfig, scratch: Path) -> list[str]:
    return [run_job(job, prepare, LimitConfig(), scratch)[0] for job in find_jobs(inputs).jobs]


def test_what_a_clip_costs_does_not_grow_with_their_number(server, raw, tmp_path):
    """Requests, and bytes of listings, of one more clip: the same from 2 to 4 as from 4 to 8."""
    video = next((raw / "higher_quality").glob("fram1/sx4-video-fadg0.avi"))
    costs = {}
    for num_clips in (2, 4, 8):
        for index in range(num_clips):
            fsspec.filesystem("s3").put_file(str(video), f"bucket/many/{num_clips}/raw/{index:03}.avi")
        config = InputConfig(
            input=f"s3://bucket/many/{num_clips}/raw", output=f"s3://bucket/many/{num_clips}/out"
        )
        for kind in ("done", "already there"):
            batch = find_jobs(config)
            server.requests.clear()
            outcomes = [run_job(job, prepare, LimitConfig(), tmp_path / "worker")[0] for job in batch.jobs]
            assert outcomes == [kind] * num_clips
            listed = sum(size for name, size in server.requests if name == "LIST")
            costs[kind, num_clips] = len(server.requests), listed
    for kind in ("done", "already there"):
        (requests_2, listed_2), (requests_4, listed_4), (requests_8, listed_8) = (
            costs[kind, num_clips] for num_clips in (2, 4, 8)
        )
        assert requests_8 - requests_4 == 2 * (requests_4 - requests_2)
        assert listed_8 - listed_4 == pytest.approx(2 * (listed_4 - listed_2), rel=0.02)
    assert costs["already there", 8][0] <= 8 * 3  # a listing, clip.json, the size of the source


def test_the_clip_is_finished_by_the_last_file(monkeypatch, raw, tmp_path):
    """An upload that breaks off leaves no clip.json, and is redone; memory:// is a store, too."""
    video = next((raw / "higher_quality").glob("fram1/sx4-video-fadg0.avi"))
    output = UrlStore("memory://prepared")
    config = InputConfig(input=str(video), output=output.url)
    files = fsspec.filesystem("memory")
    put_file = type(files).put_file
    uploaded = []

    def break_off(self, source, target, **options):
        if target.endswith("landmarks.npy"):
            raise OSError("the connection is gone")
        uploaded.append(target)
        put_file(self, source, target, **options)

    monkeypatch.setattr(type(files), "put_file", break_off)
    assert work(config, tmp_path / "worker") == ["failed"]
    assert {path.name for path in output.all_files()} == {"cropped_video.mp4", "cropped_video.wav"}
    monkeypatch.setattr(type(files), "put_file", lambda *a, **k: (uploaded.append(a[2]), put_file(*a, **k)))
    assert work(config, tmp_path / "worker") == ["done"]
    assert {path.name for path in output.all_files()} == FILES
    assert uploaded[-1].endswith("clip.json")
    assert work(config, tmp_path / "worker") == ["already there"]


def test_a_clip_folder_on_a_store_is_not_taken_from_others(raw, tmp_path):
    fsspec.filesystem("memory").pipe_file("/mine/sx4-video-fadg0/thesis.pdf", b"the only copy")
    video = next((raw / "higher_quality").glob("fram1/sx4-video-fadg0.avi"))
    config = InputConfig(input=str(video), output="memory://mine")
    (job,) = find_jobs(config).jobs
    with pytest.raises(ClipError, match="holds thesis.pdf"):
        prepare(dataclasses.replace(job, scratch=tmp_path))
    assert fsspec.filesystem("memory").cat_file("/mine/sx4-video-fadg0/thesis.pdf") == b"the only copy"


@pytest.mark.parametrize("output", ["memory://raw", "memory://raw/"])
def test_a_clip_folder_on_a_store_that_would_replace_a_source_is_refused(output):
    files = fsspec.filesystem("memory")
    files.pipe_file("/raw/cropped_video/cropped_video.mp4", b"x")
    with pytest.raises(UsageError, match="would replace the video"):
        find_jobs(InputConfig(input="memory://raw/cropped_video/cropped_video.mp4", output=output))


def test_errors_of_stores_are_one_line(server, tmp_path):
    for source, message, status in (
        ("nonsense://bucket/raw", "error: nonsense://bucket/raw: Protocol not known", 2),
        ("s3://bucket/nowhere", "error: s3://bucket/nowhere: no such folder", 1),
    ):
        code, last = run("--dataset", "fakeavceleb", "--source", source, "--output", tmp_path)
        assert (code, last[: len(message)]) == (status, message)
    assert str(UrlStore("ftp://me:secret@host/raw")) == "ftp://host/raw"
    code, last = run("--input", "a.mp4", "--output", tmp_path, "--recheck")
    assert (code, last[:27]) == (2, "error: recheck is for URLs;")
