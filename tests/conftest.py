"""Fixtures and markers. Tests run offline and on the CPU; a skip says why."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from tests.clip_factory import write_fakeavceleb_tree
from tests.commands import ADDRESS, forking_python, server_address

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than about ten seconds")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    torch.set_num_threads(1)  # more spin, and several times slower where other processes work, too


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """Have the processes of pytest forked from one that has imported the packages."""
    os.environ[ADDRESS] = server_address()
    for spec in specs:
        spec.python = f"{forking_python()} --fork"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect tests without garbage collections, and exempt what is kept till the end from those of tests."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference fixtures and real clips next to the project."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared next to the project: its fixtures and real clips are not part of it")
    return SHARED


@pytest.fixture(scope="session")
def prepared_root(tmp_path_factory) -> Path:
    """A prepared FakeAVCeleb tree of 12 identities with small synthetic clips; do not write into it."""
    return write_fakeavceleb_tree(tmp_path_factory.mktemp("prepared") / "fakeavceleb", num_identities=12)
