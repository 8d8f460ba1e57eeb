"""One request and its answer, as they pass: counted, timed, and watched for who leaves."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from regard.serve.requests import Refused
from regard.serve.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LEFT = 499
"""Stands in logs and counts where the sender left before the answer; it is never sent."""
_LINGER, _LINGER_BYTES = 2.0, 2**28  # seconds, bytes
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=()",
    b"content-security-policy": _NOTHING.encode(),
    b"cache-control": b"no-store",
}
"""What every answer bears, unless it has such a header of its own."""


class Exchange:
    """A request and its answer.

    Attributes:
        identity: a random name, in the answer's header and in the log.
        status: of the answer; 500 until there is one.
        came: bytes of the body so far.
        went: bytes of the answer's body so far.
        started: whether the answer has begun.
        complete: whether it is whole.
        left: whether the sender left before.
        key: name of the key that the request bore; "" for none.
    """

    def __init__(self, scope: Message, receive: Receive, send: Send, settings: Settings) -> None:
        """Begin to count and to time; the arguments are ASGI's."""
        self.scope, self._receive, self._send = scope, receive, send
        self._limit = settings.body_seconds
        self._began = time.monotonic()
        self._body_done = asyncio.Event()
        self.identity = secrets.token_hex(8)
        self.status, self.came, self.went = 500, 0, 0
        self.started = self.complete = self.left = False
        self.key = ""

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self._began

    def header(self, name: bytes) -> str:
        """Return the first header of a name; "" where there is none."""
        found = (value for key, value in self.scope["headers"] if key == name)
        return next(found, b"").decode("latin-1")

    async def receive(self) -> Message:
        """Pass on what comes.

        Raises:
            Refused: the body takes too long (408).
        """
        try:
            async with asyncio.timeout(max(0.0, self._limit - self.seconds)):
                message = await self._receive()
        except TimeoutError as error:
            raise Refused(
                408, f"the request's body did not come within {self._limit:g} s; send it anew."
            ) from error
        if message["type"] == "http.disconnect":
            self.left = not self.complete
        else:
            self.came += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._body_done.set()
        return message

    async def leaves(self) -> None:
        """Return once the sender is gone, or the answer whole; to be called once."""
        await self._body_done.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Pass on the answer, with the headers that all have."""
        if message["type"] == "http.response.start":
            if self._would_be_cut():
                await self._linger()
            self.started, self.status = True, message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [
                *message.get("headers", ()),
                *((name, value) for name, value in _HEADERS.items() if name not in own),
                (b"x-request-id", self.identity.encode()),
            ]
        elif message["type"] == "http.response.body":
            self.went += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def _would_be_cut(self) -> bool:
        """Whether the connection ends with the answer while the body still comes.

        Closing it then resets it, and the sender loses the answer. Where it is kept open, the
        server reads on.
        """
        if self._body_done.is_set() or self.left or self.header(b"expect"):
            return False
        closes = "close" in self.header(b"connection").lower()
        return closes or self.scope.get("http_version") == "1.0"

    async def _linger(self) -> None:
        """Read on for a moment, and throw away what comes."""
        came = 0
        try:
            async with asyncio.timeout(_LINGER):
                while came < _LINGER_BYTES:
                    message = await self._receive()
                    came += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    async def refuse(self, refused: Refused, **headers: str) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.started:
            return
        body = json.dumps({"error": " ".join(str(refused).split())}).encode()
        sent = {"content-type": "application/json", "content-length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        sent |= headers_of(refused)
        lines = [(name.encode(), value.encode()) for name, value in sent.items()]
        start = {"type": "http.response.start", "status": refused.status, "headers": lines}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


def headers_of(refused: Refused) -> dict[str, str]:
    """Return the headers that a refusal needs."""
    headers = {"retry-after": str(refused.retry)} if refused.retry else {}
    # What may still come of a body that was too slow is not waited for.
    return headers | ({"connection": "close"} if refused.status == 408 else {})


__all__ = ["LEFT", "Exchange", "Message", "Receive", "Send", "headers_of"]
