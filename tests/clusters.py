"""What runs elsewhere, on this machine: a Ray cluster of three nodes, and an S3 server that counts.

Their packages are imported where they start: all processes of pytest import this file.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs

import pytest

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
SECRET = "well-kept-secret"


@contextlib.contextmanager
def ray_cluster():
    """A ray.cluster_utils.Cluster with a head and two more nodes."""
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # These hooks would stay in this process. A fork that lets go of them crashes in their gRPC clients:
        # one of multiprocessing frees those for the exit on Python 3.13, a loader worker that for SIGTERM.
        patch.setattr(Node, "_register_shutdown_hooks", lambda node: None)
        found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        for _ in range(2):
            found.add_node(**NODE)
        found.wait_for_nodes()
        yield found
        found.shutdown()


class CountingServer:
    """An S3 server on a free port; `requests` holds (kind, bytes of the answer) of each request."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.app = DomainDispatcherApplication(create_backend_app)
        self.requests: list[tuple[str, int]] = []
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = make_server("127.0.0.1", 0, self, threaded=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def __call__(self, environ, start_response):
        body = b"".join(self.app(environ, start_response))
        kind = environ["REQUEST_METHOD"]
        if kind == "GET" and "list-type" in parse_qs(environ["QUERY_STRING"]):
            kind = "LIST"
        self.requests.append((kind, len(body)))
        return [body]


@contextlib.contextmanager
def s3_server() -> Iterator[CountingServer]:
    """A server with the bucket "bucket", whose address and credentials are in the environment.

    All servers of a process hold the same files.
    """
    import s3fs

    found = CountingServer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", found.url)
        s3fs.S3FileSystem.clear_instance_cache()  # of a server that is gone
        s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)
        yield found
    found.server.shutdown()
