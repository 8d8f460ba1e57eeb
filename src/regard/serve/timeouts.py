"""uvicorn's HTTP/1.1, with an end to its patience.

uvicorn itself waits for a header, and for the rest of a body that was refused, as long as bytes
come, and keeps an answer for ever for who does not read it. The class is made when it is asked
for, since uvicorn is an extra; it is named to uvicorn as
`regard.serve.timeouts:PatientProtocol`, so that processes of several workers find it.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, cast

from regard.errors import MissingExtra

_USUAL = {"header_seconds": 10.0, "body_seconds": 30.0}


@cache
def _protocol() -> type[Any]:
    try:
        import h11
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "serving") from error

    class PatientProtocol(H11Protocol):
        """Ends a connection whose header, refused body or reader takes too long."""

        _deadline: Any = None
        _unread: Any = None

        def _seconds(self, name: str) -> float:
            return getattr(self.config, name, _USUAL[name])

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            self.resume_writing()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._answering():
                self._wait_no_more()
            else:
                self._wait()

        def on_response_complete(self) -> None:
            # What was piped after this request may begin the next one in here.
            super().on_response_complete()
            if self._answering():
                self._wait_no_more()
            self._end_for_certain()

        def timeout_keep_alive_handler(self) -> None:
            self._wait_no_more()
            super().timeout_keep_alive_handler()
            self._end_for_certain()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._unread = self.loop.call_later(
                    self._seconds("body_seconds"), self.transport.abort
                )

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _end_for_certain(self) -> None:
            """See to it that a connection that closes does not wait for its reader for ever."""
            if self.transport.is_closing():
                self.loop.call_later(self._seconds("body_seconds"), self.transport.abort)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, b"Bad Request", "the request is no HTTP that can be read.")

        def _answering(self) -> bool:
            cycle = cast("Any", self.cycle)  # None before the first request
            return cycle is not None and not cycle.response_complete

        def _wait(self) -> None:
            if self._deadline is None and not self.transport.is_closing():
                self._deadline = self.loop.call_later(self._seconds("header_seconds"), self._late)

        def _wait_no_more(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            self._deadline = None
            if self.transport.is_closing():
                return
            if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                said = "the request's header did not come in time; send it anew."
                self._refuse(408, b"Request Timeout", said)
            else:  # nothing came, or the rest of a body that nobody wants
                self.transport.close()
            self._end_for_certain()

        def _refuse(self, status: int, reason: bytes, said: str) -> None:
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.close()  # an answer is under way, or over
                return
            body = json.dumps({"error": said}).encode()
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

    return PatientProtocol


def __getattr__(name: str) -> Any:
    if name == "PatientProtocol":
        return _protocol()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
