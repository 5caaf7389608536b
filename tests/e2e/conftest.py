"""Fixtures of the tests from end to end."""

from __future__ import annotations

import pytest

from tests.browser import launched_browser


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. It ends with its module: other tests have event loops of their own."""
    with launched_browser() as process:
        yield process
