"""Over a real connection: what is slow, half or no HTTP is ended; others are served meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from regard.captioner import Captioner
from regard.serve import Settings, create_app
from regard.serve.decoders import Decoders
from tests.helpers import toys

HEADER = 0.5
ASK = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture(scope="module")
def server(
    models: dict[str, Captioner], decoders: Decoders
) -> Iterator[tuple[uvicorn.Server, int]]:
    settings = Settings(header_seconds=HEADER, body_seconds=1.0, max_bytes=100_000)
    config = uvicorn.Config(
        create_app(models, settings, decoders=decoders),
        http="regard.serve.timeouts:TimeoutProtocol",
        ws="none",
        log_level="critical",
        timeout_keep_alive=30,
    )
    vars(config).update(header_seconds=HEADER, body_seconds=1.0)
    listener = socket.create_server(("127.0.0.1", 0))
    made = uvicorn.Server(config)
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
    thread.start()
    while not made.started:
        time.sleep(0.01)
    yield made, listener.getsockname()[1]
    made.should_exit = True
    thread.join()


@pytest.fixture
def port(server: tuple[uvicorn.Server, int]) -> int:
    return server[1]


def talk(port: int, *pieces: bytes, pause: float = 0.0, half: bool = False) -> tuple[bytes, float]:
    """Send pieces; return all that came until the end, and how long it took."""
    began = time.monotonic()
    came = bytearray()

    def read() -> None:
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                came.extend(piece)

    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        reader = threading.Thread(target=read)
        reader.start()
        with contextlib.suppress(ConnectionError, OSError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if half:
                connection.shutdown(socket.SHUT_WR)
        reader.join()
    return bytes(came), time.monotonic() - began


def error_of(answer: bytes) -> str:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_a_header_that_dribbles_is_ended_while_others_are_served(port: int) -> None:
    results: list[tuple[bytes, float]] = []
    drops = [ASK, *[b"X-a: b\r\n"] * 30]
    slow = threading.Thread(target=lambda: results.append(talk(port, *drops, pause=0.1)))
    slow.start()
    time.sleep(0.1)
    assert talk(port, ASK + b"Connection: close\r\n\r\n")[0].startswith(b"HTTP/1.1 200")
    slow.join()
    ((answer, _),) = results
    assert answer.startswith(b"HTTP/1.1 408")
    assert "did not arrive in time" in error_of(answer)
    assert b"nosniff" in answer


def test_silence_is_ended(port: int) -> None:
    answer, took = talk(port)
    assert answer == b""
    assert HEADER * 0.9 < took < 5


def test_after_an_answer_a_second_header_may_not_dribble_either(port: int) -> None:
    drops = [ASK + b"\r\n", ASK, *[b"X-a: b\r\n"] * 30]
    answer, _ = talk(port, *drops, pause=0.1)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_an_open_connection_may_rest_between_requests(port: int) -> None:
    rest = ASK + b"Connection: close\r\n\r\n"
    answer, _ = talk(port, ASK + b"\r\n", rest, pause=2 * HEADER)
    assert answer.count(b"HTTP/1.1 200") == 2


def test_piped_requests_are_all_answered(port: int) -> None:
    answer, _ = talk(port, (ASK + b"\r\n") * 3 + ASK + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 4


def test_what_is_no_http_gets_json(port: int) -> None:
    for sent in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nX : y\r\n\r\n", b"GET\r\n\r\n"):
        answer, _ = talk(port, sent)
        assert answer.startswith(b"HTTP/1.1 400")
        assert "not valid HTTP" in error_of(answer)


def post(body: bytes, length: int, *headers: str) -> bytes:
    lines = ["POST /v1/caption HTTP/1.1", "Host: here", f"Content-Length: {length}",
             "Content-Type: multipart/form-data; boundary=b", *headers]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_refusal_reaches_who_still_sends(port: int) -> None:
    # 8 MB where 100 KB are let in: closing at once would reset the connection.
    for headers in (["Connection: close"], []):
        answer, took = talk(port, post(bytes(8 * 2**20), 8 * 2**20, *headers))
        assert answer.startswith(b"HTTP/1.1 413"), headers
        assert took < 10


def test_who_waits_to_be_told_to_go_on_is_told_no(port: int) -> None:
    answer, took = talk(port, post(b"", 10**9, "Expect: 100-continue", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert took < 1


def test_a_body_that_dribbles_is_ended(port: int) -> None:
    answer, took = talk(port, post(b"--b\r\n", 1000), *[b"x"] * 30, pause=0.1)
    assert answer.startswith(b"HTTP/1.1 408")
    assert took < 5


@pytest.mark.parametrize("share", [0.2, 0.9, 1.0])
def test_who_closes_half_a_connection_has_left(port: int, share: float) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.jpg"\r\n\r\n'
    body = head + toys.jpeg() + b"\r\n--b--\r\n"
    whole = post(body, len(body))
    answer, took = talk(port, whole[: int(len(whole) * share)], half=True)
    assert took < 5
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")


def test_who_does_not_read_is_not_waited_for(server: tuple[uvicorn.Server, int]) -> None:
    made, port = server
    wanted = b"GET /assets/viewer.js HTTP/1.1\r\nHost: here\r\n\r\n" * 50
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setblocking(False)
        began = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            while time.monotonic() - began < 5:  # more answers than any buffer holds
                connection.send(wanted)
        ours = connection.getsockname()

        def waits() -> bool:
            return any(one.client == ours for one in list(made.server_state.connections))

        while not waits():  # the kernel took the requests; the server may not have seen them yet
            assert time.monotonic() - began < 10
            time.sleep(0.01)
        while waits():
            assert time.monotonic() - began < 20
            time.sleep(0.05)
