"""Requests: form fields, their limits, and errors.

The JSON of a caption is `Caption.to_json`, as on the command line, with the same names.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from regard import errors
from regard.config import DecodingConfig
from regard.decoding import DecodingOptions
from regard.media.isolate import MissingReader
from regard.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request


class RequestError(Exception):
    """Error that refuses a request, with its HTTP status.

    Attributes:
        status: status of HTTP.
        headers: headers of the answer.
    """

    def __init__(self, status: int, message: str, *, retry: int = 0) -> None:
        """Store the status and the message.

        Args:
            status: status of HTTP.
            message: one line that says what came and what was expected.
            retry: seconds after which the client may try again; 0: a retry would not help.
        """
        super().__init__(message)
        self.status = status
        self.headers = {"retry-after": str(retry)} if retry else {}
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"
        if status == 408:  # do not wait for the rest of a body that was too slow
            self.headers["connection"] = "close"


def status_of(error: errors.RegardError) -> int:
    """Return the HTTP status of an error in a request's content."""
    if isinstance(error, errors.MediaTooLarge):
        return 413
    if isinstance(error, errors.UnknownMedia | MissingReader):
        return 415
    if isinstance(error, errors.DeviceError):  # its memory is full: another time there may be room
        return 503
    return 400 if isinstance(error, errors.MediaError) else 422


def one_line(error: Exception) -> str:
    """Return an error's message in one line."""
    return " ".join(str(error).split())


SCHEMAS: dict[str, Any] = json.loads((files("regard.serve") / "schemas.json").read_text("utf-8"))
"""JSON schemas of the form's fields and of the answers, and the meaning of each error status."""
FIELDS: dict[str, dict[str, Any]] = SCHEMAS["fields"]
"""The schema of every field of `DecodingOptions`; words are given as text.

The service checks the maxima itself, because the work grows with them."""
_WORDS = ("prefix", "banned")
DEFAULTS: dict[str, Any] = {
    f.name: "" if f.name in _WORDS else f.default for f in fields(DecodingOptions)
}
"""The value of every field of `DecodingOptions` that is left out; but see `OWN`."""
OWN = frozenset(f.name for f in fields(DecodingConfig))
"""Fields for which a model may have its own values."""
_SWITCH = {"true": True, "1": True, "false": False, "0": False}
_FILES = ("file", "files")
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")
_MAX_FIELDS = 50
_MAX_FIELD_BYTES = 2**16
_MAX_NAME = 255  # characters


@dataclass(frozen=True)
class Upload:
    """A file of a request: the name that its sender gave, never used as a path, and its bytes."""

    name: str
    content: bytes


@dataclass(frozen=True)
class CaptionRequest:
    """A request for captions.

    Attributes:
        files: at least one.
        options: for `Captioner.caption_many`; only the fields that the request has.
        extra: the other fields, such as "model"; defaults stand for absent ones.
        keys: the captioner of each file, or the error if no captioner reads it.
    """

    files: tuple[Upload, ...]
    options: dict[str, Any]
    extra: dict[str, Any]
    keys: tuple[str | errors.MediaError, ...] = ()


def options_of(given: Mapping[str, str], extra: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Parse form fields.

    Args:
        given: fields as text.
        extra: defaults of the fields that are not `DecodingOptions`; they give the types.

    Returns:
        The decoding options that were given, and all the extra fields.

    Raises:
        UnknownName: a field is unknown.
        ConfigError: a value has the wrong type, or exceeds its limit.
    """
    options: dict[str, Any] = {}
    others = dict(extra)
    for name, text in given.items():
        if name in others:
            others[name] = _value(name, text, extra[name])
        elif name in DEFAULTS:
            value = options[name] = _value(name, text, DEFAULTS[name])
            if (most := FIELDS[name].get("maximum")) is not None and value > most:
                raise errors.ConfigError(f"{name} is {value}; the service allows at most {most}.")
        else:
            raise errors.UnknownName("form field", name, [*DEFAULTS, *extra, "files"])
    return options, others


def _value(name: str, text: str, default: Any) -> Any:
    kind = type(default)
    try:
        return _SWITCH[text.strip().lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise errors.ConfigError(f"{name} is {text!r}; it must be {expected}.") from error


async def read_request(
    request: Request,
    settings: Settings,
    extra: Mapping[str, Any],
    took: Callable[[int], None] = lambda count: None,
) -> CaptionRequest:
    """Read a multipart form within its limits.

    Args:
        request: with its body unread.
        settings: limits.
        extra: fields beside the decoding options; see `options_of`.
        took: called with the number of bytes as they arrive; may raise to refuse them.

    Raises:
        RequestError: too large, too many files, no file, or not a form.
        ConfigError: see `options_of`.
        UnknownName: likewise.
    """
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request

    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError(415, "expected a multipart/form-data body with the picture in `files`.")
    _check_charset(request.headers["content-type"])
    bounded = Request(request.scope, _bounded(request, settings.max_bytes, took))
    uploads: list[Upload] = []
    given: dict[str, str] = {}
    limits = {"max_files": settings.max_files, "max_fields": _MAX_FIELDS}
    try:
        async with bounded.form(**limits, max_part_size=_MAX_FIELD_BYTES) as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    given[name] = value
                elif name in _FILES:
                    # Messages and results use the last part of the sender's file name.
                    shown = (value.filename or "picture")[-_MAX_NAME:]
                    uploads.append(Upload(shown, await value.read()))
                else:
                    raise errors.UnknownName("file field", name, _FILES)
    except ClientDisconnect as error:
        raise RequestError(400, "the connection ended before the request did.") from error
    except UnicodeError as error:  # of a character set that the form names
        raise RequestError(400, "the form is in an unusual encoding; use UTF-8.") from error
    except HTTPException as error:  # starlette's error for a form that it cannot accept
        large = "Too many" in error.detail or "exceeded maximum" in error.detail
        raise RequestError(413 if large else 400, error.detail) from error
    if not uploads:
        raise RequestError(422, "no picture was sent; send one or more as `files`.")
    options, others = options_of(given, extra)
    return CaptionRequest(tuple(uploads), options, others)


def _check_charset(content_type: str) -> None:
    """Refuse a form in another encoding: some take minutes to decode a long text.

    Raises:
        RequestError: the form names another encoding.
    """
    from python_multipart.multipart import parse_options_header

    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").lower()
    if charset.replace(b"_", b"-") not in _CHARSETS:
        raise RequestError(400, "the form is in an unusual encoding; use UTF-8.")


def _bounded(
    request: Request, most: int, took: Callable[[int], None]
) -> Callable[[], Awaitable[Any]]:
    """Return the request's stream, which raises `RequestError` after more than `most` bytes."""
    too_large = RequestError(413, f"the request is larger than {most} bytes; send less at a time.")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > most:
        raise too_large
    came = 0

    async def receive() -> Any:
        nonlocal came
        message = await request.receive()
        size = len(message.get("body", b""))
        came += size
        if came > most:
            raise too_large
        took(size)
        return message

    return receive
