"""Chromium for tests: Debian's or another that is installed, driven by playwright; tests are skipped without it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser's path, by SAYWHY_CHROMIUM or by name."""
    found = os.environ.get("SAYWHY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium-headless-shell, or set SAYWHY_CHROMIUM to its path")
    return found


@contextmanager
def opened(*arguments: str) -> Iterator[Any]:
    """A browser, with more arguments; skips where there is none, or nothing to drive it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives the browser")
    path = chromium()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()
