"""What requests hold and how they are refused: form fields, their limits, statuses.

A caption's JSON is `Caption.to_json`, as on the command line; nothing is renamed on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

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
