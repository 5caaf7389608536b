"""What a loader's workers print."""

import multiprocessing
import os
import time
from multiprocessing import resource_sharer
from multiprocessing.connection import Client

import pytest

from loaders.batches.worker_processes import set_up_worker


def hand_over(pipe, as_loader_worker):
    """Offer a file as torch does with the memory of a batch."""
    if as_loader_worker:
        set_up_worker(0)
    offered = resource_sharer.DupFd(os.open(os.devnull, os.O_RDONLY))
    pipe.send(offered._id)
    time.sleep(0.3)  # the serving thread reports in this time


@pytest.mark.parametrize(
    ("as_loader_worker", "reported"), [(True, False), (False, True)], ids=["loader worker", "any process"]
)
def test_a_main_process_that_stops_receiving_is_no_error(capfd, as_loader_worker, reported):
    """A stop request may come in the middle of the handing over of a batch."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    worker = fork.Process(target=hand_over, args=(theirs, as_loader_worker))
    worker.start()
    address, _ = ours.recv()
    Client(address, authkey=multiprocessing.current_process().authkey).close()
    worker.join()
    assert ("EOFError" in capfd.readouterr().err) == reported
