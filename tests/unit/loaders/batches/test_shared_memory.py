"""Batches that workers hand over in /dev/shm, which a container has little of."""

import os
import signal
import threading
import time

import pytest

from loaders.batches import data_loader, worker_processes
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import (
    IN_HAND,
    WorkerConfig,
    evaluation_loader,
    fit_shared_memory,
    training_loader,
)
from loaders.batches.windows import ClipDataset
from loaders.batches.worker_processes import LoaderError
from tests.clip_factory import make_clip, write_clip_folder
from utils.clip_type import INPUTS
from utils.run import memory
from utils.run.distributed import StopWaiting
from utils.run.resume import stop_request, stoppable

DATA = DataConfig(window_s=0.4, windows_per_clip=1)


def offer(monkeypatch, num_bytes):
    for module in (data_loader, worker_processes):
        monkeypatch.setattr(module, "free_shared_memory", lambda: num_bytes)


@pytest.mark.parametrize(
    ("room", "wanted", "expected"),
    [  # room: batches that fit; (workers, ahead) wanted and used
        (100, (8, 4), (8, 4)),
        (8 * 4 + IN_HAND, (8, 4), (8, 4)),
        (20, (8, 4), (8, 2)),
        (9, (8, 4), (7, 1)),
        (IN_HAND + 1, (8, 4), (1, 1)),
        (IN_HAND, (8, 4), (0, 0)),
        (0, (8, 4), (0, 0)),
        (0, (0, 4), (0, 4)),
        (None, (8, 4), (8, 4)),
    ],
)
def test_workers_and_their_lead_are_fitted_to_the_free_shared_memory(monkeypatch, room, wanted, expected):
    offer(monkeypatch, None if room is None else (room + 0.01) * 1e6 / 0.9)
    workers, prefetch, text = fit_shared_memory(*wanted, 1e6)
    assert (workers, prefetch) == expected
    assert bool(text) == (expected != wanted)


def test_several_processes_share_it(monkeypatch):
    offer(monkeypatch, (2 * (8 + IN_HAND) + 0.01) * 1e6 / 0.9)
    assert fit_shared_memory(8, 1, 1e6)[:2] == (8, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert fit_shared_memory(8, 1, 1e6)[:2] == (3, 1)


def test_free_shared_memory_is_that_of_the_file_system(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path)
    status = os.statvfs(tmp_path)
    assert memory.free_shared_memory() == pytest.approx(status.f_bavail * status.f_frsize, rel=0.1)
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path / "none")
    assert memory.free_shared_memory() is None


def clips_in(folder, count=4):
    return [
        make_clip(write_clip_folder(folder / str(n), num_frames=15), clip_id=f"clip {n}", label=n % 2)
        for n in range(count)
    ]


def test_a_loader_does_without_workers_and_says_so_once(tmp_path, monkeypatch, caplog):
    offer(monkeypatch, 5_000_000)
    clips, workers = clips_in(tmp_path), WorkerConfig(batch_size=4, num_workers=2)
    loaders = [
        evaluation_loader(clips, DATA, workers),
        training_loader(clips, DATA, workers, balance="none", seed=0)[0],
    ]
    for loader in loaders:
        caplog.clear()
        assert loader.num_workers == 0
        assert [len(batch.clip_ids) for _ in range(2) for batch in loader] == [4, 4]
        assert caplog.text.count("/dev/shm has 5 MB free, and 2 loader workers") == 1
        assert "--shm-size" in caplog.text


def test_the_estimate_is_at_least_what_a_batch_takes(tmp_path):
    folder = write_clip_folder(tmp_path / "clip", num_frames=60, size=224)
    for config in (DATA, DataConfig(window="released", windows_per_clip=1), DataConfig(window_s=2.4)):
        for inputs in (INPUTS, frozenset({"sound"}), frozenset({"video"})):
            window = ClipDataset([make_clip(folder)], config, training=False, inputs=inputs)[0, 0]
            tensors = (window.video, window.waveform, window.landmarks, window.has_landmarks)
            taken = sum(tensor.nbytes for tensor in tensors)
            assert taken <= config.window_bytes(inputs) <= 2 * taken + 3e6


def stuck(monkeypatch, seconds=60.0):
    """Workers that read no clip for a long time."""
    monkeypatch.setattr(ClipDataset, "__getitem__", lambda dataset, key: time.sleep(seconds))


@pytest.mark.parametrize(("free", "blamed"), [(1000, "/dev/shm, where workers"), (10**12, "clip 0")])
def test_a_time_out_blames_a_full_shared_memory_before_clips(tmp_path, monkeypatch, free, blamed):
    offer(monkeypatch, 10**12)
    stuck(monkeypatch)
    workers = WorkerConfig(batch_size=2, num_workers=1, loader_timeout_s=1)
    loader = evaluation_loader(clips_in(tmp_path), DATA, workers)
    offer(monkeypatch, free)  # others have taken it since
    with pytest.raises(LoaderError, match=blamed) as caught:
        list(loader)
    assert ("preprocess.verify" in str(caught.value)) == (blamed == "clip 0")


def test_a_worker_that_shared_memory_kills_is_not_blamed_on_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(ClipDataset, "__getitem__", lambda dataset, key: os.kill(os.getpid(), signal.SIGBUS))
    loader = evaluation_loader(clips_in(tmp_path), DATA, WorkerConfig(batch_size=2, num_workers=1))
    offer(monkeypatch, 1000)
    with pytest.raises(LoaderError, match=r"SIGBUS while it read clips: /dev/shm"):
        list(loader)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_ends_a_wait_for_a_batch(tmp_path, monkeypatch, number):
    stuck(monkeypatch)
    loader = evaluation_loader(clips_in(tmp_path), DATA, WorkerConfig(batch_size=2, num_workers=1))
    with stop_request() as request:
        timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
        timer.start()
        with pytest.raises(StopWaiting):
            list(loader)
        assert request.heard() == number
        with pytest.raises(StopWaiting), stoppable():  # heard before the next wait begins
            pytest.fail("it waits")
    with stoppable():
        pass
