"""What stands before the routes: who may come in, how often and how long; what is told of it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from regard.serve.prometheus import say, trace_of
from regard.serve.request_context import LEFT, Exchange, Message, Receive, Send
from regard.serve.requests import Refused

if TYPE_CHECKING:
    from regard.serve.service import Service

OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""Paths that need no key: the page, who lives, what the API is."""
_OPEN_BELOW = ("/assets/", "/samples/")
_WORK = ("/v1/caption", "/v1/explain", "/page/caption")
_FIXED = {*OPEN, *_WORK, "/v1/models", "/metrics"}
_PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds, and of no interest
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ELSEWHERE = ("cross-site", "same-site")


class Guard:
    """ASGI middleware around all routes."""

    def __init__(self, app: Any, service: Service) -> None:
        """Stand before an application."""
        self._app, self._service = app, service

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it; count it and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._service.settings)
        try:
            await self._answer(exchange)
        finally:
            self._tell(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            self._admit(exchange)
            await self._work(exchange)
        except _NoKey as refused:
            await exchange.refuse(refused, www_authenticate="Bearer")
        except Refused as refused:
            await exchange.refuse(refused)
        except Exception as error:
            say("failure", level=logging.ERROR, id=exchange.identity, **trace_of(error))
            name = type(error).__name__  # the message may say what a stranger need not know
            await exchange.refuse(Refused(500, f"the service failed ({name})."))

    def _admit(self, exchange: Exchange) -> None:
        """Raise `Refused` for whom the service is not there."""
        settings, path = self._service.settings, exchange.scope["path"]
        hosts = [host.lower() for host in settings.hosts]
        if hosts and _host(exchange.header(b"host")) not in hosts:
            raise Refused(400, "the service is not called by this name; see its setting hosts.")
        if (
            exchange.scope["method"] == "POST"
            and exchange.header(b"sec-fetch-site") in _ELSEWHERE
            and exchange.header(b"origin") not in settings.cors_origins
            and "*" not in settings.cors_origins
        ):
            raise Refused(403, "another site's page may not send requests here.")
        who = "address " + (exchange.scope.get("client") or ("",))[0]
        if self._service.keys and path not in OPEN and not path.startswith(_OPEN_BELOW):
            name = self._service.keys.name_of(_key(exchange))
            if name is None:
                raise _NoKey(401, "a key is wanted, as Authorization: Bearer or X-API-Key.")
            exchange.key = name
            who = "key " + name
        if path not in _WORK or exchange.scope["method"] != "POST":
            return
        # In this order: who is turned away for want of room has not used up its rate.
        self._service.room.refuse_when_full()
        if wait := self._service.buckets.take(who):
            raise Refused(429, f"too many requests; try again in {wait} s.", retry=wait)

    async def _work(self, exchange: Exchange) -> None:
        """Run the application until it has answered, its time is up, or its client leaves."""
        limit = self._service.settings.request_seconds
        work = asyncio.ensure_future(self._app(exchange.scope, exchange.receive, exchange.send))
        leaves = asyncio.ensure_future(exchange.leaves())
        try:
            await asyncio.wait({work, leaves}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if exchange.complete and not work.done():
                await work
            if work.done():
                work.result()
            elif leaves.done():
                exchange.left = True
            else:
                raise Refused(504, f"no answer was found within {limit:g} s; ask for less.")
        finally:
            leaves.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    def _tell(self, exchange: Exchange) -> None:
        status = LEFT if exchange.left else exchange.status
        path = exchange.scope["path"]
        route = path if path in _FIXED else "other"
        for below in _OPEN_BELOW:
            route = below + "{name}" if path.startswith(below) else route
        self._service.meters.request(route, status, exchange.seconds)
        if exchange.left:
            self._service.meters.left()
        method = exchange.scope["method"]
        say(
            "request",
            level=logging.DEBUG if route in _PROBES and status == 200 else logging.INFO,
            id=exchange.identity,
            method=method if method in _METHODS else "other",
            route=route,
            status=status,
            seconds=round(exchange.seconds, 4),
            bytes_in=exchange.came,
            bytes_out=exchange.went,
            key=exchange.key,
        )


class _NoKey(Refused):
    """A request without a key that opens."""


def _host(header: str) -> str:
    """Return the name in a Host header, without its port."""
    name, colon, port = header.strip().lower().rpartition(":")
    return name if colon and port.isdecimal() else header.strip().lower()


def _key(exchange: Exchange) -> str:
    """Return the key that a request bears; a proxy's own Authorization does not hide it."""
    kind, _, key = exchange.header(b"authorization").partition(" ")
    return key.strip() if kind.lower() == "bearer" else exchange.header(b"x-api-key").strip()


__all__ = ["OPEN", "Guard"]
