"""A real Chromium, and a server with something to look at."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.app.api.console.reader import Filled, fill
from tests.app.api.live import Live

PATIENCE_MS = 30_000  # other tests may run beside these
CHROMIUM = os.environ.get("LEPO_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a file: while it lives no other event loop can run in this thread."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in LEPO_TEST_CHROMIUM")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def filled(live: Live) -> Filled:
    """The server, with answers, grades, a session, and a policy that came and went."""
    return fill(live)
