"""The REST API in process: answers, refusals, and what they leave behind."""

from __future__ import annotations

import asyncio
import io
import json
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from regard.cli.main import app
from regard.config import DecodingConfig
from regard.decoding import DecodingOptions
from regard.serve.requests import FIELDS
from tests.helpers import toys

PICTURE = ("photo.jpg", toys.jpeg(0), "image/jpeg")


def files(*pictures: tuple[str, bytes, str]) -> list[tuple[str, Any]]:
    return [("files", picture) for picture in pictures or (PICTURE,)]


def bomb(width: int = 20000, height: int = 20000) -> bytes:
    """A PNG of few bytes and many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + check

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_one_picture_has_the_schema_of_the_command_line(ask: Any, tmp_path: Path) -> None:
    toys.captioner().save(tmp_path / "toy")
    (tmp_path / "photo.jpg").write_bytes(PICTURE[1])
    line = CliRunner().invoke(
        app, ["caption", str(tmp_path / "photo.jpg"), "--json", "--model", str(tmp_path / "toy"),
              "--n-best", "2"]
    ).stdout  # fmt: skip
    wanted = json.loads(line)
    answer = ask("POST", "/v1/caption", files=files(), data={"n_best": "2"})
    assert answer.status_code == 200
    (record,) = answer.json()["captions"]
    assert list(record) == list(wanted)
    changing = {"seconds": 0, "file": "photo.jpg"}
    assert record | changing == wanted | changing
    assert record["file"] == "photo.jpg"


def test_many_files_and_a_bad_one_among_them(ask: Any) -> None:
    bad = ("b.jpg", b"no picture", "image/jpeg")
    sent = files(PICTURE, bad, ("c.jpg", toys.jpeg(1), "image/jpeg"))
    answer = ask("POST", "/v1/caption", files=sent, data={"alpha": "false", "min_length": "2"})
    assert answer.status_code == 200
    first, failed, last = answer.json()["captions"]
    assert set(failed) == {"file", "error"}
    assert failed["file"] == "b.jpg"
    assert (first["file"], last["file"]) == ("photo.jpg", "c.jpg")
    assert "alpha" not in first
    assert first["words"]


def test_a_prefix_is_continued_and_words_are_banned(ask: Any) -> None:
    data = {"prefix": "A red dog", "banned": "cat grass"}
    record = ask("POST", "/v1/caption", files=files(), data=data).json()["captions"][0]
    assert record["caption"].startswith("a red dog")
    assert not {"cat", "grass"} & {word["text"] for word in record["words"]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"beam": "0"}, "beam is 0"),
        ({"beam": "many"}, "whole number"),
        ({"beam": "11"}, "at most 10"),
        ({"beem": "3"}, "'beam'"),
        ({"n_best": "4"}, "Widen the beam"),
        ({"prefix": "xyzzy"}, "'xyzzy'"),
        ({"model": "<b>"}, "unknown model"),
        ({"alpha": "perhaps"}, "true or false"),
        ({"length_penalty": "nan"}, "length_penalty is nan"),
        ({"context": "argmax"}, "soft attention"),
        ({"context": "argmax", "model": "hard", "method": "none"}, "method"),
        ({"seed": "9" * 40}, "at most"),
    ],
)
def test_wrong_options_are_one_line(ask: Any, data: dict[str, str], said: str) -> None:
    answer = ask("POST", "/v1/caption", files=files(), data=data)
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def truncated() -> bytes:
    return toys.jpeg(0, (300, 300))[:2000]


@pytest.mark.parametrize("route", ["/v1/caption", "/v1/explain", "/page/caption"])
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
        (b"", 400),
        (truncated(), 400),
        (bomb(), 413),
        (bomb(8000, 8000), 413),
    ],
    ids=["markup", "postscript", "empty", "truncated", "bomb", "large"],
)
def test_what_is_no_picture_is_refused_and_leaves_nothing(
    ask: Any, temporary: Path, route: str, content: bytes, status: int
) -> None:
    answer = ask("POST", route, files=[("files", ("x.png", content, "image/png"))])
    assert answer.status_code == status
    assert answer.json()["error"].startswith("x.png ")
    assert list(temporary.iterdir()) == []
    assert ask.app.state.service.admission.files == ask.app.state.service.admission.pixels == 0


def test_too_large_a_request_is_refused_while_it_arrives(serving: Any, temporary: Path) -> None:
    service = serving(max_bytes=10_000)
    large = files(("x.jpg", bytes(3_000_000), "image/jpeg"))
    answer = service("POST", "/v1/caption", files=large)
    assert answer.status_code == 413
    assert "10000 bytes" in answer.json()["error"]

    sent = 0

    async def endless() -> Any:  # declares no length
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
        for _ in range(1000):
            sent += 1
            yield bytes(1000)

    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = service("POST", "/v1/caption", content=endless(), headers=kind)
    assert answer.status_code == 413
    assert list(temporary.iterdir()) == []


def test_a_sender_who_leaves_midway_leaves_nothing(ask: Any, temporary: Path) -> None:
    begin = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
    messages = [
        {"type": "http.request", "body": begin + bytes(2_000_000), "more_body": True},
        {"type": "http.disconnect"},
    ]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/v1/caption", "raw_path": b"/v1/caption", "query_string": b"",
        "root_path": "", "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
        "client": ("127.0.0.1", 1), "server": ("here", 80),
    }  # fmt: skip
    asyncio.run(ask.app(scope, receive, send))
    assert statuses[0] == 400
    assert list(temporary.iterdir()) == []


def test_large_pictures_leave_no_file_behind(ask: Any, temporary: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 2**20  # forms keep larger files on the disk while they read
    answer = ask("POST", "/v1/caption", files=files(("n.png", buffer.getvalue(), "image/png")))
    assert answer.status_code == 200
    assert list(temporary.iterdir()) == []


def test_bodies_that_are_no_form_of_pictures(ask: Any) -> None:
    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert ask("POST", "/v1/caption", json={"files": []}).status_code == 415
    assert ask("POST", "/v1/caption", content=b"nothing", headers=kind).status_code == 400
    assert ask("POST", "/v1/caption", files={"other": PICTURE}).status_code == 422
    none = ask("POST", "/v1/caption", files={"beam": (None, "1")})
    assert (none.status_code, "no picture" in none.json()["error"]) == (422, True)
    many = ask("POST", "/v1/caption", files=files(*[PICTURE] * 17))
    assert (many.status_code, "Too many files" in many.json()["error"]) == (413, True)
    assert ask("GET", "/nowhere").json() == {"error": "Not Found"}
    assert ask("GET", "/v1/caption").status_code == 405


def test_names_with_markup_stay_text(ask: Any) -> None:
    name = "<img src=x onerror=alert(1)>'\".jpg"
    sent = [("files", (name, PICTURE[1], "image/jpeg"))]
    raw = ask("POST", "/v1/caption", files=sent)
    assert raw.headers["content-type"] == "application/json"
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert "<img src=x" in raw.json()["captions"][0]["file"]
    report = ask("POST", "/v1/explain", files=sent, data={"occlusion": "false"})
    view = ask("POST", "/page/caption", files=sent).json()["views"][0]
    for markup in (report.text, view):
        assert "<img src=x" not in markup
        assert "&lt;img src=x onerror" in markup


def test_the_report_and_its_numbers(ask: Any) -> None:
    words = {"min_length": "2"}
    report = ask("POST", "/v1/explain", files={"file": PICTURE}, data=words)
    assert report.status_code == 200
    assert report.headers["content-type"].startswith("text/html")
    assert "attachment" in report.headers["content-disposition"]
    assert "default-src 'none'" in report.headers["content-security-policy"]
    assert "What mattered was measured" in report.text
    numbers = ask("POST", "/v1/explain", files={"file": PICTURE}, data=words | {"format": "json"})
    numbers = numbers.json()
    assert np.shape(numbers["occlusion"]["falls"]) == (len(numbers["words"]), 4)
    wrong = ask("POST", "/v1/explain", files={"file": PICTURE}, data={"format": "pdf"})
    assert (wrong.status_code, "html, json" in wrong.json()["error"]) == (422, True)
    two = ask("POST", "/v1/explain", files=files(PICTURE, PICTURE))
    assert (two.status_code, "one at a time" in two.json()["error"]) == (422, True)


def test_models_health_and_counts(ask: Any) -> None:
    listed = ask("GET", "/v1/models").json()["models"]
    assert [(one["name"], one["attention"]) for one in listed] == [
        ("soft", "soft"),
        ("hard", "hard"),
    ]
    assert listed[0]["grid"] == [2, 2]
    assert ask("GET", "/healthz").json()["status"] == "ok"
    ask("POST", "/v1/caption", files=files(PICTURE, ("b", b"?", "image/png")))
    ask("POST", "/v1/caption", files=files(), data={"beam": "0"})
    text = ask("GET", "/metrics").text
    for line in (
        'regard_requests_total{path="/v1/caption",status="200"} 1.0',
        'regard_requests_total{path="/v1/caption",status="422"} 1.0',
        'regard_pictures_total{result="captioned"} 1.0',
        'regard_pictures_total{result="failed"} 1.0',
        "regard_batch_pictures_count 1.0",
        "regard_waiting_pictures 0.0",
    ):
        assert line in text.splitlines()


def test_the_schema_lists_routes_and_every_option(ask: Any) -> None:
    schema = ask("GET", "/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/caption", "/v1/explain", "/v1/models", "/healthz", "/readyz", "/metrics"
    }  # fmt: skip
    body = schema["paths"]["/v1/caption"]["post"]["requestBody"]["content"]
    form = body["multipart/form-data"]["schema"]["properties"]
    options = set(DecodingOptions.__dataclass_fields__)
    assert options == set(FIELDS)
    assert set(form) == options | {"files", "model", "alpha"}
    assert form["beam"] == {"type": "integer", "default": 3, "minimum": 1, "maximum": 10,
                            "description": "beam width; 1 is greedy"}  # fmt: skip
    own = {f.name for f in fields(DecodingConfig)}
    assert own == options - {name for name in options if "default" in form[name]}


def test_every_option_of_the_schema_is_taken(ask: Any) -> None:
    defaults = {f: str(v.default) for f, v in DecodingOptions.__dataclass_fields__.items()}
    data = defaults | {"prefix": "", "banned": "", "model": "hard"}
    assert ask("POST", "/v1/caption", files=files(), data=data).status_code == 200
