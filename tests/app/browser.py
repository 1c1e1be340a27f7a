"""Start a page as a process, and open it in headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

START = 120_000
"""Milliseconds; a busy machine needs a minute to load the models."""

_HARMLESS = (
    "Method not implemented",  # a warning of Gradio's on any upload
    "upload_progress",  # Gradio asks for the progress of a small upload that is already done, and logs the 404
)


@contextmanager
def served(*command: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a command that serves a page; yield its address."""
    with started(*command, folder=folder, **environment) as (_, address):
        yield address


@contextmanager
def started(*command: str, folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command that serves a page; yield its process and address."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_SERVER_PORT": "0", **environment}
    with subprocess.Popen(
        [sys.executable, *command], env=variables, cwd=folder, text=True, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert address is not None
            yield process, address[0]
        finally:
            process.terminate()


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium, or skip the test."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make app-test")
    pytest.importorskip("gradio", reason="needs gradio: make app-test")
    with api.sync_playwright() as playwright:
        path = shutil.which("chromium") or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A tab of the browser that records requests and errors.

    Args:
        browser: From `chromium`.
        url: The page's address.
        width: Pixels.
    """

    def __init__(self, browser: Any, url: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(START)
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self._check(request.url, url))
        self.page.on("console", lambda message: self._log(message))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def _check(self, address: str, url: str) -> None:
        if not address.startswith((url, "data:", "blob:")):
            self.elsewhere.append(address)

    def _log(self, message: Any) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type in ("error", "warning") and message.text != "Response" and not _known(text):
            self.errors.append(text)

    def upload(self, path: Path) -> None:
        """Give a file to the page, in place of the present one."""
        remove = self.page.get_by_role("button", name="Remove Image")
        if remove.count():
            remove.click()
        self.page.get_by_text("Drop a picture, or take one of the examples").wait_for()
        self.page.locator("input[type=file]").set_input_files(path)

    def choose(self, label: str, value: str) -> None:
        """Choose a value of a list."""
        field = self.page.get_by_label(label, exact=True)
        field.click()
        field.fill(value)
        field.press("Enter")

    def answers(self, *models: str) -> list[str]:
        """Wait until the page shows the answers of these models; return their texts."""
        names = [f"Answer of {model}" for model in models]
        self.page.wait_for_function(
            "names => JSON.stringify(names) === JSON.stringify("
            "[...document.querySelectorAll('.zoo-answer')].map(answer => answer.getAttribute('aria-label')))",
            arg=names,
        )
        return [self.page.get_by_role("region", name=name).inner_text() for name in names]

    def first(self) -> str:
        """Return the most probable class that the page shows."""
        return str(self.page.locator(".zoo-label").first.inner_text())

    def unlabelled(self) -> list[str]:
        """Return the inputs, buttons and pictures without a name."""
        found: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll('input:not([type=hidden]), textarea, button, img, iframe')]
                .filter(item => item.checkVisibility() && !(item.labels?.length || item.ariaLabel || item.title
                    || item.alt || item.innerText?.trim() || item.getAttribute('aria-labelledby')))
                .map(item => item.outerHTML.slice(0, 200))"""
        )
        return found


def _known(text: str) -> bool:
    return any(part in text for part in _HARMLESS)
