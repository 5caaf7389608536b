"""Pages in a real browser that has no network."""

from __future__ import annotations

import contextlib
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def launched_browser():
    """A headless Chromium from the system's packages; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        # a container's root has no sandbox; the pages are our own
        process = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield process
        process.close()


class Opened:
    """A page in a fresh window, and all that the browser said and asked for."""

    def __init__(self, browser, path, *, width=1280, scheme="light"):
        options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "offline": True}
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.blocked = []  # of the requests, those that the page's own policy forbids
        self.page.on("requestfailed", lambda r: self.blocked.extend([r.url] if r.failure == "csp" else []))
        self.page.goto(path.as_uri(), wait_until="load")
        self.ask("document.querySelectorAll('details').forEach(part => part.open = true)")

    def ask(self, script):
        return self.page.evaluate(script)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()
