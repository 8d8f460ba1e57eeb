"""ASGI middleware around all routes: access, rate limits, timeouts, headers, counts and logs."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from regard.serve.prometheus import log_event, traceback_facts
from regard.serve.requests import RequestError, one_line
from regard.serve.settings import Network, Settings

if TYPE_CHECKING:
    from regard.serve.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""Paths that need no key: the page, the probes and the API's description."""
CLIENT_CLOSED_REQUEST = 499
"""The status in logs and counts if the client disconnected before the answer; it is never sent."""
_OPEN_BELOW = ("/assets/", "/samples/")
_WORK = ("/v1/caption", "/v1/explain", "/page/caption")
_FIXED = {*OPEN, *_WORK, "/v1/models", "/metrics"}
_PROBES = ("/healthz", "/readyz", "/metrics")  # they come every few seconds: logged as debug
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ELSEWHERE = ("cross-site", "same-site")
_LINGER, _LINGER_BYTES = 2.0, 2**28  # seconds, bytes
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=()",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
"""Headers of every answer, unless it sets them itself."""


class RequestMiddleware:
    """Admits, times, counts and logs every request."""

    def __init__(self, app: Any, service: Service) -> None:
        """Wrap an application."""
        self._app, self._service = app, service

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer or refuse a request, then count and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(scope, receive, send, self._service.settings)
        try:
            await self._answer(context)
        finally:
            self._record(context)

    async def _answer(self, context: RequestContext) -> None:
        try:
            self._check_access(context)
            await self._run(context)
        except RequestError as error:
            await context.refuse(error)
        except Exception as error:
            facts = traceback_facts(error)
            log_event("failure", level=logging.ERROR, id=context.identity, **facts)
            name = type(error).__name__  # the message may reveal internals
            await context.refuse(RequestError(500, f"the service failed ({name})."))

    def _check_access(self, context: RequestContext) -> None:
        """Raise `RequestError` if the host, origin, key, load or rate forbids the request."""
        settings, path = self._service.settings, context.scope["path"]
        is_post = context.scope["method"] == "POST"
        hosts = [host.lower() for host in settings.hosts]
        if hosts and "*" not in hosts and _host(context.header(b"host")) not in hosts:
            raise RequestError(400, "unknown host name; see the service's setting hosts.")
        if is_post and _is_foreign(context, settings.cors_origins):
            raise RequestError(403, "pages of other sites may not send requests here.")
        client = "address " + client_of(context, settings.proxy_networks)
        if self._service.keys and path not in OPEN and not path.startswith(_OPEN_BELOW):
            name = self._service.keys.name_of(_api_key(context))
            if name is None:
                raise RequestError(401, "a key is needed, as Authorization: Bearer or X-API-Key.")
            context.key = name
            client = "key " + name
        if path not in _WORK or not is_post:
            return
        # In this order: a request that is refused for load does not use up its client's rate.
        self._service.admission.check_capacity()
        if wait := self._service.limiter.take(client):
            raise RequestError(429, f"too many requests; try again in {wait} s.", retry=wait)

    async def _run(self, context: RequestContext) -> None:
        """Run the application until it has answered, times out, or its client disconnects."""
        limit = self._service.settings.request_seconds
        work = asyncio.ensure_future(self._app(context.scope, context.receive, context.send))
        leaves = asyncio.ensure_future(context.wait_for_disconnect())
        try:
            await asyncio.wait({work, leaves}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if context.complete and not work.done():
                await work
            if work.done():
                work.result()
            elif leaves.done():
                context.disconnected = True
            else:
                raise RequestError(504, f"no answer was found within {limit:g} s; ask for less.")
        finally:
            leaves.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    def _record(self, context: RequestContext) -> None:
        """Count and log a request; unknown paths and methods are not recorded."""
        left = context.disconnected
        status = CLIENT_CLOSED_REQUEST if left else context.status
        path, method = context.scope["path"], context.scope["method"]
        route = path if path in _FIXED else "other"
        for below in _OPEN_BELOW:
            route = below + "{name}" if path.startswith(below) else route
        seconds = context.seconds
        self._service.metrics.count_request(route, status, seconds, disconnected=left)
        log_event(
            "request",
            level=logging.DEBUG if route in _PROBES and status == 200 else logging.INFO,
            id=context.identity,
            method=method if method in _METHODS else "other",
            route=route,
            status=status,
            seconds=round(seconds, 4),
            bytes_in=context.bytes_in,
            bytes_out=context.bytes_out,
            key=context.key,
        )


def _is_foreign(context: RequestContext, allowed: tuple[str, ...]) -> bool:
    """Return whether a browser says that a page of another site sends the request.

    Pages at plain http addresses say so by Origin alone, which is compared with Host. The scheme is
    left out: a proxy with TLS speaks http to the service.
    """
    origin, host = context.header(b"origin").lower(), context.header(b"host").lower()
    if "*" in allowed or (origin and origin in (one.lower() for one in allowed)):
        return False
    if context.header(b"sec-fetch-site") in _ELSEWHERE:
        return True
    return bool(origin) and (not host or origin.partition("://")[2] != host.strip())


def client_of(context: RequestContext, proxies: tuple[Network, ...]) -> str:
    """Return the address by which a client's rate is counted, or "" where there is none.

    Behind proxies it is the last address in X-Forwarded-For that is not a proxy's: what stands
    before it was written by the client. One customer has 2**64 addresses of IPv6, so only the
    first half counts.
    """
    address = _address((context.scope.get("client") or ("",))[0])
    if address is None:
        return ""
    lines = [value for key, value in context.scope["headers"] if key == b"x-forwarded-for"]
    forwarded = b",".join(lines).decode("latin-1").split(",")
    while forwarded and any(address in network for network in proxies):
        before = _address(forwarded.pop())
        if before is None:
            break
        address = before
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, without a port or zone; one of IPv4 that is written as IPv6 as IPv4."""
    text = text.strip().partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _host(header: str) -> str:
    """Return the name in a Host header, without its port."""
    name, colon, port = header.strip().lower().rpartition(":")
    return name if colon and port.isdecimal() else header.strip().lower()


def _api_key(context: RequestContext) -> str:
    """Return the key of a request; X-API-Key is read if a proxy uses Authorization itself."""
    kind, _, key = context.header(b"authorization").partition(" ")
    return key.strip() if kind.lower() == "bearer" else context.header(b"x-api-key").strip()


class RequestContext:
    """A request and its answer.

    Attributes:
        identity: a random name, in the answer's header and in the log.
        status: status of the answer; 500 until there is one.
        bytes_in: size of the request's body so far.
        bytes_out: size of the answer's body so far.
        started: whether the answer has begun.
        complete: whether the answer has ended.
        disconnected: whether the client disconnected before that.
        key: name of the API key of the request; "" without one.
    """

    def __init__(self, scope: Message, receive: Receive, send: Send, settings: Settings) -> None:
        """Start counting and timing; the arguments are ASGI's."""
        self.scope, self._receive, self._send = scope, receive, send
        self._limit = settings.body_seconds
        self._began = time.monotonic()
        self._body_done = asyncio.Event()
        self.identity = secrets.token_hex(8)
        self.status, self.bytes_in, self.bytes_out = 500, 0, 0
        self.started = self.complete = self.disconnected = False
        self.key = ""

    @property
    def seconds(self) -> float:
        """The seconds since it began."""
        return time.monotonic() - self._began

    def header(self, name: bytes) -> str:
        """Return the first header of a name, or ""."""
        found = (value for key, value in self.scope["headers"] if key == name)
        return next(found, b"").decode("latin-1")

    async def receive(self) -> Message:
        """Receive a message of the request.

        Raises:
            RequestError: the body takes too long (408).
        """
        try:
            async with asyncio.timeout(max(0.0, self._limit - self.seconds)):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestError(
                408, f"the request's body did not arrive within {self._limit:g} s; send it again."
            ) from error
        if message["type"] == "http.disconnect":
            self.disconnected = not self.complete
        else:
            self.bytes_in += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._body_done.set()
        return message

    async def wait_for_disconnect(self) -> None:
        """Wait until the client disconnects or the answer ends; call it once."""
        await self._body_done.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Pass on the answer, with the headers that all answers have."""
        if message["type"] == "http.response.start":
            if self._would_be_reset():
                await self._linger()
            self.started, self.status = True, message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [
                *message.get("headers", ()),
                *((name, value) for name, value in _HEADERS.items() if name not in own),
                (b"x-request-id", self.identity.encode()),
            ]
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def _would_be_reset(self) -> bool:
        """Return whether the connection closes while the body still arrives.

        Closing it then resets it, and the client loses the answer. If the connection is kept
        open, the server reads on by itself.
        """
        if self._body_done.is_set() or self.disconnected or self.header(b"expect"):
            return False
        closes = "close" in self.header(b"connection").lower()
        return closes or self.scope.get("http_version") == "1.0"

    async def _linger(self) -> None:
        """Read and discard the rest of the body for a moment."""
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

    async def refuse(self, error: RequestError) -> None:
        """Answer with an error unless an answer has begun."""
        if self.started:
            return
        body = json.dumps({"error": one_line(error)}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        lines = [(k.encode(), v.encode()) for k, v in (headers | error.headers).items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": lines})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})
