"""What the API says of itself: forms, answers, and every status that it may answer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regard.serve.middleware import OPEN
from regard.serve.requests import ABOUT, CHOICES, DEFAULTS, LEAST, LIMITS, OWN
from regard.types import SCHEMA_VERSION

_MEANINGS = {
    400: "a damaged file, a damaged form, a name that the service is not called by",
    401: "no key that opens",
    403: "sent by another site's page",
    408: "the body did not come in time",
    413: "too many bytes, files, pixels, frames or voxels",
    415: "no file of a kind that is read, or no form",
    422: "an option, a model or a word that makes no sense",
    429: "too much is waiting, or too many requests; Retry-After says when to try again",
    500: "the service failed, or the process that decoded the file ended",
    503: "not at the moment: ending, or more connections than may be",
    504: "no answer was found in time",
}
_BOUNDS = {
    "temperature": {"exclusiveMinimum": 0},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
}
_NUMBER, _TEXT, _WHOLE = {"type": "number"}, {"type": "string"}, {"type": "integer"}
_CHANCE = _NUMBER | {"minimum": 0, "maximum": 1}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "one line"}},
}
_WORD = {
    "type": "object",
    "required": ["text", "logprob", "beta", "entropy", "peak", "location", "alternatives"],
    "properties": {
        "text": _TEXT,
        "logprob": _NUMBER,
        "beta": {"type": ["number", "null"]},
        "entropy": _NUMBER,
        "peak": _NUMBER,
        "location": {"type": ["integer", "null"]},
        "confidence": _CHANCE,
        "alternatives": {"type": "array", "items": {"type": "object"}},
    },
}
_CAPTION = {
    "type": "object",
    "required": ["schema_version", "file", "medium", "caption", "words", "grid", "model"],
    "properties": {
        "schema_version": {"type": "integer", "minimum": SCHEMA_VERSION},
        "file": _TEXT,
        "medium": {"enum": ["image", "video", "volume"]},
        "caption": _TEXT,
        "score": _NUMBER,
        "confidence": _CHANCE,
        "finished": {"type": "boolean"},
        "words": {"type": "array", "items": _WORD},
        "grid": {"type": "object"},
        "alpha": {"type": "array", "items": {"type": "array", "items": _NUMBER}},
        "n_best": {"type": "array", "items": {"type": "object"}},
        "model": _TEXT,
        "seconds": _NUMBER,
        "notices": {"type": "array", "items": _TEXT},
    },
}
_FAILED = {
    "type": "object",
    "required": ["file", "error"],
    "properties": {"file": _TEXT, "error": _TEXT},
}
CAPTIONS = {
    "type": "object",
    "required": ["captions"],
    "properties": {"captions": {"type": "array", "items": {"anyOf": [_CAPTION, _FAILED]}}},
}
"""The answer of /v1/caption."""
MODELS = {
    "type": "object",
    "required": ["models"],
    "properties": {
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "medium"],
                "properties": {"name": _TEXT, "medium": _TEXT, "words": _WHOLE},
            },
        }
    },
}
"""The answer of /v1/models."""
STATUS = {"type": "object", "required": ["status"], "properties": {"status": _TEXT}}
"""The answers of /healthz and /readyz."""


def answers(
    *statuses: int, good: Mapping[str, Mapping[str, Any]], headers: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Return the description of a route's answers.

    Args:
        *statuses: of its errors.
        good: schema by media type of what it answers with 200.
        headers: whether a good answer is a file, and says so in a header.
    """
    whole: dict[str, Any] = {
        "description": "what was asked for",
        "content": {kind: {"schema": dict(schema)} for kind, schema in good.items()},
    }
    if headers:
        whole["headers"] = {"Content-Disposition": {"schema": _TEXT}}
    found: dict[int | str, dict[str, Any]] = {200: whole}
    for status in statuses:
        found[status] = {
            "description": _MEANINGS[status],
            "content": {"application/json": {"schema": _ERROR}},
        }
        if status == 429:
            found[status]["headers"] = {"Retry-After": {"schema": _WHOLE}}
    return found


def body_schema(
    extra: Mapping[str, Any], choices: Mapping[str, Sequence[str]], *, many: bool
) -> dict[str, Any]:
    """Return the OpenAPI description of a form.

    Args:
        extra: fields beside the decoding options; see `options_of`.
        choices: what those of them may hold that have a few values.
        many: whether several files may come.
    """
    picture = {"type": "string", "format": "binary"}
    files = {"files": {"type": "array", "items": picture, "minItems": 1}}
    if not many:
        files = {"file": picture}
    properties: dict[str, Any] = dict(files)
    for name, default in (dict(extra) | DEFAULTS).items():
        kind = {bool: "boolean", int: "integer", float: "number"}.get(type(default), "string")
        properties[name] = {"type": kind} | ({} if name in OWN else {"default": default})
        properties[name] |= _BOUNDS.get(name, {})
        if name in LEAST:
            properties[name]["minimum"] = LEAST[name]
        if name in LIMITS:
            properties[name]["maximum"] = LIMITS[name]
        if values := (CHOICES | dict(choices)).get(name):
            properties[name]["enum"] = list(values)
        if name in ABOUT:
            properties[name]["description"] = ABOUT[name]
    schema = {
        "type": "object",
        "required": list(files),
        "properties": properties,
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def with_keys(schema: dict[str, Any]) -> dict[str, Any]:
    """Say in a whole description which routes want a key, and how it is sent."""
    schema.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, routes in schema["paths"].items():
        if path not in OPEN:
            for route in routes.values():
                route["security"] = [{"bearer": []}, {"key": []}]
    return schema


__all__ = ["CAPTIONS", "MODELS", "STATUS", "answers", "body_schema", "with_keys"]
