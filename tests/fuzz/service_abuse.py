"""Hostile requests: slow, truncated, huge, malformed and with false headers."""

from __future__ import annotations

import gzip
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.fuzz.service_client import BOUNDARY, Service, form, read_all, request, status_of
from tests.fuzz.tally import Tally

_SLOW = 60  # simultaneous slow connections
_LEAVERS = 40
_TIDY = 20.0  # seconds until the queue is empty
_NAMES = (
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "C:\\SECRET.jpg",
    "SECRET\x00.jpg",
    "%2e%2e%2fpasswd",
    "SECRET" * 500,
    "<script>alert(1)</script>.jpg",
    "'; DROP TABLE SECRET; --",
    "CON",
    "SECRET\u202egpj.exe",
)
_PATHS = (
    "/assets/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2fetc%2fpasswd",
    "/samples/%2e%2e/SOURCES.md",
    "/samples/SOURCES.md",
    "/samples/....//....//etc/passwd",
    "/assets/%00",
    "/assets/page.html",
    "/assets/page.py",
    "//etc/passwd",
    "/v1/../../etc/passwd",
    "/samples/dog.jpg%00.html",
)


class _Judge:
    """Sends requests, and counts whether each answer is an allowed one."""

    def __init__(self, served: Service, tally: Tally) -> None:
        self.served, self.tally = served, tally

    def __call__(self, what: str, answer: bytes, *statuses: int) -> None:
        status = status_of(answer)
        if b"root:" in answer:
            self.tally.lose(f"{what}: a file of the machine came")
        elif status in statuses:
            self.tally.handle()
        elif status >= 500:
            self.tally.miss(f"{what}: status {status}, wanted one of {statuses}")
        else:
            self.tally.lose(f"{what}: {answer[:80]!r}, wanted a status of {statuses}")

    def ask(self, what: str, sent: bytes, *statuses: int) -> None:
        self(what, self.served.ask(sent), *statuses)


def abuse(
    served: Service, generator: random.Random, known: tuple[bytes, str], scale: float
) -> Tally:
    """Send every kind of abuse; after each kind a known picture must get its caption.

    Args:
        served: a service with short timeouts.
        generator: random generator of garbage bytes.
        known: a picture and its caption.
        scale: amount of garbage.
    """
    tally = Tally()
    judge = _Judge(served, tally)
    kinds: dict[str, Callable[[], None]] = {
        "slow headers": lambda: _slow_headers(judge),
        "slow bodies": lambda: _slow_bodies(judge, known[0]),
        "half-closed": lambda: _half_closed(judge, known[0]),
        "too much": lambda: _oversized(judge),
        "names": lambda: _names(judge, known[0]),
        "headers": lambda: _headers(judge, known[0]),
        "bombs": lambda: _bombs(judge),
        "leavers": lambda: _leavers(judge, known[0]),
        "noise": lambda: _noise(judge, generator, known[0], round(100 * scale) or 1),
    }
    for kind, work in kinds.items():
        work()
        status, told = served.caption(known[0])
        captions = [one.get("caption") for one in told.get("captions", ())]
        if captions == [known[1]]:
            tally.handle()
        else:
            tally.lose(f"after {kind} a known picture got status {status} and {captions}")
        _tidy(judge, kind)
    return tally


def _tidy(judge: _Judge, kind: str) -> None:
    """Check that no work remains queued for disconnected clients."""
    end = time.monotonic() + _TIDY
    while (waiting := judge.served.waiting()) and time.monotonic() < end:
        time.sleep(0.1)
    if waiting:
        judge.tally.lose(f"after {kind} {waiting:g} files wait for nobody")
    else:
        judge.tally.handle()


def _dribble(connection: socket.socket, drop: bytes, seconds: float) -> tuple[bytes, float]:
    """Send bytes slowly until the service closes the connection; return its answer and the time."""
    began = time.monotonic()
    connection.settimeout(0.2)
    came = b""
    while time.monotonic() - began < seconds:
        try:
            connection.sendall(drop)
            piece = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if not piece:
            break
        came += piece
    return came, time.monotonic() - began


def _slow(judge: _Judge, what: str, first: bytes, drop: bytes) -> None:
    """Open many slow connections; a normal request must still be served."""
    opened = [judge.served.connect() for _ in range(_SLOW)]
    for connection in opened:
        connection.sendall(first)
    with ThreadPoolExecutor(_SLOW) as pool:
        ends = [pool.submit(_dribble, connection, drop, 30.0) for connection in opened]
        began = time.monotonic()
        judge(f"healthy during {what}", judge.served.get("/healthz"), 200)
        hurried = time.monotonic() - began
        results = [end.result() for end in ends]
    for connection in opened:
        connection.close()
    for answer, _ in results:
        judge(what, answer, 408)
    longest = max(took for _, took in results)
    judge.tally.figures.append(
        f"{_SLOW} connections with {what}: told 408 and ended after {longest:.1f} s at most, "
        f"/healthz meanwhile in {hurried:.2f} s"
    )


def _slow_headers(judge: _Judge) -> None:
    first = b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\n"
    _slow(judge, "slow headers (limit 2 s)", first, b"X-a: b\r\n")


def _slow_bodies(judge: _Judge, picture: bytes) -> None:
    first = request(form(picture)[:200], length=100_000)
    _slow(judge, "slow bodies (limit 3 s)", first, b"x")


def _half_closed(judge: _Judge, picture: bytes) -> None:
    whole = request(form(picture))
    for share in (0.1, 0.5, 0.9, 1.0):
        with judge.served.connect() as connection:
            connection.sendall(whole[: int(len(whole) * share)])
            connection.shutdown(socket.SHUT_WR)
            began = time.monotonic()
            read_all(connection)  # an answer, or the end; but soon
            if time.monotonic() - began > 10:
                judge.tally.miss(f"half-closed after {share:.0%}: the connection hung")
            else:
                judge.tally.handle()


def _oversized(judge: _Judge) -> None:
    judge.ask("10 GB declared", request(b"", length=10**10, close=True), 413)
    judge.ask("10^30 bytes declared", request(b"", length=10**30, close=True), 400, 413)
    many = form(b"x").replace(f"--{BOUNDARY}--\r\n".encode(), b"")
    files = b"".join(many for _ in range(20)) + f"--{BOUNDARY}--\r\n".encode()
    judge.ask("20 files", request(files, close=True), 413)
    head = request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    with judge.served.connect() as connection:
        try:
            connection.sendall(head)
            piece = b"10000\r\n" + bytes(2**16) + b"\r\n"
            first = form(b"").rpartition(b"\r\n--")[0]
            connection.sendall(f"{len(first):x}\r\n".encode() + first + b"\r\n")
            for _ in range(2000):  # 131 MB, with a limit of 33
                connection.sendall(piece)
        except (ConnectionError, TimeoutError):
            pass
        answer = read_all(connection)
    # A client that keeps sending after a refusal may lose the answer when the connection closes.
    judge("endless chunks", answer or b"HTTP/1.1 413", 413)
    big = request(form(bytes(40 * 2**20)), close=True)
    judge.ask("40 MB", big, 413)


def _names(judge: _Judge, picture: bytes) -> None:
    for name in _NAMES:
        body = form(picture, name.replace('"', "%22"))
        judge.ask(f"a file called {name[:30]!r}", request(body, close=True), 200, 400)
    for path in _PATHS:
        judge(f"GET {path}", judge.served.get(path), 400, 404)


def _headers(judge: _Judge, picture: bytes) -> None:
    body = form(picture)
    good = request(body, close=True)
    kind = f"; boundary={BOUNDARY}".encode()
    odd = {
        name: good.replace(kind, other, 1)
        for name, other in {
            "a strange charset": kind + b"; charset=idna",
            "no boundary": b"",
            "a long boundary": b"; boundary=" + b"b" * 8000,
        }.items()
    }
    elsewhere = "Sec-Fetch-Site: cross-site", "Origin: http://evil"
    forged = "X-Forwarded-For: ::1, SECRET", "Forwarded: for=SECRET"

    packed = gzip.compress(body)

    def bears(*headers: str) -> bytes:
        return request(body, *headers, close=True)

    tries: dict[str, tuple[bytes, tuple[int, ...]]] = {
        "200 KB of a header": (bears("X-a: " + "a" * 200_000), (200, 400, 431)),
        "5000 headers": (bears(*["X-a: b"] * 5000), (200, 400, 431)),
        "two lengths": (bears("Content-Length: 7"), (400,)),
        "length and chunks": (bears("Transfer-Encoding: chunked"), (400,)),
        "a negative length": (request(body, length=-5, close=True), (400,)),
        "a zero byte": (bears("X-a: a\x00b"), (400,)),
        "a folded header": (bears("X-a: a\r\n b"), (200, 400)),
        "a space before the colon": (bears("X-a : b"), (400,)),
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,)),
        "HTTP/9.9": (good.replace(b"HTTP/1.1", b"HTTP/9.9"), (200, 400, 505)),
        "a strange method": (good.replace(b"POST", b"BREW"), (405,)),
        "an upgrade": (bears("Upgrade: websocket", "Sec-WebSocket-Key: x"), (200, 400)),
        "a strange charset": (odd["a strange charset"], (200, 400)),
        "no boundary": (odd["no boundary"], (400,)),
        "a long boundary": (odd["a long boundary"], (400,)),
        "a page elsewhere": (bears(*elsewhere), (403,)),
        "forged addresses": (bears(*forged), (200,)),
        "packed content": (request(packed, "Content-Encoding: gzip", close=True), (400,)),
    }
    for what, (sent, statuses) in tries.items():
        judge.ask(what, sent, *statuses)
    piped = request(body) + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = judge.served.ask(piped)
    if re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"200"]:
        judge.tally.handle()
    else:
        judge.tally.lose(f"two requests at once: {answer[:200]!r}")


def png(width: int, height: int, *extra: bytes) -> bytes:
    """Return a PNG of one colour: few bytes, many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    parts = chunk(b"IHDR", head) + b"".join(chunk(b"zTXt", one) for one in extra)
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _bombs(judge: _Judge) -> None:
    text = b"k\x00\x00" + zlib.compress(bytes(200 * 2**20), 9)
    nifti = bytearray(352)
    struct.pack_into("<i", nifti, 0, 348)
    struct.pack_into("<8h", nifti, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    struct.pack_into("<2h", nifti, 70, 16, 32)
    struct.pack_into("<f", nifti, 108, 352.0)
    nifti[344:348] = b"n+1\0"
    tries: dict[str, tuple[bytes, str, tuple[int, ...]]] = {
        "400 million pixels": (png(20000, 20000), "SECRET.png", (413,)),
        "64 million pixels": (png(8000, 8000), "SECRET.png", (413,)),
        "text that unpacks to 200 MB": (png(8, 8, text), "SECRET.png", (200, 400, 413)),
        "a line of 2 billion pixels": (png(2**31 - 1, 1)[:5000], "SECRET.png", (400, 413)),
        "a scan of 27 trillion voxels": (bytes(nifti), "SECRET.nii", (413,)),
        "the same, packed": (gzip.compress(bytes(nifti) + bytes(10**8)), "SECRET.nii.gz", (413,)),
        "zeros, packed": (gzip.compress(bytes(3 * 10**8)), "SECRET.nii.gz", (415,)),
        "a clip that is none": (b"\0\0\0\x18ftypmp42" + bytes(10_000), "SECRET.mp4", (400, 415)),
        "markup": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SECRET.svg", (415,)),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "SECRET.eps", (415,)),
    }  # fmt: skip
    for what, (content, name, statuses) in tries.items():
        judge.ask(what, request(form(content, name), close=True), *statuses)


def _leavers(judge: _Judge, picture: bytes) -> None:
    """Send and disconnect: the work is cancelled, and other clients are unaffected."""
    whole = request(form(picture))
    for at in range(_LEAVERS):
        with judge.served.connect() as connection:
            connection.sendall(whole if at % 2 else whole[: len(whole) // 2])
        judge.tally.handle()


def _noise(judge: _Judge, generator: random.Random, picture: bytes, count: int) -> None:
    """Send requests with some changed bytes."""
    whole = request(form(picture), close=True)
    body = whole.index(b"\r\n\r\n") + 4
    for _ in range(count):
        sent = bytearray(whole)
        for _ in range(generator.randint(1, 20)):
            sent[generator.randrange(body, len(sent))] = generator.randrange(256)
        judge.ask("noise in a request", bytes(sent), 200, 400, 413, 415, 422)
