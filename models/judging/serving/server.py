"""The page's server: who may ask for what, and uploads that are counted while they come.

Flask on Werkzeug's threaded server: it hands an upload on while it comes, so that the name of the host, the
token, the size and the queue are checked before a byte of it is read. (Waitress, for one, first writes all of
a body to a file of its own.) It is made for few people at a time, as this page is.

An upload is the body of a POST, not a form: there is nothing to parse, and no page of another site can send
it without asking first. A person is a session cookie, which only the server can make. What changes something
needs the token of that session as well, and a browser must say that our own page asks. A video's id has 192
random bits, and only its owner's session may use it.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import socket
import threading
import time
import urllib.parse
from typing import Any

import flask
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    NotFound,
    RequestTimeout,
    ServiceUnavailable,
    TooManyRequests,
)
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from models.judging.serving.config import ServeConfig
from models.judging.serving.folders import remove_tree, upload_folder
from models.judging.serving.queue import DONE, SENDING, FullError, Job, OwnFullError, VideoQueue
from utils.errors import UsageError
from utils.names import one_line
from utils.report.pages import TEMPLATES

log = logging.getLogger("test")
MAX_CONNECTIONS = 256
SILENCE_S = 30.0  # a connection that says nothing for this time is closed
UPLOAD_S = 3600.0  # for one upload
PIECE_BYTES = 1 << 20
NAME_LETTERS = 120
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # a browser keeps nothing of a video on the disk either
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# a verdict page has its styles and pictures inside, and no scripts
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
)
PAGE_POLICY += "frame-ancestors 'none'; sandbox"


class Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_request(self, *_: Any) -> None:
        """Browsers ask every second: say nothing."""


class Server(ThreadedWSGIServer):
    """A thread per connection, of which there are at most MAX_CONNECTIONS; others are closed at once."""

    def __init__(self, listening: socket.socket, app: flask.Flask) -> None:
        host, port = listening.getsockname()
        super().__init__(host, port, app, Handler, fd=listening.fileno())
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def verify_request(self, *_: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, *request: Any) -> None:
        try:
            super().process_request_thread(*request)
        finally:
            self._free.release()


def serve(config: ServeConfig) -> None:
    """Serve the page until SIGINT or SIGTERM. Raises UsageError if the address cannot be had."""
    try:
        listening = socket.create_server((config.host, config.port), backlog=128)
    except OSError as error:
        raise UsageError(f"--host {config.host} --port {config.port}: {error.strerror}") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listening, upload_folder(config.work_dir) as uploads:
        queue = VideoQueue(config, uploads)
        try:
            queue.start()
            port = listening.getsockname()[1]
            server = Server(listening, make_app(queue, config, port))
            log.info("open http://%s:%d/ in a browser; Ctrl-C ends", config.host, port)
            server.serve_forever()
        finally:
            queue.close()
    log.info("ended; no upload and no verdict is left")


def make_app(queue: VideoQueue, config: ServeConfig, port: int) -> flask.Flask:
    """The page as a WSGI application."""
    app = flask.Flask(__name__)
    app.config |= {
        "SECRET_KEY": secrets.token_bytes(32),
        "SESSION_COOKIE_NAME": f"videos_{port}",  # cookies do not tell ports apart
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "TRUSTED_HOSTS": [config.host, "127.0.0.1", "localhost"],  # a site whose name leads here is not
        "MAX_CONTENT_LENGTH": config.max_upload_mb * 1_000_000,
    }
    app.before_request(_require_own_page)
    app.after_request(_harden)
    app.register_error_handler(HTTPException, _tell_error)
    app.register_error_handler(OwnFullError, lambda full: _tell_error(TooManyRequests(str(full))))
    app.register_error_handler(FullError, lambda full: _tell_error(ServiceUnavailable(str(full))))

    @app.get("/")
    def start() -> str:
        flask.session.setdefault("owner", secrets.token_urlsafe(24))
        token = flask.session.setdefault("token", secrets.token_urlsafe(24))
        return flask.render_template("serve.html", token=token, config=config)

    @app.get("/page.css")
    def style() -> flask.Response:
        return flask.send_from_directory(TEMPLATES, "page.css")

    @app.get("/videos")
    def videos() -> dict[str, Any]:
        return {"videos": queue.of(_owner())}

    @app.post("/videos")
    def upload() -> tuple[dict[str, str], int]:
        stream = flask.request.stream  # RequestEntityTooLarge if its length says so
        length = flask.request.content_length
        if length == 0:
            raise BadRequest("the file is empty")
        num_bytes = length or config.max_upload_mb * 1_000_000
        job = queue.open(_owner(), flask.request.remote_addr or "", _name(), num_bytes)
        _receive(stream, job, queue)
        return {"id": job.id}, 201

    @app.delete("/videos/<job_id>")
    def forget(job_id: str) -> tuple[str, int]:
        queue.remove(_own(queue, job_id))
        return "", 204

    @app.get("/videos/<job_id>/page")
    def page(job_id: str) -> flask.Response:
        job = queue.find(_owner(), job_id)
        if job is None or job.state != DONE:
            return flask.make_response(flask.render_template("gone.html"), 404)
        response = flask.make_response(job.page)
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        return response

    return app


def _receive(stream: Any, job: Job, queue: VideoQueue) -> None:
    """Write an upload to its place and put it into the queue; if that fails, nothing of it remains."""
    is_queued, ended = False, threading.Event()
    connection = flask.request.environ["werkzeug.socket"]
    deadline = time.monotonic() + UPLOAD_S
    watch = threading.Thread(target=_hang_up, args=(connection, job, deadline, ended), daemon=True)
    try:
        with job.video.open("wb") as file:
            watch.start()
            while piece := stream.read(PIECE_BYTES):
                _require_time(job, deadline)
                file.write(piece)
            _require_time(job, deadline)
            if not file.tell():
                raise BadRequest("the file is empty")
        is_queued = queue.submit(job)
    except OSError as error:
        _require_time(job, deadline)
        if isinstance(error, (ConnectionError, TimeoutError)):
            raise BadRequest("the connection broke") from error
        raise ServiceUnavailable(f"it cannot be written: {error.strerror}") from error
    except BadRequest:  # of a connection that broke, maybe by _hang_up
        _require_time(job, deadline)
        raise
    finally:
        ended.set()
        if not is_queued:
            queue.remove(job)
            remove_tree(job.folder)


def _require_time(job: Job, deadline: float) -> None:
    """Raise NotFound for a job that was deleted, RequestTimeout for one that takes too long."""
    if job.state != SENDING:
        raise NotFound("it was deleted while it was sent")
    if time.monotonic() > deadline:
        raise RequestTimeout(f"sending took longer than {UPLOAD_S:g} s")


def _hang_up(connection: Any, job: Job, deadline: float, ended: threading.Event) -> None:
    """Stop to listen to who sends a job that nobody waits for: reading waits for a whole piece."""
    while not ended.wait(1.0):
        if job.state != SENDING or time.monotonic() > deadline:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            return


def _require_own_page() -> None:
    """Raise Forbidden for a request that changes something, unless our own page sends it."""
    request = flask.request
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    token = flask.session.get("token", "")
    given = request.headers.get("X-Token", "")
    if not token or not secrets.compare_digest(token.encode(), given.encode()):
        raise Forbidden("the token is missing or wrong: load the page again")
    if request.headers.get("Origin", request.host_url.rstrip("/")) != request.host_url.rstrip("/"):
        raise Forbidden("another site's page asks")


def _harden(response: flask.Response) -> flask.Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Cache-Control"] = HEADERS["Cache-Control"]
    return response


def _tell_error(error: HTTPException) -> tuple[dict[str, str | None], int]:
    texts = {413: f"the file is larger than {flask.current_app.config['MAX_CONTENT_LENGTH'] / 1e6:.0f} MB"}
    code = error.code or 500
    return {"error": texts.get(code, error.description)}, code


def _owner() -> str:
    """The session's owner. Raises Forbidden if there is no session."""
    owner: str = flask.session.get("owner", "")
    if not owner:
        raise Forbidden("there is no session: load the page first")
    return owner


def _own(queue: VideoQueue, job_id: str) -> Job:
    job = queue.find(_owner(), job_id)
    if job is None:
        raise NotFound("there is no such video")
    return job


def _name() -> str:
    """What the owner calls the file: text for people, never a path."""
    given = urllib.parse.unquote(flask.request.headers.get("X-Name", ""))
    return one_line(given.replace("\\", "/").rpartition("/")[2].strip(), NAME_LETTERS) or "video"
