"""HTTP/1.1 protocol with read and write timeouts, for uvicorn.

uvicorn itself waits for a header, and for the rest of a refused body, as long as bytes arrive, and
keeps an answer forever for a client that does not read it. uvicorn is an extra, so its protocol is
imported on first use. uvicorn gets the protocol as the text
`regard.serve.timeouts:TimeoutProtocol`, so that the processes of several workers find it.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from regard.errors import needs_extra

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as _Protocol
else:
    _Protocol = object

_DEFAULTS = {"header_seconds": 10.0, "body_seconds": 30.0}


class _TimeoutMixin(_Protocol):
    """Closes a connection if its header, a refused body or a slow reader takes too long."""

    _deadline: Any = None  # the timer of the header
    _unread: Any = None  # the timer of an answer that is not read

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering():
            self._cancel_deadline()
        else:
            self._start_deadline()

    def on_response_complete(self) -> None:
        # If the client sent its next request in advance, that begins within this call.
        super().on_response_complete()
        if self._answering():
            self._cancel_deadline()
        self._abort_after_close()

    def timeout_keep_alive_handler(self) -> None:
        self._cancel_deadline()
        super().timeout_keep_alive_handler()
        self._abort_after_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self._abort_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, b"Bad Request", "the request is not valid HTTP.")

    def _seconds(self, name: str) -> float:
        return getattr(self.config, name, _DEFAULTS[name])

    def _answering(self) -> bool:
        cycle = cast("Any", self.cycle)  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _start_deadline(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            seconds = self._seconds("header_seconds")
            self._deadline = self.loop.call_later(seconds, self._header_timed_out)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _header_timed_out(self) -> None:
        import h11

        self._deadline = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            message = "the request's header did not arrive in time; send it again."
            self._refuse(408, b"Request Timeout", message)
        else:  # nothing arrived, or the rest of a refused body
            self.transport.close()
        self._abort_after_close()

    def _abort_later(self) -> Any:
        return self.loop.call_later(self._seconds("body_seconds"), self.transport.abort)

    def _abort_after_close(self) -> None:
        """Abort a closing connection whose reader takes too long."""
        if self.transport.is_closing():
            self._abort_later()

    def _refuse(self, status: int, reason: bytes, message: str) -> None:
        """Answer with an error and close the connection."""
        import h11

        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer has begun, or ended
            return
        body = json.dumps({"error": message}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        parts: tuple[Any, ...] = (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        for part in parts:
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()


@cache
def _protocol() -> type[Any]:
    with needs_extra("uvicorn", "serve", "serving"):
        from uvicorn.protocols.http.h11_impl import H11Protocol
    return type("TimeoutProtocol", (_TimeoutMixin, H11Protocol), {"__module__": __name__})


def __getattr__(name: str) -> Any:
    if name == "TimeoutProtocol":
        return _protocol()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
