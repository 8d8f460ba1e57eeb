"""`regard serve` at twice its capacity, under abuse, and with its decoding processes killed.

Three services run one after the other: one with default settings is loaded, one with short
timeouts is abused, and one is ended while it works.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz.service_abuse import abuse
from tests.fuzz.service_client import (
    Service,
    form,
    known_pictures,
    parsed,
    read_all,
    request,
    status_of,
)
from tests.fuzz.service_load import load
from tests.fuzz.tally import Tally

_SECONDS, _SHORTEST = 120.0, 10.0
_CRASHES = 10
_PATIENCE = ("header_seconds=2", "body_seconds=3", "decode_seconds=4", "request_seconds=30")


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Load and abuse the service, and kill its processes.

    Args:
        scale: amount of work; 1 loads the service for two minutes.
        seed: seed of the order of the trials.
        folder: folder for logs.
    """
    pictures, captions = known_pictures()
    with Service(folder / "load.log") as served:
        seconds = max(_SHORTEST, _SECONDS * scale)
        tally = asyncio.run(load(served, pictures, captions, seconds))
        _expect(tally, "ended by SIGTERM after the load", lambda: served.stop() == 0)
    _judge_log(folder / "load.log", tally)
    generator = random.Random(seed)
    with Service(folder / "abuse.log", *_PATIENCE) as served:
        tally += abuse(served, generator, (pictures[0], captions[0]), scale)
        for _ in range(max(2, round(_CRASHES * scale))):
            tally += _shoot(served, generator, pictures, captions)
        tally += _shoot_idle(served, pictures[0], captions[0])
        tally += _hang(served, pictures[0], captions[0])
    _judge_log(folder / "abuse.log", tally)
    return tally + _end(folder / "end.log", pictures, captions)


def _expect(tally: Tally, what: str, works: Callable[[], bool]) -> None:
    """Count whether a condition holds."""
    try:
        held = works()
    except Exception as error:
        tally.miss(f"{what}: {type(error).__name__}: {error}")
        return
    if held:
        tally.handle()
    else:
        tally.lose(what)


def _stopped(served: Service) -> list[int]:
    """Stop all decoding processes with SIGSTOP; return them."""
    children = served.children()
    for number in children:
        os.kill(number, signal.SIGSTOP)
    return children


def _warmed(served: Service, picture: bytes) -> None:
    """Start both decoding processes."""
    while len(served.children()) < 2:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(served.caption, [picture] * 4))


def _shoot(
    served: Service, generator: random.Random, pictures: list[bytes], captions: list[str]
) -> Tally:
    """Kill one of two decoding processes while each has a file; only one request may fail."""
    tally = Tally()
    _warmed(served, pictures[0])
    stopped = _stopped(served)
    asked = generator.sample(range(len(pictures)), 4)
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(served.caption, pictures[which]) for which in asked]
        time.sleep(0.5)  # two files are with the processes, two wait
        shot = generator.choice(stopped)
        os.kill(shot, signal.SIGKILL)
        for number in stopped:
            if number != shot:
                os.kill(number, signal.SIGCONT)
        got = [answer.result() for answer in answers]
    failed = [status for status, _ in got if status >= 500]
    _expect(tally, f"one 5xx for one shot process, and statuses {[s for s, _ in got]}",
            lambda: len(failed) == 1)  # fmt: skip
    for which, (status, told) in zip(asked, got, strict=True):
        if status < 500:
            what = f"the others answered rightly when a process was shot: {status}"
            _expect(tally, what, lambda w=which, t=told: _caption(t) == captions[w])
    return tally


def _shoot_idle(served: Service, picture: bytes, caption: str) -> Tally:
    """Kill idle processes: no request may fail."""
    tally = Tally()
    _warmed(served, picture)
    shot = served.children()
    for number in shot:
        os.kill(number, signal.SIGKILL)
    while set(shot) & set(served.children()):
        time.sleep(0.01)
    what = "a right caption after idle processes were shot"
    for _ in range(4):
        _expect(tally, what, lambda: _caption(served.caption(picture)[1]) == caption)
    return tally


def _hang(served: Service, picture: bytes, caption: str) -> Tally:
    """Let decoding processes hang: the request times out, and the next one is served."""
    tally = Tally()
    _warmed(served, picture)
    _stopped(served)
    began = time.monotonic()
    status, _ = served.caption(picture)
    took = time.monotonic() - began
    tally.figures.append(f"a decoding process that hangs: {status} after {took:.1f} s (limit 4 s)")
    _expect(tally, f"504 where decoding hangs, not {status}", lambda: status == 504)
    for _ in range(2):
        status, told = served.caption(picture)
        if status == 504:  # the other process hung, too
            tally.handle()
            continue
        what = "a right caption after a process hung"
        _expect(tally, what, lambda t=told: _caption(t) == caption)
    return tally


def _end(log: Path, pictures: list[bytes], captions: list[str]) -> Tally:
    """End the service while it works: running requests are answered, later ones refused."""
    tally = Tally()
    with Service(log) as served:
        opened = [served.connect(60) for _ in pictures]
        for connection, picture in zip(opened, pictures, strict=True):
            connection.sendall(request(form(picture)))
        while served.waiting() < len(pictures) / 2:
            time.sleep(0.01)
        status: list[int] = []
        stopping = threading.Thread(target=lambda: status.append(served.stop()))
        stopping.start()
        answers = [read_all(connection) for connection in opened]
        stopping.join()
        for answer, caption in zip(answers, captions, strict=True):
            what = f"answered though the service was ending: {status_of(answer)}"
            _expect(tally, what, lambda a=answer, c=caption: _caption(parsed(a)[1]) == c)
        _expect(tally, f"the service ended with status {status}", lambda: status == [0])
        _expect(tally, "nobody listens any more", lambda: status_of(served.get("/healthz")) == 0)
    _judge_log(log, tally)
    return tally


def _caption(told: dict[str, Any]) -> str:
    return told["captions"][0]["caption"]


def _judge_log(log: Path, tally: Tally) -> None:
    """Check the log for failures and for content that must not be logged."""
    lines = log.read_text("utf-8").splitlines()[1:]  # the first line gives the address
    told = [json.loads(line) for line in lines if line.startswith("{")]
    for line in lines:
        if not line.startswith("{"):
            tally.miss(f"the service wrote: {line}")
    for one in told:
        if one["event"] == "failure" or (one["event"] == "server" and "error" in one):
            tally.miss(f"the service reported {one.get('error')} at {one.get('where')}")
    _expect(tally, f"{log.name} holds no user's content",
            lambda: not any(word in log.read_text("utf-8")
                            for word in (".jpg", "passwd", "SECRET")))  # fmt: skip
