"""Load: the capacity of the service, and its behaviour at twice that rate of requests."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field

import httpx

from tests.fuzz.service_client import BOUNDARY, Service, form
from tests.fuzz.tally import Tally

CLIENTS = 200
_AT_ONCE = 32  # clients that measure the capacity: two full batches
_NAME = "c000-000000.jpg"  # unique for every request, of one length
_HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
_PATIENCE = 60.0
_FLAT = 0.10  # largest growth between the second and the last quarter that counts as flat
_SLACK = 48 * 2**20


@dataclass
class Traffic:
    """The clients' observations.

    Attributes:
        right: seconds until each right caption.
        refused: seconds until each refusal.
        sent: number of requests.
        wrong: one line for each wrong or missing answer.
        failed: one line for each 5xx answer.
        memory: resident bytes, once a second.
        work: CPU seconds of the service.
    """

    right: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    sent: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    work: float = 0.0


class Load:
    """Clients that send known pictures and judge the answers."""

    def __init__(self, served: Service, pictures: list[bytes], captions: list[str]) -> None:
        """Build the bodies once: the clients share the machine with the service."""
        self._served, self._captions = served, captions
        self._bodies = [form(picture, _NAME).split(_NAME.encode()) for picture in pictures]
        self._tls = ssl.create_default_context()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._served.port}",
            verify=self._tls,
            trust_env=False,
            timeout=_PATIENCE,
            # A connection that idles as long as the service keeps it may be closed under a request.
            limits=httpx.Limits(keepalive_expiry=5),
        )

    async def _one(self, client: httpx.AsyncClient, number: int, at: int, seen: Traffic) -> None:
        which = (number * 7 + at) % len(self._bodies)
        name = f"c{number:03d}-{at:06d}.jpg"
        before, after = self._bodies[which]
        body = before + name.encode() + after
        seen.sent += 1
        began = time.perf_counter()
        try:
            answer = await client.post("/v1/caption", content=body, headers=_HEADERS)
        except httpx.HTTPError as error:
            seen.wrong.append(f"{name}: no answer ({type(error).__name__})")
            return
        took = time.perf_counter() - began
        if answer.status_code == 200:
            (record,) = json.loads(answer.content)["captions"]
            if (record["file"], record.get("caption")) != (name, self._captions[which]):
                seen.wrong.append(f"{name}: got {record['file']}: {record.get('caption')}")
            else:
                seen.right.append(took)
        elif answer.status_code == 429 and answer.headers.get("retry-after", "").isdecimal():
            seen.refused.append(took)
        else:
            seen.failed.append(f"{name}: status {answer.status_code}")

    async def capacity(self, seconds: float, seen: Traffic) -> float:
        """Return correct captions per second with clients that wait for their answers."""
        end = time.perf_counter() + seconds
        done = len(seen.right)

        async def client(number: int) -> None:
            async with self._client() as http:
                at = 0
                while time.perf_counter() < end:
                    await self._one(http, number, at, seen)
                    at += 1

        began, worked = time.perf_counter(), self._served.work()
        await asyncio.gather(*(client(number) for number in range(_AT_ONCE)))
        seen.work += self._served.work() - worked
        return (len(seen.right) - done) / (time.perf_counter() - began)

    async def overload(self, seconds: float, rate: float, seen: Traffic) -> float:
        """Send at a fixed rate, independent of the answers; return correct captions per second."""
        period = CLIENTS / rate
        began, worked = time.perf_counter(), self._served.work()
        end = began + seconds

        async def client(number: int) -> None:
            due = began + period * number / CLIENTS
            async with self._client() as http:
                at = 0
                while due < end:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    await self._one(http, number, at, seen)
                    at += 1
                    due = max(due + period, time.perf_counter())

        async def watch() -> None:
            while True:
                seen.memory.append(self._served.memory())
                await asyncio.sleep(1)

        watching = asyncio.ensure_future(watch())
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        watching.cancel()
        seen.work += self._served.work() - worked
        return len(seen.right) / (time.perf_counter() - began)


async def load(
    served: Service, pictures: list[bytes], captions: list[str], seconds: float
) -> Tally:
    """Measure the capacity, overload the service, measure again, and check the results.

    Args:
        served: the service.
        pictures: small pictures.
        captions: their captions.
        seconds: duration of the overload.
    """
    clients = Load(served, pictures, captions)
    calm, wild = Traffic(), Traffic()
    await clients.capacity(min(3.0, seconds / 4), Traffic())  # warm
    measured = max(5.0, seconds / 8)
    first = await clients.capacity(measured, calm)
    accepted = await clients.overload(seconds, 2 * first, wild)
    second = await clients.capacity(measured, calm)
    tally = Tally()
    for seen in (calm, wild):
        answered = len(seen.right) + len(seen.refused)
        tally.tried, tally.handled = tally.tried + answered, tally.handled + answered
        for line in seen.wrong:
            tally.lose(line)
        for line in seen.failed:
            tally.miss(line)
    if calm.refused:
        tally.figures.append(f"{len(calm.refused)} refused while {_AT_ONCE} clients took turns")
    capacity = (first + second) / 2
    tally.figures += [
        f"unloaded capacity {first:.1f} captions/s before, {second:.1f} after "
        f"({_AT_ONCE} clients that take turns, {measured:.0f} s each)",
        f"{CLIENTS} clients, {seconds:.0f} s at {2 * first:.1f} requests/s: {wild.sent} sent, "
        f"{len(wild.right)} right captions, {len(wild.refused)} refused with 429, "
        f"{len(wild.wrong)} lost or mixed, {len(wild.failed)} of the 5xx",
        f"accepted {accepted:.1f} captions/s, {accepted / first:.0%} of the capacity before, "
        f"{accepted / capacity:.0%} of the mean of before and after",
        f"CPU of the service per right caption: {calm.work / max(1, len(calm.right)):.3f} s calm, "
        f"{wild.work / max(1, len(wild.right)):.3f} s under twice the load, refusals included",
        f"p50 {_at(wild.right, 0.5):.2f} s, p99 {_at(wild.right, 0.99):.2f} s of captions; "
        f"p50 {_at(wild.refused, 0.5):.3f} s, p99 {_at(wild.refused, 0.99):.3f} s of refusals",
    ]
    _judge_memory(wild.memory, tally)
    return tally


def _judge_memory(memory: list[int], tally: Tally) -> None:
    quarter = max(1, len(memory) // 4)
    early = memory[quarter : 2 * quarter] or memory
    late = memory[-quarter:]
    before, after = sum(early) / len(early), sum(late) / len(late)
    told = f"{before / 2**20:.0f} MiB in the second quarter, {after / 2**20:.0f} MiB in the last"
    tally.figures.append(f"memory under load: {told}, {max(memory) / 2**20:.0f} MiB at most")
    if after - before > max(_SLACK, _FLAT * before):
        tally.lose(f"memory grew under load: {told}")
    else:
        tally.handle()


def _at(values: list[float], share: float) -> float:
    ordered = sorted(values) or [float("nan")]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
