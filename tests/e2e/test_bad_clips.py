"""Clips that turn unreadable while a run is under way, and loader workers that die or hang."""

import csv
import os
import shutil
import signal
import time

import pytest

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader, training_loader
from loaders.batches.windows import ClipDataset
from loaders.batches.worker_processes import LoaderError
from loaders.splits.files import read_split
from tests.clip_factory import make_clip, write_clip_folder
from tests.commands import ok, start_command
from tests.e2e.test_training import TINY, train
from tests.kill import differences, kill_at
from utils.clip.files import VIDEO_NAME
from utils.errors import ClipError, DatasetError
from utils.run.bad_clips import BadClips

DATA = DataConfig(window_s=0.4, windows_per_clip=2)


def spoil(folder):
    video = folder / VIDEO_NAME
    video.write_bytes(video.read_bytes()[:200])


@pytest.fixture(scope="module")
def begun(prepared_root, tmp_path_factory):
    """(data root, run of one epoch on it, a training and a validation clip that were spoilt after it)."""
    folder = tmp_path_factory.mktemp("bad")
    root, run_dir = shutil.copytree(prepared_root, folder / "data"), folder / "run"
    ok(train(root, run_dir, "--epochs", "1", "--schedule", "constant"))
    parts = read_split(run_dir / "splits" / "fakeavceleb.csv").split_of
    chosen = [
        sorted(clip_id for clip_id, part in parts.items() if part == name)[0] for name in ("train", "val")
    ]
    for clip_id in chosen:
        spoil(root / clip_id.removeprefix("fakeavceleb/"))
    return root, run_dir, chosen


def test_a_clip_that_turns_unreadable_stops_the_run_with_its_name(begun, tmp_path):
    root, run_dir, bad = begun
    run_dir = shutil.copytree(run_dir, tmp_path / "run")
    result = train(root, run_dir, "--resume", "--epochs", "2")
    assert result.returncode == 1
    assert any(clip_id.removeprefix("fakeavceleb/") in result.stderr for clip_id in bad)
    assert "Traceback" not in result.stderr
    result = train(root, run_dir, "--resume", "--epochs", "2", "--max_bad_clips", "1")
    assert result.returncode == 1
    assert "2 clips cannot be read, --max_bad_clips allows 1" in result.stderr
    assert all(clip_id in result.stderr for clip_id in bad)


def test_bad_clips_are_set_aside_counted_and_left_out_whether_killed_or_not(begun, tmp_path):
    root, run_dir, bad = begun
    flags = ("--resume", "--epochs", "3", "--max_bad_clips", "2", "--save_every_steps", "1")
    unbroken, killed = (shutil.copytree(run_dir, tmp_path / name) for name in ("unbroken", "killed"))
    result = ok(train(root, unbroken, *flags))
    for clip_id in bad:
        assert result.stderr.count(f"{clip_id.removeprefix('fakeavceleb/')}/{VIDEO_NAME}") == 1  # said once
    rows = list(csv.DictReader((unbroken / "metrics.csv").open()))
    assert [int(row["bad_clips"]) for row in rows] == [0, 2, 2]
    process = start_command("train.py", "--data_root", root, "--run_dir", killed, *TINY, *flags)
    last = killed / "last.pt"
    first = last.stat().st_ino
    assert kill_at(process, lambda: last.exists() and last.stat().st_ino != first, group=True)
    process.wait()
    ok(train(root, killed, *flags))
    assert not differences(unbroken, killed)


def test_another_clip_of_the_same_label_stands_in_and_batches_keep_their_size(tmp_path):
    folders = [write_clip_folder(tmp_path / str(n), num_frames=15, seed=n) for n in range(6)]
    clips = [make_clip(folder, clip_id=str(n), label=n % 2) for n, folder in enumerate(folders)]
    spoil(clips[1].folder)
    spoil(clips[3].folder)
    bad_clips = BadClips(2)
    workers = WorkerConfig(batch_size=3, num_workers=1)
    batches, sampler = training_loader(clips, DATA, workers, balance="none", seed=0, bad_clips=bad_clips)
    seen = [clip_id for batch in batches for clip_id in batch.clip_ids]
    assert sorted(seen) == ["0", "2", "4", "5", "5", "5"]
    assert bad_clips.found == {"1": 0, "3": 0}
    sampler.epoch = bad_clips.epoch = 1
    assert not {index for index, _ in sampler} & {1, 3}
    assert len(list(sampler)) == 6
    spoil(clips[5].folder)
    with pytest.raises(DatasetError, match="3 clips cannot be read"):
        list(batches)


def test_a_clip_without_some_of_its_windows_gets_no_score_and_is_not_read_again(tmp_path):
    clips = [make_clip(write_clip_folder(tmp_path / str(n), num_frames=30), clip_id=str(n)) for n in range(3)]
    bad_clips = BadClips(1)
    workers = WorkerConfig(batch_size=2, num_workers=0)
    batches = evaluation_loader(clips, DATA, workers, bad_clips=bad_clips)
    spoil(clips[1].folder)
    assert [batch.clip_ids for batch in batches] == [("0", "0"), ("2", "2")]
    assert bad_clips.found == {"1": 0}
    bad_clips.epoch = 1
    assert len(batches) == 2
    with pytest.raises(ClipError):
        evaluation_loader(clips, DATA, workers)


@pytest.mark.parametrize(("fault", "timeout_s", "message"), [
    (lambda: os.kill(os.getpid(), signal.SIGSEGV), 60, "worker ended with signal SIGSEGV while it read bad"),
    (lambda: os._exit(3), 60, "worker ended with status 3 while it read bad"),
    (lambda: time.sleep(100), 2, "no loader worker gave a batch for 2 s while they read bad"),
])  # fmt: skip
def test_a_loader_worker_that_dies_or_hangs_is_reported_with_its_clip(
    tmp_path, monkeypatch, fault, timeout_s, message
):
    clips = [make_clip(write_clip_folder(tmp_path / name, num_frames=15), clip_id=name)
             for name in ("a", "b", "bad", "c")]  # fmt: skip
    read = ClipDataset.__getitem__

    def read_or_fail(dataset, key):
        if key[0] == 2:
            fault()
        return read(dataset, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", read_or_fail)  # inherited by the forked workers
    workers = WorkerConfig(batch_size=2, num_workers=1, loader_timeout_s=timeout_s)
    batches, _ = training_loader(clips, DATA, workers, balance="none", seed=0)
    with pytest.raises(LoaderError, match=message):
        list(batches)


def test_a_worker_that_dies_during_a_step_is_reported_when_the_step_has_ended(tmp_path, monkeypatch):
    clips = [make_clip(write_clip_folder(tmp_path / name, num_frames=15), clip_id=name)
             for name in ("a", "b", "bad", "c")]  # fmt: skip
    read, begun = ClipDataset.__getitem__, tmp_path / "begun"

    def read_or_die(dataset, key):
        if key[0] == 2:
            while not begun.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGSEGV)
        return read(dataset, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", read_or_die)
    workers = WorkerConfig(batch_size=1, num_workers=1)
    batches = evaluation_loader(clips, DataConfig(window_s=0.4, windows_per_clip=1), workers)
    iterator = iter(batches)
    assert next(iterator).clip_ids == ("a",)
    begun.touch()
    (worker,) = batches._iterator._workers
    while worker.is_alive():  # torch would raise here
        time.sleep(0.01)
    with pytest.raises(LoaderError, match="SIGSEGV while it read bad"):
        next(iterator)
