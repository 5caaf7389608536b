"""preprocess.extract_features from and to an object store: the files of a local run. On Ray: test_ray.py."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from preprocess.work.stores import open_store
from tests.clip_factory import clip_info, write_clip_folder
from tests.clusters import SECRET
from tests.commands import StartedCommand, start_command
from utils.clip.files import DATA_FILES
from utils.files import file_sha256

NUM_CLIPS = 24
BAD = "part_1/clip_05"
RESNET = ("--backbone", "audio_resnet18", "--random_weights")


def write_clips(root: Path) -> Path:
    """Clips of 26 to 50 frames in two folders, of which one has a sound that cannot be read."""
    for number in range(NUM_CLIPS):
        folder = root / f"part_{number % 2}/clip_{number:02}"
        write_clip_folder(folder, num_frames=26 + number, seed=number)
        if folder == root / BAD:
            (folder / "cropped_video.wav").write_text("no sound")
        info = clip_info(files={name: file_sha256(folder / name) for name in DATA_FILES})
        (folder / "clip.json").write_text(json.dumps(info))
    (root / "meta_data.csv").write_text("a table\n")
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("prepared") / "set")


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


def extracted_copy(clips: Path, root: Path) -> Path:
    """What a process of this machine makes in a copy of the clip folders."""
    shutil.copytree(clips, root)
    assert last_line(extract(root)).startswith("23 extracted, 0 already there, 1 failed")
    return root


@pytest.fixture(scope="module")
def local(prepared, tmp_path_factory) -> Path:
    return extracted_copy(prepared, tmp_path_factory.mktemp("local") / "set")


def put(folder: Path, url: str) -> str:
    fsspec.filesystem("s3").put(f"{folder}/", f"{url}/", recursive=True)
    return url


@pytest.fixture(scope="module")
def on_s3(server, prepared) -> str:
    """Made by the command at a URL, with processes that read ahead, and fetch."""
    url = put(prepared, "s3://bucket/features")
    line = last_line(extract(url, *RESNET, "--num_workers", 2))
    assert line == f"23 extracted, 0 already there, 1 failed (see {url}/features_failures_audio_resnet18.csv)"
    return url


def test_features_at_a_url_are_those_of_a_local_run(on_s3, local):
    assert tree(on_s3) == tree(local)
    table = tree(on_s3)["features_failures_audio_resnet18.csv"].decode()
    assert f"{BAD},cropped_video.wav: is not a readable" in table


def test_a_second_run_fetches_no_sound_and_writes_nothing_but_its_list(server, on_s3):
    server.requests.clear()
    assert last_line(extract(on_s3)).startswith("0 extracted, 23 already there, 1 failed")
    kinds = Counter(kind for kind, _ in server.requests)
    assert kinds["PUT"] == 1  # features_failures_audio_resnet18.csv
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
