"""Multipart forms, read within limits of bytes, parts and time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from regard.errors import UnknownName
from regard.serve.schema import Asked, Refused, Upload, options_of
from regard.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request

_FILES = ("file", "files")
_MOST_FIELDS = 50
_MOST_OF_A_FIELD = 2**16  # bytes
_LONGEST_NAME = 255


async def read_request(
    request: Request,
    settings: Settings,
    extra: Mapping[str, Any],
    took: Callable[[int], None] = lambda count: None,
) -> Asked:
    """Read a multipart form within its limits.

    Args:
        request: with its body unread.
        settings: limits.
        extra: fields beside the decoding options; see `options_of`.
        took: is told of bytes as they come, and may refuse them.

    Raises:
        Refused: too large, too many files, none, or no form.
        ConfigError: see `options_of`.
        UnknownName: likewise.
    """
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request

    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(415, "wanted a multipart/form-data body with the picture in `files`.")
    bounded = Request(request.scope, _bounded(request, settings.max_bytes, took))
    uploads: list[Upload] = []
    given: dict[str, str] = {}
    limits = {"max_files": settings.max_files, "max_fields": _MOST_FIELDS}
    try:
        async with bounded.form(**limits, max_part_size=_MOST_OF_A_FIELD) as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    given[name] = value
                elif name in _FILES:
                    uploads.append(Upload(_name(value.filename), await value.read()))
                else:
                    raise UnknownName("file field", name, _FILES)
    except ClientDisconnect as error:
        raise Refused(400, "the connection ended before the request did.") from error
    except UnicodeError as error:  # of a character set that the form names
        raise Refused(400, "the form is in an unusual encoding; wanted UTF-8.") from error
    except HTTPException as error:  # starlette's word for a form that it cannot take
        large = "Too many" in error.detail or "exceeded maximum" in error.detail
        raise Refused(413 if large else 400, error.detail) from error
    if not uploads:
        raise Refused(422, "no picture came; send one or more as `files`.")
    options, others = options_of(given, extra)
    return Asked(tuple(uploads), options, others)


def _name(given: str | None) -> str:
    """Return what messages and results call a file: the end of what its sender did."""
    return (given or "picture")[-_LONGEST_NAME:]


def _bounded(
    request: Request, most: int, took: Callable[[int], None]
) -> Callable[[], Awaitable[Any]]:
    """Return the request's stream, which ends in a refusal once more than `most` bytes came."""
    refused = Refused(413, f"the request is larger than {most} bytes; send less at a time.")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > most:
        raise refused
    came = 0

    async def receive() -> Any:
        nonlocal came
        message = await request.receive()
        size = len(message.get("body", b""))
        came += size
        if came > most:
            raise refused
        took(size)
        return message

    return receive


__all__ = ["read_request"]
