"""What requests hold and what answers look like: form fields, limits, statuses, OpenAPI.

A caption's JSON is `Caption.to_json`, as on the command line; nothing is renamed on the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from regard.decoding import DecodingOptions
from regard.errors import (
    ConfigError,
    MediaError,
    MediaTooLarge,
    RegardError,
    UnknownMedia,
    UnknownName,
)

if TYPE_CHECKING:
    from starlette.requests import Request


@dataclass(frozen=True)
class Settings:
    """Limits of a service, and how long it collects requests.

    Attributes:
        max_bytes: largest request; more is refused while it arrives.
        max_pixels: largest picture, refused by its header before it is decoded.
        max_files: pictures in a request.
        waiting: pictures that wait or are worked on; more are refused with 503.
        waiting_pixels: decoded pixels, likewise, which bounds the memory.
        batch_size: pictures that go through the network together.
        wait: seconds for which a request waits for others to go with.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_files: int = 16
    waiting: int = 64
    waiting_pixels: int = 200_000_000
    batch_size: int = 16
    wait: float = 0.005


class Refused(Exception):
    """A request that is answered with an error, before any model has seen it."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status beside the one line that says what came and what was wanted."""
        super().__init__(message)
        self.status = status


def status_of(error: RegardError) -> int:
    """Return the HTTP status of what went wrong with a request's content."""
    if isinstance(error, MediaTooLarge):
        return 413
    if isinstance(error, UnknownMedia):
        return 415
    return 400 if isinstance(error, MediaError) else 422


def one_line(error: Exception) -> str:
    """Return an error's message in one line."""
    return " ".join(str(error).split())


ABOUT = {
    "method": "greedy, beam or sample",
    "beam": "beam width; 1 is greedy",
    "max_length": "longest caption in tokens",
    "min_length": "the caption does not end before",
    "length_penalty": "log p is divided by length to this power",
    "block_ngram": "no n-gram of this size twice; 0 blocks nothing",
    "temperature": "of sampling",
    "top_k": "sample among so many words; 0 among all",
    "top_p": "sample among the fewest words whose probability reaches this",
    "n_best": "captions per picture",
    "alternatives": "candidates kept per word",
    "prefix": "words that the caption begins with",
    "banned": "words that are never said",
    "context": "hard attention: expected, sample or argmax",
    "seed": "of sampled words and locations",
}
"""Every field of `DecodingOptions` in a few words; words are given as text."""
LIMITS = {"beam": 10, "n_best": 10, "max_length": 50, "alternatives": 20, "seed": 2**32}
"""Largest values that a stranger may ask for: work grows with them."""
_WORDS = ("prefix", "banned")
_DEFAULTS: dict[str, Any] = {
    f.name: "" if f.name in _WORDS else f.default for f in fields(DecodingOptions)
}
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Upload:
    """One file of a request: the name that the sender gave, never used as a path, and its bytes."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Asked:
    """A request for captions.

    Attributes:
        files: at least one.
        options: for `Captioner.caption_many`; only what was asked for.
        extra: the other fields, such as "model"; an absent one has its default.
    """

    files: tuple[Upload, ...]
    options: dict[str, Any]
    extra: dict[str, Any]


def options_of(given: Mapping[str, str], extra: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Read form fields.

    Args:
        given: fields as text.
        extra: defaults of the fields that are no `DecodingOptions`; their types say theirs.

    Returns:
        The decoding options that were given, and all the extra fields.

    Raises:
        UnknownName: there is no such field.
        ConfigError: a value is none of its kind, or beyond its limit.
    """
    options: dict[str, Any] = {}
    others = dict(extra)
    for name, text in given.items():
        if name in others:
            others[name] = _value(name, text, extra[name])
        elif name in _DEFAULTS:
            options[name] = _value(name, text, _DEFAULTS[name])
        else:
            raise UnknownName("form field", name, [*_DEFAULTS, *extra, "files"])
        if options.get(name, 0) > LIMITS[name] if name in LIMITS else False:
            raise ConfigError(f"{name} is {options[name]}; here it is at most {LIMITS[name]}.")
    return options, others


def _value(name: str, text: str, default: Any) -> Any:
    kind = type(default)
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
    try:
        return _SWITCH[text.strip().lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{name} is {text!r}; it must be {wanted}.") from error


async def read_request(request: Request, settings: Settings, extra: Mapping[str, Any]) -> Asked:
    """Read a multipart form within its limits.

    Raises:
        Refused: too large, too many files, none, or no form.
        ConfigError: see `options_of`.
        UnknownName: likewise.
    """
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, "wanted a multipart/form-data body with the picture in `files`.")
    bounded = Request(request.scope, _bounded(request, settings.max_bytes))
    try:
        async with bounded.form(max_files=settings.max_files, max_fields=50) as form:
            uploads = [
                Upload(value.filename or "picture", await value.read())
                for name, value in form.multi_items()
                if isinstance(value, UploadFile) and name in ("file", "files")
            ]
            given = {name: value for name, value in form.multi_items() if isinstance(value, str)}
            strange = [
                name
                for name, value in form.multi_items()
                if isinstance(value, UploadFile) and name not in ("file", "files")
            ]
    except ClientDisconnect as error:
        raise Refused(400, "the connection ended before the request did.") from error
    except HTTPException as error:  # starlette's word for a form that it cannot take
        raise Refused(413 if "Too many" in error.detail else 400, error.detail) from error
    if strange:
        raise UnknownName("file field", strange[0], ["file", "files"])
    if not uploads:
        raise Refused(422, "no picture came; send one or more as `files`.")
    options, others = options_of(given, extra)
    return Asked(tuple(uploads), options, others)


def _bounded(request: Request, most: int) -> Callable[[], Awaitable[Any]]:
    """Return the request's stream, which ends in a refusal once more than `most` bytes came."""
    refused = Refused(413, f"the request is larger than {most} bytes; send less at a time.")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most:
        raise refused
    came = 0

    async def receive() -> Any:
        nonlocal came
        message = await request.receive()
        came += len(message.get("body", b""))
        if came > most:
            raise refused
        return message

    return receive


def body_schema(extra: Mapping[str, Any], *, many: bool) -> dict[str, Any]:
    """Return the OpenAPI description of a form.

    Args:
        extra: see `options_of`.
        many: whether several files may come.
    """
    picture = {"type": "string", "format": "binary"}
    files = {"files": {"type": "array", "items": picture}} if many else {"file": picture}
    properties: dict[str, Any] = dict(files)
    for name, default in (dict(extra) | _DEFAULTS).items():
        kind = {bool: "boolean", int: "integer", float: "number"}.get(type(default), "string")
        properties[name] = {"type": kind, "default": default}
        if name in LIMITS:
            properties[name]["maximum"] = LIMITS[name]
        if name in ABOUT:
            properties[name]["description"] = ABOUT[name]
    schema = {"type": "object", "required": list(files), "properties": properties}
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
