"""Fixtures of the tests from end to end."""

from __future__ import annotations

import gc

import pytest

from tests.browser import launched_browser
from tests.clusters import ray_cluster, s3_server
from tests.commands import forking_environment


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. It ends with its module: other tests have event loops of their own."""
    with launched_browser() as process:
        yield process


@pytest.fixture(scope="module")
def forked_trials():
    """The trials of a search are forks, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in forking_environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def collected():
    """At the end, garbage is collected here: in a fork, what is left of Ray's clients of gRPC crashes it."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def cluster(collected):
    """A Ray cluster of three nodes with a core each."""
    with ray_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def server():
    """An S3 server with a bucket "bucket", in the environment."""
    with s3_server() as found:
        yield found
