"""Chromium, driven over its DevTools protocol through a pipe: no driver, no download."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--force-color-profile=srgb"]  # fmt: skip
# Chromium reads commands from file descriptor 3 and answers on 4.
_LAUNCH = "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"  # fmt: skip  # noqa: E501


class Page:
    """One tab; what it asked the network for and what it complained of is kept."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._ids = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(60)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def go(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.until(lambda: any(e["method"] == "Page.loadEventFired" for e in self.events), url)

    def run(self, script: str) -> Any:
        """Return the value of an expression, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, found: str | Callable[[], Any], what: str = "") -> Any:
        """Wait until an expression or a function is true, and return its value."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            value = self.run(found) if isinstance(found, str) else found()
            if value:
                return value
            if not isinstance(found, str):
                self._pump(0.05)
            else:
                time.sleep(0.05)
        raise AssertionError(f"never: {what or found}; complaints: {self.complaints}")

    def middle(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view and return its centre in the window."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect();"
            "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        return place[0], place[1]

    def mouse(self, kind: str, x: float, y: float, *, held: bool = False) -> None:
        """Move the pointer, press or release it."""
        pressed = kind != "mouseMoved" or held
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, clickCount=1,
            button="left" if pressed else "none", buttons=1 if held else 0,
        )  # fmt: skip

    def hover(self, selector: str) -> None:
        """Move the pointer onto an element."""
        self.mouse("mouseMoved", *self.middle(selector))

    def click(self, selector: str) -> None:
        """Press an element as a pointer does."""
        x, y = self.middle(selector)
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, held=True)
        self.mouse("mouseReleased", x, y)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press at the first place, move through the others, and release."""
        self.mouse("mouseMoved", *places[0])
        self.mouse("mousePressed", *places[0], held=True)
        for place in places[1:]:
            self.mouse("mouseMoved", *place, held=True)
        self.mouse("mouseReleased", *places[-1])

    def key(self, key: str, code: int, text: str = "") -> None:
        """Press a key."""
        common = {"key": key, "windowsVirtualKeyCode": code, "code": key}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field and write."""
        self.click(selector)
        self.call("Input.insertText", text=text)

    def choose_files(self, selector: str, *files: Path) -> None:
        """Give files to a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(f) for f in files])

    def size(self, width: int, height: int = 900, *, mobile: bool = False) -> None:
        """Set the window's size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=mobile)  # fmt: skip

    def dark(self, on: bool) -> None:
        """Prefer dark colours or light ones."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        """Draw the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _pump(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if b"\0" in self._rest or select.select([self._answers], [], [], left)[0]:
                self._read(left)

    def _read(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], seconds)[0], "the browser does not answer"
            more = os.read(self._answers, 2**16)
            assert more, "the browser ended"
            self._rest += more
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        kind, params = event["method"], event["params"]
        if kind == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif kind == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))


@contextmanager
def browsing(
    folder: Path, *, flags: Sequence[str] = (), without: Sequence[str] = ()
) -> Iterator[Page]:
    """Start a browser whose profile lies in a folder; end it afterwards.

    Args:
        folder: for the profile.
        flags: more of them.
        without: usual flags that are left out.
    """
    assert BROWSER is not None
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    # Far from 3 and 4, so that neither copy overwrites the other.
    ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (theirs_in, theirs_out)]
    launch = [sys.executable, "-c", _LAUNCH, *map(str, ends), BROWSER]
    usual = [flag for flag in FLAGS if flag not in without]
    flags = [*usual, *flags, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(
        [*launch, *flags], pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for fd in (theirs_in, theirs_out, *ends):
        os.close(fd)
    try:
        page = Page(commands, answers)
        yield page
        page.call("Browser.close")
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(commands)
        os.close(answers)
