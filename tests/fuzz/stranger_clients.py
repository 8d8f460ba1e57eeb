"""Clients of the service that leave: their work ends. Forms and headers that cost too much."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from regard.captioner import Captioner
from regard.faithfulness.occlusion import occlude
from regard.serve import Settings, create_app
from regard.serve.batching import Batcher
from regard.serve.decoders import Decoders
from regard.serve.requests import Upload
from regard.util.parallel import Stopped, check_stopped
from tests.helpers import toys

_SOON = 5.0  # seconds: far less than the work that is abandoned


def files_of_clients_who_leave(folder: Path) -> None:
    """A process that decodes for nobody is killed, and a file that waits is not begun."""
    made, told = Decoders(1, 4 * 2**30), list[str]()
    made._watch = told.append
    spec, settings = toys.captioner().reader.spec, Settings(decode_seconds=600)

    async def use() -> None:
        await made.read(Upload("a.jpg", toys.jpeg()), spec, settings)
        (pid,) = made.processes()
        os.kill(pid, signal.SIGSTOP)  # as if it decoded for minutes
        names = ("slow.jpg", "waits.jpg", "wanted.jpg")
        slow, waits, wanted = (
            asyncio.ensure_future(made.read(Upload(name, toys.jpeg()), spec, settings))
            for name in names
        )
        while pid not in [p for p in made.processes() if _is_given(made)]:
            await asyncio.sleep(0.01)
        waits.cancel()
        slow.cancel()
        media = await asyncio.wait_for(wanted, 60)
        assert media.name == "wanted.jpg"
        assert made.processes() != [pid]
        assert not told, told

    try:
        asyncio.run(use())
    finally:
        made.close()


def _is_given(made: Decoders) -> bool:
    return made._threads._work_queue.qsize() == 2


def captions_for_nobody(folder: Path) -> None:
    """A batch ends once all of its clients have left, and goes on while one has not."""
    captioner = toys.captioner()
    steps, begun = [0], threading.Event()
    step = captioner.backend.step

    def counted(*given: Any, **options: Any) -> Any:
        steps[0] += 1
        begun.set()
        time.sleep(0.01)
        return step(*given, **options)

    captioner.backend.step = counted  # type: ignore[method-assign]
    options = {"max_length": 50, "min_length": 49}

    async def use() -> None:
        batcher = Batcher({"toy": captioner}, Settings(wait=0.0))
        media = captioner.reader.read(toys.jpeg(), name="a.jpg", report=None, shown=True)
        for stays in (True, False):
            steps[0] = 0
            begun.clear()
            asked = [
                asyncio.ensure_future(batcher.caption("toy", media, options)) for _ in range(2)
            ]
            while not begun.is_set():
                await asyncio.sleep(0)
            asked[0].cancel()
            if stays:
                assert (await asked[1]).words
                assert steps[0] > 40
            else:
                asked[1].cancel()
                await asyncio.wait_for(batcher.run(int), _SOON)  # the thread is free again
                assert steps[0] < 40, steps
        batcher.close()

    asyncio.run(use())


def explanations_for_nobody(folder: Path) -> None:
    """What mattered is no longer measured once its client has left; other work never begins."""
    begun, ended, never = threading.Event(), list[str](), list[str]()

    def endless() -> None:
        begun.set()
        try:
            while True:
                check_stopped()
                time.sleep(0.001)
        except Stopped:
            ended.append("measuring")
            raise

    async def use() -> None:
        batcher = Batcher({}, Settings())
        first = asyncio.ensure_future(batcher.run(endless))
        second = asyncio.ensure_future(batcher.run(lambda: never.append("begun")))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        second.cancel()
        first.cancel()
        await asyncio.wait_for(batcher.run(int), _SOON)
        batcher.close()

    asyncio.run(use())
    assert (ended, never) == (["measuring"], [])

    from regard.util.parallel import stop_when

    captioner: Captioner = toys.captioner()
    caption = captioner.caption(np.zeros((32, 32, 3), np.uint8), min_length=3)
    with stop_when(lambda: True):
        try:
            occlude(captioner, caption)
        except Stopped:
            return
    raise AssertionError("occlusion goes on")


def requests_that_are_abandoned(folder: Path) -> None:
    """The whole service: an upload whose connection ends does not keep the next one waiting."""
    made = Decoders(1, 4 * 2**30)
    app = create_app({"toy": toys.captioner()}, Settings(decode_seconds=600), decoders=made)

    async def use() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            form: Any = {"files": ("a.jpg", toys.jpeg(), "image/jpeg")}
            assert (await client.post("/v1/caption", files=form)).status_code == 200
            (pid,) = made.processes()
            for path in ("/v1/caption", "/v1/explain"):
                (pid,) = made.processes()
                os.kill(pid, signal.SIGSTOP)
                slow = asyncio.ensure_future(client.post(path, files=form))
                await asyncio.sleep(0.2)
                slow.cancel()
                answer = await asyncio.wait_for(client.post("/v1/caption", files=form), 60)
                assert answer.status_code == 200
                assert made.processes() != [pid]

    try:
        asyncio.run(use())
    finally:
        made.close()


def charsets_that_take_minutes(folder: Path) -> None:
    """Encodings whose decoders take quadratic time, on a form's field names and values."""
    made = Decoders(1, 4 * 2**30)
    app = create_app({"toy": toys.captioner()}, Settings(), decoders=made)
    text = b"\r\n".join([
        b"--x", b'Content-Disposition: form-data; name="prefix"', b"", b"a-" * 20_000,
        b"--x", b'Content-Disposition: form-data; name="files"; filename="a.jpg"', b"",
        toys.jpeg(), b"--x--", b"",
    ])  # fmt: skip

    async def use() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for charset in ("punycode", "idna", "utf-7", "utf-16", '"punycode"', "unicode_escape",
                            "hz", "nobody-knows", "rot13", "latin-1"):  # fmt: skip
                for between in ("; ", ";", " ; "):
                    kind = f"multipart/form-data{between}CharSet={charset}; boundary=x"
                    headers, began = {"content-type": kind}, time.thread_time()
                    answer = await client.post("/v1/caption", content=text, headers=headers)
                    assert answer.status_code == 400, (charset, answer.text)
                    assert "UTF-8" in answer.text, (charset, answer.text)
                    assert time.thread_time() - began < 1
            for charset in ("utf-8", "UTF8", "us-ascii"):
                headers = {"content-type": f"multipart/form-data; charset={charset}; boundary=x"}
                short = text.replace(b"a-" * 20_000, b"")
                answer = await client.post("/v1/caption", content=short, headers=headers)
                assert answer.status_code == 200, answer.text

    try:
        asyncio.run(use())
    finally:
        made.close()


CASES = [
    charsets_that_take_minutes,
    files_of_clients_who_leave,
    captions_for_nobody,
    explanations_for_nobody,
    requests_that_are_abandoned,
]
