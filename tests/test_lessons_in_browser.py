"""Lessons in JupyterLab in a real browser: opened, run from the menu, formulas set, nothing wrong and nothing cut off.

    MINIBLOOM_BROWSER=chromium python -m pytest tests/test_lessons_in_browser.py         # Debian's, or another Chromium

needs JupyterLab too (the extra `lessons`), and takes minutes. With MINIBLOOM_SCREENSHOTS=FOLDER it keeps a picture of
each lesson, 1280 pixels wide and as long as it takes, to look at.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from minibloom.lessons import copy_lessons

from .run_lessons import ROOT, paths

BROWSER = os.environ.get("MINIBLOOM_BROWSER")
pytestmark = [
    pytest.mark.skipif(not BROWSER, reason="MINIBLOOM_BROWSER names no browser"),
    pytest.mark.skipif(find_spec("jupyterlab") is None, reason="JupyterLab is not installed"),
]
WIDTH, HEIGHT = 1280, 900
SETTINGS = {"@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}  # cells out of sight are drawn too

MENU = "[...document.querySelectorAll('.lm-MenuBar-item, .lm-Menu-item')].find(e => e.innerText.trim() == {0!r})"
CELLS = "document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell')"
RUNNING = f"[...{CELLS}].filter(c => c.querySelector('.jp-InputPrompt').innerText.includes('*')).length"
RUN = f"[...{CELLS}].filter(c => /\\d/.test(c.querySelector('.jp-InputPrompt').innerText)).length"
LENGTH = "Math.max(...[...document.querySelectorAll('.jp-NotebookPanel *')].map(e => e.scrollHeight))"
FAULTS = """[
    ...[...document.querySelectorAll('.jp-RenderedText[data-mime-type*=stderr]')].map(e => 'stderr: ' + e.innerText),
    ...[...document.querySelectorAll('mjx-merror')].map(e => 'no formula: ' + e.innerText),
    ...[...document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown, .jp-OutputArea-output')]
        .filter(e => e.scrollWidth > e.clientWidth + 2)
        .map(e => 'wider than the page: ' + e.innerText.slice(0, 80)),
    ...[...document.querySelectorAll('.jp-OutputArea-output img, .jp-OutputArea-output svg')]
        .filter(e => e.getBoundingClientRect().right > e.closest('.jp-Notebook').getBoundingClientRect().right)
        .map(e => 'a picture is cut off: ' + (e.innerText || e.alt || e.tagName)),
]"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What `condition` returns as soon as it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except (OSError, KeyError):
            pass
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {what}")


def ready(lab: str, name: str) -> bool:
    """Whether the kernel of a notebook waits for work, and the page is connected to it."""
    sessions = json.load(urllib.request.urlopen(lab.replace("/lab", "/api/sessions")))
    kernels = [session["kernel"] for session in sessions if session["path"].endswith(name)]
    return any(kernel["execution_state"] == "idle" and kernel["connections"] for kernel in kernels)


class Page:
    """A page of the browser, driven over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

    def __init__(self, port: int) -> None:
        import websocket  # of websocket-client, which JupyterLab brings in

        def target() -> Any:
            pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
            return next((page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"), None)

        self.connection = websocket.create_connection(wait("the browser", target), suppress_origin=True, timeout=60)
        self.numbers = itertools.count(1)

    def __call__(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.connection.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, code: str) -> Any:
        return self("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def click(self, element: str) -> None:
        """Press the mouse in the middle of what the expression `element` finds, once it stands still."""
        box = f"(() => {{ const b = {element}?.getBoundingClientRect(); return b && [b.x, b.y, b.width, b.height] }})()"

        def still() -> Any:
            before = self.evaluate(box)
            time.sleep(0.3)
            return before if before == self.evaluate(box) else None

        x, y, width, height = wait(element, still, 30)
        x, y = x + width / 2, y + height / 2
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, height: int) -> None:
        self("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of JupyterLab on a copy of the lessons."""
    folder, home, port = tmp_path_factory.mktemp("lessons"), tmp_path_factory.mktemp("home"), free_port()
    copy_lessons(folder)
    for name, values in SETTINGS.items():
        file = home / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTER_CONFIG_DIR": str(home), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }  # fmt: skip
    options = [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--notebook-dir={folder}",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], env=environment, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}/lab"
    try:
        wait("JupyterLab", lambda: urllib.request.urlopen(address).status == 200)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    port = free_port()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path}"]
    browser = subprocess.Popen(
        [str(BROWSER), *options, f"--remote-debugging-port={port}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Page(port)
    finally:
        browser.terminate()
        browser.wait()


@pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
def test_a_lesson_runs_from_the_menu_and_can_be_read(lab, page, path):
    page.size(HEIGHT)
    page("Page.navigate", url=f"{lab}/tree/{path.name}?reset")
    wait("the notebook", lambda: page.evaluate(f"{CELLS}.length") and page.evaluate(f"{RUN} > 0"))
    wait("a kernel", lambda: ready(lab, path.name))
    page.click(MENU.format("Run"))
    page.click(MENU.format("Run All Cells"))
    wait("cells that run", lambda: page.evaluate(f"{RUNNING} > 0"))
    wait("the end", lambda: page.evaluate(f"{RUNNING} == 0"), 300)
    assert page.evaluate(f"{RUN} == {CELLS}.length"), "a cell was not run: one before it has failed"

    page.click("document.querySelector('.jp-SideBar.jp-mod-left .lm-mod-current')")  # the page has all the width
    if any("$" in cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown"):
        wait("formulas", lambda: page.evaluate("!!document.querySelector('mjx-container')"))
    assert page.evaluate(FAULTS) == []
    if folder := os.environ.get("MINIBLOOM_SCREENSHOTS"):
        page.size(page.evaluate(LENGTH) + 200)
        page.evaluate("document.querySelectorAll('.jp-NotebookPanel *').forEach(e => e.scrollTop = 0)")
        time.sleep(1)
        picture = page("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(folder, f"{path.stem}.png").write_bytes(base64.b64decode(picture))


def cells(path: Path) -> list[dict[str, Any]]:
    book = json.loads(path.read_text(encoding="utf-8"))
    return [cell | {"source": "".join(cell["source"])} for cell in book["cells"]]
