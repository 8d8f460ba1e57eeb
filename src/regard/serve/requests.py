"""What requests hold and how they are refused: form fields, their limits, statuses.

A caption's JSON is `Caption.to_json`, as on the command line; nothing is renamed on the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from regard.config import DecodingConfig
from regard.decoding import DecodingOptions
from regard.decoding.search_options import CONTEXTS, METHODS, MOST_PENALTY
from regard.errors import (
    ConfigError,
    MediaError,
    MediaTooLarge,
    RegardError,
    UnknownMedia,
    UnknownName,
)
from regard.media.isolate import MissingReader
from regard.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request


class Refused(Exception):
    """A request that is answered with an error, before any model has seen it."""

    def __init__(self, status: int, message: str, *, retry: int = 0) -> None:
        """Keep the status beside the one line that says what came and what was wanted.

        Args:
            status: of HTTP.
            message: the line.
            retry: seconds after which the same may be asked again; 0: it makes no difference.
        """
        super().__init__(message)
        self.status, self.retry = status, retry


def status_of(error: RegardError) -> int:
    """Return the HTTP status of what went wrong with a request's content."""
    if isinstance(error, MediaTooLarge):
        return 413
    if isinstance(error, UnknownMedia | MissingReader):
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
    "length_penalty": "log p is divided by length to this power; else as the model has it",
    "block_ngram": "no n-gram of this size twice, 0: any; else as the model has it",
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
LIMITS = {"beam": 10, "n_best": 10, "max_length": 50, "alternatives": 20, "seed": 2**32} | {
    "length_penalty": MOST_PENALTY
}
"""Largest values that a stranger may ask for: work grows with them."""
LEAST = {"beam": 1, "n_best": 1, "max_length": 1} | dict.fromkeys(
    ("min_length", "length_penalty", "block_ngram", "top_k", "alternatives", "seed"), 0
)
"""Smallest values that make sense."""
CHOICES = {"method": METHODS, "context": CONTEXTS}
"""Values of the fields that have a few."""
_WORDS = ("prefix", "banned")
DEFAULTS: dict[str, Any] = {
    f.name: "" if f.name in _WORDS else f.default for f in fields(DecodingOptions)
}
"""What every field of `DecodingOptions` is where it is left out; but see `OWN`."""
OWN = frozenset(f.name for f in fields(DecodingConfig))
"""Fields that a model may have values of its own for."""
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
        keys: which captioner each file goes to, or why it goes to none.
    """

    files: tuple[Upload, ...]
    options: dict[str, Any]
    extra: dict[str, Any]
    keys: tuple[str | MediaError, ...] = ()


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
        elif name in DEFAULTS:
            options[name] = _value(name, text, DEFAULTS[name])
        else:
            raise UnknownName("form field", name, [*DEFAULTS, *extra, "files"])
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
