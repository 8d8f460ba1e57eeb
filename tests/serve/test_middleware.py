"""Who is let in, how long anything may take, and what is told of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
import time
from typing import Any

import httpx
import pytest

from regard.serve.prometheus import LOGGER, JsonFormatter
from tests.helpers import toys

SECRET = "secret-key"
KEYS = (f"ann:{hashlib.sha256(SECRET.encode()).hexdigest()}",)
PICTURE = [("files", ("secret-name.jpg", toys.jpeg(0), "image/jpeg"))]
POST = ("POST", "/v1/caption", {"files": PICTURE})
CLOSED = ("/v1/models", "/metrics", "/v1/nothing")


def test_keys_open_the_service(serving: Any) -> None:
    service = serving(api_keys=KEYS)
    for headers in (
        {},
        {"X-API-Key": "wrong"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": SECRET},
        {"X-API-Key": KEYS[0]},
        {"Authorization": b"Bearer \xff\xfe"},
    ):
        answer = service("POST", "/v1/caption", files=PICTURE, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "key is needed" in answer.json()["error"]
    for path in CLOSED:
        assert service("GET", path).status_code == 401
    for path in (
        "/",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/assets/page.js",
        "/samples/dog.jpg",
    ):
        assert service("GET", path).status_code == 200
    for headers in ({"X-API-Key": SECRET}, {"authorization": f"bearer {SECRET}"}):
        assert service("POST", "/v1/caption", files=PICTURE, headers=headers).status_code == 200
        assert service("GET", "/v1/models", headers=headers).status_code == 200


def test_a_key_has_its_rate(serving: Any) -> None:
    service = serving(
        api_keys=(*KEYS, "bob:" + hashlib.sha256(b"two").hexdigest()), rate=0.01, burst=2
    )
    codes = [service(*POST[:2], files=PICTURE, headers={"X-API-Key": SECRET}) for _ in range(3)]
    assert [one.status_code for one in codes] == [200, 200, 429]
    assert 90 <= int(codes[2].headers["retry-after"]) <= 100
    other = service(*POST[:2], files=PICTURE, headers={"X-API-Key": "two"})
    assert other.status_code == 200
    assert service("GET", "/v1/models", headers={"X-API-Key": SECRET}).status_code == 200


def test_without_keys_an_address_has_its_rate(serving: Any) -> None:
    service = serving(rate=0.01, burst=1)
    assert [service(*POST[:2], files=PICTURE).status_code for _ in range(2)] == [200, 429]


def test_other_sites_pages_are_shut_out_unless_they_are_named(serving: Any, ask: Any) -> None:
    foreign = {"origin": "https://friend.example", "sec-fetch-site": "cross-site"}
    answer = ask(*POST[:2], files=PICTURE, headers=foreign)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"origin": "https://friend.example", "access-control-request-method": "POST"}
    assert ask("OPTIONS", "/v1/caption", headers=preflight).status_code == 405
    for site in ("same-origin", "none"):
        own = {"sec-fetch-site": site}
        assert ask(*POST[:2], files=PICTURE, headers=own).status_code == 200
    service = serving(cors_origins=("https://friend.example",), api_keys=KEYS)
    answer = service(*POST[:2], files=PICTURE, headers=foreign | {"x-api-key": SECRET})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    assert service("OPTIONS", "/v1/caption", headers=preflight).status_code == 200
    evil = foreign | {"origin": "https://evil.example", "x-api-key": SECRET}
    answer = service(*POST[:2], files=PICTURE, headers=evil)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_it_answers_to_its_names_alone(serving: Any) -> None:
    service = serving(hosts=("Here", "[::1]"))
    assert service("GET", "/healthz").status_code == 200
    assert service("GET", "/healthz", headers={"host": "HERE:8000"}).status_code == 200
    assert service("GET", "/healthz", headers={"host": "[::1]:8000"}).status_code == 200
    for host in ("evil.example", "here.evil.example", "[::2]", ""):
        assert service("GET", "/healthz", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("path", ["/", "/healthz", "/nowhere", "/v1/caption", "/assets/page.js"])
def test_every_answer_has_the_headers_that_browsers_heed(ask: Any, path: str) -> None:
    headers = ask("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert len(headers.get_list("content-security-policy")) == 1
    assert len(headers.get_list("cache-control")) == 1
    assert len(headers["x-request-id"]) == 16


def body(*, pause: float) -> Any:
    async def pieces() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
        await asyncio.sleep(pause)
        yield b"rest\r\n--b--\r\n"

    return pieces()


def test_a_body_that_dribbles_is_not_waited_for(serving: Any) -> None:
    kind = {"content-type": "multipart/form-data; boundary=b"}
    service = serving(body_seconds=0.2)
    began = time.monotonic()
    answer = service("POST", "/v1/caption", content=body(pause=30), headers=kind)
    assert (answer.status_code, time.monotonic() - began < 20) == (408, True)
    assert answer.headers["connection"] == "close"
    assert "0.2 s" in answer.json()["error"]
    assert service.app.state.service.admission.bytes == 0
    patient = serving()
    assert patient("POST", "/v1/caption", content=body(pause=0), headers=kind).status_code == 415


class Held:
    """Holds the model until it is let go."""

    def __init__(self, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.working, self.go_on = threading.Event(), threading.Event()
        batcher = service.app.state.service.batcher
        self.worked: list[int] = []
        whole = batcher._work

        def work(batch: list[Any]) -> Any:
            self.worked.append(len(batch))
            self.working.set()
            assert self.go_on.wait(40)
            return whole(batch)

        monkeypatch.setattr(batcher, "_work", work)


def test_an_answer_that_takes_too_long_is_not_waited_for(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving(request_seconds=1.5)
    held, began = Held(service, monkeypatch), time.monotonic()
    answer = service(*POST[:2], files=PICTURE)
    assert (answer.status_code, "1.5 s" in answer.json()["error"]) == (504, True)
    admission = service.app.state.service.admission
    assert (admission.files, admission.pixels, admission.bytes) == (0, 0, 0)
    # The model does not come back: soon that is said, and it lives all the same.
    while service("GET", "/readyz").status_code == 200:
        assert time.monotonic() - began < 30
        time.sleep(0.05)
    assert service("GET", "/healthz").status_code == 200
    held.go_on.set()
    while service.app.state.service.batcher.since is not None:
        time.sleep(0.01)
    assert service("GET", "/readyz").json() == {"status": "ready"}


def test_who_leaves_is_not_worked_for_and_harms_nobody(
    serving: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = serving(batch_size=1)
    held = Held(service, monkeypatch)
    caplog.set_level(logging.INFO, LOGGER)
    request = httpx.Request("POST", "http://here/v1/caption", files=PICTURE)
    content = request.read()

    async def ask(leave: asyncio.Event) -> list[int]:
        statuses: list[int] = []
        messages = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/v1/caption", "raw_path": b"", "query_string": b"",
            "root_path": "", "client": ("127.0.0.1", 1), "server": ("here", 80),
            "headers": [(k.lower(), v) for k, v in request.headers.raw],
        }  # fmt: skip
        await service.app(scope, receive, send)
        return statuses

    async def work() -> None:
        goes, stays = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(ask(stays))
        while not held.working.is_set():
            await asyncio.sleep(0.01)
        left = asyncio.ensure_future(ask(goes))
        admission = service.app.state.service.admission
        while admission.pixels < 2 * 40 * 60:
            await asyncio.sleep(0.01)
        goes.set()
        assert await left == []
        assert admission.files == 1
        held.go_on.set()
        assert (await first)[0] == 200

    asyncio.run(work())
    assert held.worked == [1]
    facts = [record.facts for record in caplog.records]  # type: ignore[attr-defined]
    assert sorted(one["status"] for one in facts) == [200, 499]
    assert "regard_clients_left_total 1.0" in service("GET", "/metrics").text.splitlines()


def test_while_it_ends_it_is_not_ready_and_answers_all_the_same(ask: Any) -> None:
    ask.app.state.service.draining = True
    assert ask("GET", "/readyz").status_code == 503
    assert ask("GET", "/readyz").json() == {"error": "not ready: it is draining."}
    assert ask(*POST[:2], files=PICTURE).status_code == 200


def test_bytes_under_way_are_bounded(serving: Any) -> None:
    service = serving(waiting_bytes=3000, wait=0.3)
    one = ("POST", "/v1/caption", {"files": PICTURE})
    answers = service.together(*[one] * 6)
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert service.app.state.service.admission.bytes == 0
    assert service(*POST[:2], files=PICTURE).status_code == 200


def test_logs_say_what_happened_and_nothing_that_a_user_sent(
    serving: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving(api_keys=KEYS)
    caplog.set_level(logging.INFO)
    key = {"X-API-Key": SECRET, "X-Request-ID": "secret-id", "User-Agent": "secret-agent"}
    data = {"prefix": "secret-word"}
    answer = service("POST", "/v1/caption?secret-query=1", files=PICTURE, headers=key)
    service(*POST[:2], files=PICTURE, data=data, headers=key)
    service("GET", "/secret-path", headers=key)
    service("GET", "/assets/secret-asset", headers=key)
    service("SECRET", "/v1/models", headers=key)
    service("GET", "/v1/models", headers={"X-API-Key": "secret-guess"})

    def fail(batch: list[Any]) -> Any:
        raise RuntimeError("secret-message")

    monkeypatch.setattr(service.app.state.service.batcher, "_work", fail)
    assert service(*POST[:2], files=PICTURE, headers=key).status_code == 500
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name == LOGGER]
    assert not [line for line in lines if "secret" in line.lower()]
    told = [json.loads(line) for line in lines]
    first = told[0]
    assert first["id"] == answer.headers["x-request-id"]
    assert set(first) == {"time", "level", "event", "id", "method", "route", "status", "seconds",
                          "bytes_in", "bytes_out", "key"}  # fmt: skip
    assert (first["event"], first["method"], first["route"]) == ("request", "POST", "/v1/caption")
    assert (first["status"], first["key"], first["level"]) == (200, "ann", "info")
    assert first["bytes_out"] == len(answer.content)
    assert first["bytes_in"] > len(toys.jpeg(0))
    requests = [(one["route"], one["status"]) for one in told if one["event"] == "request"]
    assert requests[1:] == [
        ("/v1/caption", 422), ("other", 404), ("/assets/{name}", 404), ("/v1/models", 405),
        ("/v1/models", 401), ("/v1/caption", 500),
    ]  # fmt: skip
    (failure,) = [one for one in told if one["event"] == "failure"]
    assert failure["error"] == "RuntimeError"
    assert failure["where"][-1].startswith("test_middleware.py:")
    assert failure["id"] == told[-1]["id"]


def test_what_libraries_log_is_told_without_its_text() -> None:
    record = logging.LogRecord(
        "python_multipart", logging.WARNING, "x.py", 7, "secret %s", ("secret",), None
    )
    line = json.loads(JsonFormatter().format(record))
    assert {k: line[k] for k in ("event", "logger", "line", "level")} == {
        "event": "library", "logger": "python_multipart", "line": 7, "level": "warning"
    }  # fmt: skip
    assert "secret" not in JsonFormatter().format(record)
    server = logging.LogRecord(
        "uvicorn.error", logging.ERROR, "x", 1, "Cancel %s", ("secret",), None
    )
    assert json.loads(JsonFormatter().format(server))["said"] == "Cancel %s"


def test_a_batch_with_one_that_fails_goes_on_one_by_one(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving(wait=0.3)
    batcher = service.app.state.service.batcher
    whole = batcher._work

    def work(batch: list[Any]) -> Any:
        if any(job.media.name == "bad.jpg" for job in batch):
            raise RuntimeError
        return whole(batch)

    monkeypatch.setattr(batcher, "_work", work)
    asked = [
        ("POST", "/v1/caption", {"files": [("files", (name, toys.jpeg(i), "image/jpeg"))]})
        for i, name in enumerate(["a.jpg", "bad.jpg", "c.jpg"])
    ]
    answers = service.together(*asked)
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[2].json()["captions"][0]["file"] == "c.jpg"
