"""A running viewer and a headless browser that writes down every request."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geoevidence.custody import Workspace
from tests.app.sample import make_workspace

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--lang=zh-CN",
]  # fmt: skip


@pytest.fixture(scope="session")
def viewer_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("browser")
    kept = os.environ.get("GEOEVIDENCE_KEYS")
    os.environ["GEOEVIDENCE_KEYS"] = str(folder / "keys")
    yield make_workspace(folder / "workspace")
    os.environ.pop("GEOEVIDENCE_KEYS") if kept is None else os.environ.__setitem__("GEOEVIDENCE_KEYS", kept)


@pytest.fixture(scope="session")
def viewer(viewer_workspace: Workspace) -> Iterator[str]:
    """Address of `geoevidence serve` on the sample workspace, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from app.cli import main; main()",
        "serve",
        "--workspace",
        str(viewer_workspace.path),
        "--port",
        str(port),
    ]
    log = viewer_workspace.path.parent / "server.log"
    address = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_healthy(address, process, log)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the viewer did not start:\n{log.read_text(encoding='utf-8', errors='replace')}")


class Watched:
    """A page and what it asked for. foreign: addresses of other hosts; problems: script errors and failed answers."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.foreign: list[str] = []
        self.problems: list[str] = []
        page.on("request", self._request)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("response", self._answer)

    def _answer(self, answer: Any) -> None:
        # On a page below the root Streamlit first looks for its own routes under that page, and then above.
        if answer.status >= 400 and "/_stcore/" not in answer.url:
            self.problems.append(f"{answer.status} {answer.url}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address + "/", "blob:" + self.address, "data:")):
            self.foreign.append(request.url)

    def shot(self, name: str) -> None:
        """Keep a picture where GEOEVIDENCE_SCREENSHOTS names a folder."""
        folder = os.environ.get("GEOEVIDENCE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            size = self.page.viewport_size
            self.page.set_viewport_size({"width": size["width"], "height": 2300})  # Streamlit scrolls inside the page
            self.page.wait_for_timeout(500)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))
            self.page.set_viewport_size(size)


@pytest.fixture(scope="session")
def browser(browser_path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def watched(browser: Any, viewer: str) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, locale="zh-CN")
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield Watched(page, viewer)
    context.close()
