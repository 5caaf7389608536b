import threading
import time

import pytest

from loaders.audit.leaks import require_no_leak
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.listing import ListingConfig, select_clips
from loaders.splits.drawing import Split
from tests.clip_factory import make_clip
from tests.trees.prepared import touch_clip
from utils.run import progress as module
from utils.run.progress import FEW, Bar, map_files, progress, told_progress


@pytest.fixture
def long_work(monkeypatch):
    """All work counts as long."""
    monkeypatch.setattr(module, "DELAY_S", 0.0)


def test_items_come_in_order_from_several_threads(capfd):
    threads = set()
    barrier = threading.Barrier(2, timeout=30)

    def double(number):
        if number < 2:  # of different chunks: both must be under way at the same time
            barrier.wait()
        threads.add(threading.get_ident())
        return 2 * number

    items = list(range(3 * FEW))
    assert list(map_files(double, items, "numbers")) == [2 * number for number in items]
    assert len(threads) > 1
    threads.clear()
    assert list(map_files(double, items[2:FEW], "numbers")) == [2 * number for number in items[2:FEW]]
    assert threads == {threading.get_ident()}
    assert capfd.readouterr().err == ""  # it did not take long


def test_the_first_error_is_raised_and_no_more_work_begins():
    begun = []

    def read(number):
        begun.append(number)
        if number >= 1000:
            time.sleep(0.01)  # without it, all work could be done before the first error is seen
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="1000"):
        list(map_files(read, range(100_000), "numbers"))
    assert len(begun) < 2000  # 1,000 and one of each chunk of 64 would be 2,547


def test_long_work_shows_a_bar_in_the_main_process_alone(long_work, monkeypatch, capfd):
    list(map_files(str, range(100), "counting"))
    list(progress(range(3), "walking", "folder"))
    shown = capfd.readouterr().err
    assert "counting: " in shown
    assert "100/100" in shown or "0/100" in shown
    assert "walking: " in shown
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    list(map_files(str, range(100), "counting"))
    list(progress(range(3), "walking", "folder"))
    assert capfd.readouterr().err == ""


def test_listing_checksums_and_counting_windows_are_not_silent(long_work, tmp_path, capfd):
    clips = [make_clip(touch_clip(tmp_path / f"{number:02d}")) for number in range(FEW + 1)]
    listing = select_clips("test", tmp_path, clips, ListingConfig())
    assert listing.clips == clips
    split_of = {clip.clip_id: "train" for clip in clips}
    require_no_leak(listing, Split("test", split_of, dict.fromkeys(split_of, "test/id1"), set()))
    evaluation_loader(clips, DataConfig(windows_per_clip=1), WorkerConfig(num_workers=0))
    shown = capfd.readouterr().err
    for what in ("test: clips:", "test: clips that are not listed:", "checksums:", "windows of the clips:"):
        assert what in shown


def test_a_bar_tells_who_listens_and_draws_nothing_meanwhile(capfd):
    told = []
    with told_progress(lambda *values: told.append(values)):
        for step in (1, 2):
            with Bar(total=2, desc=f"face {step}", unit="window") as bar:
                bar.update()
                bar.update()
    assert told == [(f"face {step}", "window", done, 2) for step in (1, 2) for done in (1, 2)]
    assert capfd.readouterr().err == ""
    with Bar(total=2, desc="seen") as bar:
        bar.update()
    assert "seen" in capfd.readouterr().err
    assert len(told) == 4
