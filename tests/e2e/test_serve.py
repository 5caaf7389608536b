"""test.py --serve: a real server, real uploads, and a real browser."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from models.judging.serving.config import ServeConfig
from models.judging.serving.judge import Task, _judge
from tests.checkpoint_factory import write_small_checkpoint
from tests.commands import run_command, start_command
from tests.e2e.test_video import write_checkpoint, write_video
from tests.hostile_media import write_jpeg_bomb
from tests.trees.media import FPS, Media
from utils.errors import UsageError

KEEP_S, GONE_S, MAX_MB = 16, 8, 4
MAX_QUEUE, MAX_ADDRESS, MAX_SESSION = 60, 55, 20
PATIENCE_S = 300


def children(pid):
    """Processes that a process has started, without the one that multiprocessing keeps books with."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, tasks.read_text().split())
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for(found, what):
    """What `found()` returns once it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return value


class Served:
    """A server under way, and the folder that it may write to."""

    def __init__(self, root, checkpoint):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uploads = root / "uploads"
        flags = {"port": self.port, "checkpoint": checkpoint, "work_dir": self.uploads, "keep_s": KEEP_S}
        flags |= {"gone_s": GONE_S, "max_upload_mb": MAX_MB, "max_queue": MAX_QUEUE, "lag_frames": 0}
        flags |= {"max_queue_session": MAX_SESSION, "max_queue_address": MAX_ADDRESS}
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        self.command = start_command("test.py", "--serve", *words, "--explain", "false", "--device", "cpu")
        self.pid = self.command.processes[0].pid
        self.url = f"http://127.0.0.1:{self.port}/"
        wait_for(self.answers, "the server does not answer")

    def answers(self):
        assert self.command.running(), self.command.wait().stderr
        with contextlib.suppress(OSError):
            return self.ask("GET", "/")[0] == 200

    def ask(self, method, path, body=None, address="127.0.0.1", **headers):
        """(status, headers, body) of a request from an address; `X_Name` in `headers` is X-Name."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, 60, (address, 0))
        with contextlib.closing(connection):
            connection.request(
                method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
            )
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def files(self):
        return [path for path in self.uploads.rglob("*") if path.is_file()]

    def judge(self):
        (pid,) = wait_for(lambda: children(self.pid), "no judging process")
        return pid


class Person:
    """A browser's session, without the browser."""

    def __init__(self, served, address="127.0.0.1"):
        self.served, self.address = served, address
        _, headers, body = served.ask("GET", "/")
        self.headers = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
        self.token = re.search(rb'data-token="([^"]+)"', body)[1].decode()

    def ask(self, method, path, body=None, **headers):
        return self.served.ask(method, path, body, self.address, **self.headers, **headers)

    def post(self, body, **headers):
        return self.ask("POST", "/videos", body, X_Token=self.token, **headers)

    def send(self, body, name="clip.mp4"):
        status, _, answer = self.post(body, X_Name=name)
        assert status == 201, answer
        return json.loads(answer)["id"]

    def videos(self):
        return {video["id"]: video for video in json.loads(self.ask("GET", "/videos")[2])["videos"]}

    def state(self, video_id):
        return self.videos()[video_id]["state"]

    def outcome(self, video_id):
        wait_for(lambda: self.state(video_id) in ("done", "failed"), "a video is not judged")
        return self.videos()[video_id]

    def page(self, video_id):
        return self.ask("GET", f"/videos/{video_id}/page")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "best.pt")


@pytest.fixture(scope="module")
def served(tmp_path_factory, checkpoint):
    found = Served(tmp_path_factory.mktemp("served"), checkpoint)
    yield found
    found.command.signal(signal.SIGINT)
    ended = found.command.wait()
    assert ended.returncode == 0, ended.stderr
    assert list(found.uploads.iterdir()) == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Path of a third of a second of a talking face."""
    frames, waveform = Media(seed=3).make(0, duration_s=0.4)
    return write_video(
        tmp_path_factory.mktemp("clip") / "clip.mp4", frames[:8], waveform[: 8 * 48_000 // FPS]
    )


@contextlib.contextmanager
def stopped(pid):
    """A process that does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_verdict_is_for_its_owner_and_goes_with_time_or_its_owner(served, clip):
    ann, bob, eve = Person(served), Person(served), Person(served)
    of_ann, of_bob = ann.send(clip.read_bytes(), "%ED%81%B4%EB%A6%BD%3Cb%3E.mp4"), bob.send(clip.read_bytes())
    wait_for(lambda: {ann.state(of_ann), bob.state(of_bob)} == {"done"}, "they are not judged")
    left_s = time.monotonic()
    status, headers, page = ann.page(of_ann)
    assert status == 200
    word = ann.videos()[of_ann]["verdict"]
    assert word in ("real", "fake", "undecided")
    assert f"<strong>{word}</strong>" in page.decode()
    assert "클립&lt;b&gt;.mp4" in page.decode()
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert served.files() == []  # long before the verdict goes
    assert eve.page(of_ann)[0] == 404
    assert served.ask("GET", f"/videos/{of_ann}/page")[0] == 403
    assert eve.videos() == {}
    assert eve.ask("DELETE", f"/videos/{of_ann}", X_Token=eve.token)[0] == 404
    assert ann.page(of_ann)[0] == 200
    again = ann.send(clip.read_bytes())
    assert ann.ask("DELETE", f"/videos/{again}", X_Token=ann.token)[0] == 204
    assert again not in ann.videos()
    # Bob has closed his page, Ann goes on asking
    wait_for(lambda: ann.videos() is not None and bob.page(of_bob)[0] == 404, "a verdict outlives its page")
    assert time.monotonic() - left_s > GONE_S - 1
    assert ann.page(of_ann)[0] == 200
    wait_for(lambda: of_ann not in ann.videos(), "a verdict is not deleted")
    assert ann.page(of_ann)[0] == 404
    assert served.files() == []


@pytest.mark.slow
def test_fifty_uploads_side_by_side_each_get_their_own_answer(served, clip):
    videos = [clip.read_bytes() if number < 2 else os.urandom(300_000) for number in range(50)]
    deadline = time.monotonic() + PATIENCE_S
    under_way = threading.Barrier(len(videos), timeout=PATIENCE_S)

    def pieces(content):
        yield content[: len(content) // 2]
        under_way.wait()  # all of them have begun, and none has ended
        yield content[len(content) // 2 :]

    def upload(number):
        person = Person(served)
        content = videos[number]
        status, _, answer = person.post(
            pieces(content), X_Name=f"{number}.mp4", Content_Length=str(len(content))
        )
        assert status == 201, answer
        return person, json.loads(answer)["id"]

    with concurrent.futures.ThreadPoolExecutor(len(videos)) as pool:
        uploaded = list(pool.map(upload, range(len(videos))))
    ends = {}  # name -> state
    while len(ends) < len(videos):
        for person, video_id in uploaded:
            video = person.videos().get(video_id)  # None: its end was seen, long ago
            if video and video["state"] in ("done", "failed"):
                ends[video["name"]] = video["state"]
        assert time.monotonic() < deadline, ends
    assert ends == {f"{number}.mp4": "done" if number < 2 else "failed" for number in range(len(videos))}
    assert served.files() == []


@pytest.mark.slow
def test_a_queue_that_is_full_refuses_and_a_person_who_leaves_makes_place(served):
    people = [Person(served), Person(served), Person(served), Person(served, "127.0.0.2")]
    sent = {person: [] for person in people}

    def fill(person, number):
        for _ in range(number):
            sent[person].append(person.send(b"no video"))
            assert [len(one.videos()) for one in people] == list(map(len, sent.values()))  # nobody has left

    def refused(person):
        status, _, answer = person.post(b"no video")
        return status, json.loads(answer)["error"]

    with stopped(served.judge()):
        fill(people[0], MAX_SESSION)
        assert refused(people[0]) == (429, "20 of your videos are waiting already: try again later")
        fill(people[1], MAX_SESSION)
        fill(people[2], MAX_ADDRESS - 2 * MAX_SESSION)
        assert refused(people[2]) == (429, "55 videos from your address are waiting already: try again later")
        fill(people[3], MAX_QUEUE - MAX_ADDRESS)
        assert refused(people[3]) == (503, "60 videos are waiting already: try again later")
        assert "number 3 in the queue" in {video["text"] for video in people[0].videos().values()}
        last = people[3]
        last.ask("DELETE", f"/videos/{sent[last].pop()}", X_Token=last.token)
        fill(last, 1)
    for person in people:
        assert {person.outcome(video_id)["state"] for video_id in sent[person]} == {"failed"}
    assert served.files() == []


def test_too_large_a_file_is_refused_by_its_length_or_while_it_comes(served):
    person = Person(served)
    headers = {**person.headers, "X-Token": person.token}
    lines = ["POST /videos HTTP/1.1", f"Host: 127.0.0.1:{served.port}", "Content-Length: 3000000000"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode())  # not a byte of the 3 GB
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    sent = 0

    def endless():
        nonlocal sent
        while sent < 100_000_000:
            sent += 100_000
            yield bytes(100_000)

    with contextlib.suppress(ConnectionError):  # it may hang up before the answer is read
        status, _, answer = person.post(endless())  # in chunks
        assert (status, json.loads(answer)["error"]) == (413, f"the file is larger than {MAX_MB} MB")
    assert person.videos() == {}
    assert served.files() == []
    assert person.post(b"")[0] == 400


def test_an_upload_that_breaks_off_leaves_nothing(served):
    person = Person(served)
    lines = ["POST /videos HTTP/1.1", f"Host: 127.0.0.1:{served.port}", "Content-Length: 1000000"]
    lines += [f"{name}: {text}" for name, text in {**person.headers, "X-Token": person.token}.items()]
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as raw:
        raw.sendall("\r\n".join([*lines, "", "half of a video"]).encode())
        wait_for(person.videos, "the upload does not begin")
        wait_for(lambda: len(served.files()) == 1, "nothing of it is kept")
    wait_for(lambda: not person.videos(), "the upload does not end")
    wait_for(lambda: not served.files(), "a part of it is still there")


def test_an_upload_that_trickles_ends_when_nobody_waits_for_it(served):
    """Each byte comes before a connection counts as silent."""
    person = Person(served)
    lines = ["POST /videos HTTP/1.1", f"Host: 127.0.0.1:{served.port}", "Content-Length: 1000000"]
    lines += [f"{name}: {text}" for name, text in {**person.headers, "X-Token": person.token}.items()]
    ended = threading.Event()

    def trickle(raw):
        with contextlib.suppress(OSError):
            while not ended.wait(0.2):
                raw.sendall(b"x")

    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode())
        sender = threading.Thread(target=trickle, args=(raw,))
        sender.start()
        try:
            (video_id,) = wait_for(person.videos, "the upload does not begin")
            assert person.ask("DELETE", f"/videos/{video_id}", X_Token=person.token)[0] == 204
            wait_for(lambda: not served.files(), "it is still being sent")
        finally:
            ended.set()
            sender.join()


def test_a_checkpoint_that_can_judge_no_video_is_refused_at_once(tmp_path):
    write_small_checkpoint(tmp_path / "best.pt", "td3mf", "--task", "emotion", "--label_rule", "emotion")
    refused = run_command("test.py", "--serve", "--port", "0", "--checkpoint", tmp_path / "best.pt")
    assert refused.returncode == 2
    assert "tells emotions apart" in refused.stderr


def test_what_sending_again_would_not_mend_is_told(tmp_path):
    class Unable:
        def judge_tracks(self, *_):
            raise UsageError("give --weights_dir")

    task, config = Task(tmp_path, "clip.mp4"), ServeConfig(checkpoint=tmp_path / "best.pt")
    assert _judge(Unable(), task, config).reason == "it could not be judged: give --weights_dir"


@pytest.mark.slow
def test_hostile_files_cost_their_own_verdict_only(served, clip, tmp_path):
    person = Person(served)
    bomb = write_jpeg_bomb(tmp_path / "bomb.avi", 30_000, 30_000, honest_header=True)
    list_of_files = b"ffconcat version 1.0\nfile /etc/passwd\n"
    reasons = {
        person.send(bomb.read_bytes()): "more pixels",
        person.send(list_of_files): "a list of other files",
    }
    judge = served.judge()
    for video_id, reason in reasons.items():
        outcome = person.outcome(video_id)
        assert (outcome["state"], reason in outcome["text"]) == ("failed", True), outcome
        assert str(served.uploads) not in outcome["text"]
    (decoder,) = children(judge)
    with stopped(decoder):
        last = person.send(clip.read_bytes())
        wait_for(lambda: person.state(last) == "running", "it is not judged")
        os.kill(decoder, signal.SIGKILL)
    assert "signal SIGKILL" in person.outcome(last)["text"]
    assert person.outcome(person.send(clip.read_bytes()))["state"] == "done"
    assert served.judge() == judge
    assert served.files() == []


@pytest.mark.slow
def test_a_killed_judge_costs_one_verdict_and_is_replaced(served, clip):
    person, judge = Person(served), served.judge()
    with stopped(judge):
        ids = [person.send(clip.read_bytes()) for _ in range(2)]
        wait_for(lambda: person.state(ids[0]) == "running", "it is not judged")
        os.kill(judge, signal.SIGKILL)
        first, second = map(person.outcome, ids)
    assert (first["state"], "SIGKILL" in first["text"]) == ("failed", True)
    assert second["state"] == "done"
    assert served.judge() != judge
    assert served.files() == []


def test_who_is_not_our_own_page_changes_nothing(served):
    ann, eve = Person(served), Person(served)
    for headers in (
        {},
        {"X_Token": "0" * len(ann.token)},
        {"X_Token": eve.token},
        {"X_Token": ann.token, "Origin": "http://evil.example"},
        {"X_Token": ann.token, "Origin": f"http://127.0.0.1:{served.port + 1}"},
        {"X_Token": ann.token, "Origin": "null"},
    ):
        status, answered, _ = ann.ask("POST", "/videos", b"video", **headers)
        assert status == 403, headers
        assert not [name for name in answered if name.lower().startswith("access-control")]
    assert served.ask("POST", "/videos", b"video", X_Token=ann.token)[0] == 403
    forged = ann.headers["Cookie"].replace("=", "=x", 1)
    assert served.ask("POST", "/videos", b"video", X_Token=ann.token, Cookie=forged)[0] == 403
    assert (
        served.ask("OPTIONS", "/videos", Origin="http://evil.example")[1]["Access-Control-Allow-Origin"]
        is None
    )
    assert ann.videos() == {}
    assert served.files() == []


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:{port}", "[::1]", ""]
)
def test_a_site_whose_name_leads_here_is_refused(served, host):
    status, _, body = served.ask("GET", "/", Host=host.format(port=served.port))
    assert status == 400
    assert b"data-token" not in body
    assert served.ask("GET", "/", Host=f"localhost:{served.port}")[0] == 200


def test_no_path_and_no_name_leads_out(served, checkpoint):
    person = Person(served)
    up = "../" * 12
    for path in (
        f"/static/{up}etc/passwd",
        "/static/..%2f..%2f..%2f..%2ftest.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        f"/videos/{up}etc/passwd/page",
        "/videos/..%2f..%2fbest.pt/page",
        "/page.css/../server.py",
        f"/{checkpoint}",
        "//etc/passwd",
    ):
        status, _, body = person.ask("GET", path)
        assert status in (404, 308), path  # 308: the same with a single slash
        assert b"root:" not in body
        assert b"import " not in body
    with stopped(served.judge()):
        ids = [
            person.send(b"video", name)
            for name in (f"{up}evil.mp4", "..%2f..%2fevil.mp4", "C:%5Cevil%0A.mp4", "..")
        ]
        assert {path.name for path in served.files()} == {"video"}
        shown = [person.videos()[video_id]["name"] for video_id in ids]
    assert shown == ["evil.mp4", "evil.mp4", "evil\ufffd.mp4", ".."]
    for video_id in ids:
        person.outcome(video_id)
    assert served.files() == []


class Window:
    """The page in a browser, and what the browser complains of."""

    def __init__(self, browser, served, width=1280, scheme="light"):
        options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        # asked for early: a key pressed right after the browser is asked for dialogs may overtake the request
        self.page.on("filechooser", lambda _: None)
        self.page.goto(served.url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.mark.slow
def test_the_page_works_by_keyboard_and_says_what_happens(browser, served, clip, tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video")
    (tmp_path / "huge.mp4").write_bytes(bytes(MAX_MB * 1_000_000 + 1))
    with Window(browser, served, width=390, scheme="dark") as window:
        page = window.page
        page.keyboard.press("Tab")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files([clip, tmp_path / "text.mp4", tmp_path / "huge.mp4"])
        page.locator(".failed", has_text="Not sent: larger than 4 MB.").wait_for()
        failed = page.locator(".failed", has_text="Not judged: cannot be decoded")
        failed.wait_for(timeout=1000 * PATIENCE_S)
        said = page.get_by_role("status").text_content()
        assert said.startswith("text.mp4: Not judged")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        link = page.get_by_role("link", name="Open the verdict page of clip.mp4 in a new tab")
        link.wait_for()
        page.get_by_label("Choose videos, or drop them here").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Open the verdict page"
        with window.context.expect_page() as opened:
            page.keyboard.press("Enter")
        verdict = opened.value
        verdict.wait_for_load_state()
        assert verdict.title().startswith("clip.mp4: ")
        assert verdict.locator("svg.plot").count() == 1
        assert verdict.locator(".pictures img").count() == 4
        verdict.close()
        for name in ("clip.mp4", "text.mp4", "huge.mp4"):
            button = page.get_by_role("button", name=f"Delete {name}")
            button.focus()
            page.keyboard.press("Enter")
            button.wait_for(state="detached")
        assert page.get_by_role("listitem").count() == 0
        assert page.evaluate("document.activeElement.id") == "file"
        assert window.errors == []
    assert served.files() == []


@pytest.mark.slow
def test_a_dropped_video_is_judged_no_more_once_its_browser_is_closed(browser, served, clip):
    judge = served.judge()
    with stopped(judge):
        with Window(browser, served) as window:
            window.page.evaluate(
                "bytes => {const files = new DataTransfer();"
                "files.items.add(new File([new Uint8Array(bytes)], 'dropped.mp4'));"
                "document.getElementById('drop').dispatchEvent("
                "new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: files}))}",
                list(clip.read_bytes()),
            )
            window.page.get_by_text("Judging: starting").wait_for()
            assert len(served.files()) == 1
            assert window.errors == []
        wait_for(lambda: not served.files(), "the video outlives its page")
    person = Person(served)
    assert person.outcome(person.send(clip.read_bytes()))["state"] == "done"
    assert served.judge() != judge


@pytest.mark.slow
def test_nothing_remains_of_a_server_that_is_killed(tmp_path, checkpoint, clip):
    (tmp_path / "uploads/judged_videos_x").mkdir(parents=True)  # of one whose machine lost its power
    (tmp_path / "uploads/judged_videos_x/video").write_bytes(b"video")
    server = Served(tmp_path, checkpoint)
    assert len(list(server.uploads.iterdir())) == 1
    judge, person = server.judge(), Person(server)
    with stopped(judge):
        ids = [person.send(clip.read_bytes()) for _ in range(3)]
        wait_for(lambda: person.state(ids[0]) == "running", "it is not judged")
        assert len(server.files()) == 3
        server.command.signal(signal.SIGKILL)
        server.command.wait()
    wait_for(lambda: not list(server.uploads.iterdir()), "uploads are still there")
    command_line = Path(f"/proc/{judge}/cmdline")  # empty if nobody has asked how it ended
    wait_for(lambda: not command_line.is_file() or not command_line.read_bytes(), "the judge goes on")
