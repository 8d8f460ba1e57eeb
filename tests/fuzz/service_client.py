"""A client of `regard serve` that starts it as a process and monitors it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

import regard

BOUNDARY = "fuzz"
_START = 120.0  # start-up timeout in seconds on a busy machine
_CROPS = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.7, 0.7), (0.3, 0.2, 1.0, 1.0))


class Service:
    """A running service."""

    def __init__(self, log: Path, *settings: str) -> None:
        """Start the service on a free port, and wait until it is ready.

        Args:
            log: log file.
            *settings: `name=value`.
        """
        command = [sys.executable, "-m", "regard", "serve", "--port", "0"]
        command += [part for setting in settings for part in ("--set", setting)]
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stderr=file)
        self.port = self._port()
        while b" 200 " not in self.get("/readyz")[:20]:
            time.sleep(0.1)

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()

    def _port(self) -> int:
        end = time.monotonic() + _START
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"serving on http://127\.0\.0\.1:(\d+)", self.log.read_text("utf-8"))
            if found:
                return int(found[1])
            time.sleep(0.05)
        raise RuntimeError(f"the service did not start: {self.log.read_text('utf-8')}")

    def connect(self, seconds: float = 30.0) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def ask(self, request: bytes, seconds: float = 60.0) -> bytes:
        """Send bytes and return everything received until the connection closes."""
        try:
            with self.connect(seconds) as connection:
                connection.sendall(request)
                return read_all(connection)
        except (ConnectionError, TimeoutError) as error:
            return type(error).__name__.encode()

    def get(self, path: str) -> bytes:
        """Return the whole answer to a GET."""
        return self.ask(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )

    def caption(self, picture: bytes, name: str = "picture.jpg") -> tuple[int, dict[str, Any]]:
        """Caption one picture; return the status and the JSON of the answer."""
        return parsed(self.ask(request(form(picture, name), close=True)))

    def children(self) -> list[int]:
        """Return the ids of the live decoding processes."""
        own = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = [number for path in own for number in path.read_text("utf-8").split()]
        return [int(number) for number in found if "\nState:\tZ" not in _told(number)]

    def memory(self) -> int:
        """Return the resident bytes of the process and its children."""
        total = 0
        for number in (self.process.pid, *self.children()):
            found = re.search(r"VmRSS:\s+(\d+) kB", _told(number))
            total += int(found[1]) * 1024 if found else 0
        return total

    def work(self) -> float:
        """Return the CPU seconds that the process and its children have taken."""
        total = 0
        for number in (self.process.pid, *self.children()):
            # User and system time are the 12th and 13th after the name, which may hold spaces.
            told = Path(f"/proc/{number}/stat").read_text("utf-8").rpartition(")")[2].split()
            total += int(told[11]) + int(told[12])
        return total / os.sysconf("SC_CLK_TCK")

    def waiting(self) -> float:
        """Return the number of queued files from its metrics."""
        found = re.search(rb"(?m)^regard_waiting_pictures (\S+)", self.get("/metrics"))
        return float(found[1]) if found else -1.0

    def stop(self) -> int:
        """Terminate it and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def _told(number: int | str) -> str:
    """Return the system's information about a process; that of a dead one if it does not exist."""
    try:
        return Path(f"/proc/{number}/status").read_text("utf-8")
    except OSError:
        return "\nState:\tZ"


def form(picture: bytes, name: str = "picture.jpg", **fields: str) -> bytes:
    """Return a multipart body of one file and some fields."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in ({"alpha": "false"} | fields).items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
    parts += [head.encode("utf-8", "surrogateescape") + b"\r\n" + picture + b"\r\n"]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def request(body: bytes, *headers: str, length: int | None = None, close: bool = False) -> bytes:
    """Return the bytes of a POST to /v1/caption."""
    lines = [
        "POST /v1/caption HTTP/1.1",
        "Host: localhost",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {len(body) if length is None else length}",
        *(["Connection: close"] if close else []),
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def read_all(connection: socket.socket) -> bytes:
    """Return everything received until the other side closes the connection."""
    came = bytearray()
    try:
        while piece := connection.recv(65536):
            came += piece
    except (ConnectionError, TimeoutError):
        pass
    return bytes(came)


def status_of(answer: bytes) -> int:
    """Return the status of an answer; 0 without one."""
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return int(found[1]) if found else 0


def parsed(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of an answer; {} if it is not JSON."""
    try:
        return status_of(answer), json.loads(answer.partition(b"\r\n\r\n")[2])
    except ValueError:
        return status_of(answer), {}


def known_pictures() -> tuple[list[bytes], list[str]]:
    """Return small pictures and the captions that the library writes for them."""
    samples = sorted((Path(regard.__file__).parent / "samples").glob("*.jpg"))
    pictures = [_crop(path, crop) for path in samples for crop in _CROPS]
    captions = regard.load().caption(list[Any](pictures))
    return pictures, [caption.text for caption in captions]


def _crop(path: Path, crop: tuple[float, float, float, float]) -> bytes:
    with Image.open(path) as picture:
        left, top, right, bottom = crop
        box = (
            int(left * picture.width),
            int(top * picture.height),
            int(right * picture.width),
            int(bottom * picture.height),
        )
        small = picture.convert("RGB").crop(box)
        small.thumbnail((224, 224))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()
