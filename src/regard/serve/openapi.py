"""The OpenAPI description: forms, responses and status codes."""

from collections.abc import Mapping, Sequence
from typing import Any

from regard.serve.middleware import OPEN
from regard.serve.requests import DEFAULTS, FIELDS, OWN
from regard.types import SCHEMA_VERSION

_MEANINGS = {
    400: "a damaged file, a damaged form, or a host name that the service does not have",
    401: "no valid API key",
    403: "sent by a page of another site",
    408: "the body did not arrive in time",
    413: "too many bytes, files, pixels, frames or voxels",
    415: "no file of a supported kind, or not a form",
    422: "an invalid option, or an unknown model or word",
    429: "too much is waiting, or too many requests; Retry-After says when to try again",
    500: "the service failed, or the process that decoded the file ended",
    503: "not ready: draining, stuck, or at the limit of connections",
    504: "no answer was found in time",
}


def _object(*required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_NUMBER, _TEXT, _WHOLE = {"type": "number"}, {"type": "string"}, {"type": "integer"}
_CHANCE = _NUMBER | {"minimum": 0, "maximum": 1}
_ANY = {"type": "object"}
_ERROR = _object("error", error=_TEXT | {"description": "one line"})
_WORD = _object(
    *("text", "logprob", "beta", "entropy", "peak", "location", "alternatives"),
    text=_TEXT,
    logprob=_NUMBER,
    beta={"type": ["number", "null"]},
    entropy=_NUMBER,
    peak=_NUMBER,
    location={"type": ["integer", "null"]},
    confidence=_CHANCE,
    source={"enum": ["vocabulary", "concept"]},
    copy=_CHANCE,
    cell=_array(_WHOLE),
    alternatives=_array(_ANY),
)
_CAPTION = _object(
    *("schema_version", "file", "medium", "caption", "words", "grid", "model"),
    schema_version=_WHOLE | {"minimum": SCHEMA_VERSION},
    file=_TEXT,
    medium={"enum": ["image", "video", "volume"]},
    caption=_TEXT,
    score=_NUMBER,
    confidence=_CHANCE,
    finished={"type": "boolean"},
    words=_array(_WORD),
    grid=_ANY,
    alpha=_array(_array(_NUMBER)),
    n_best=_array(_ANY),
    model=_TEXT,
    seconds=_NUMBER,
    notices=_array(_TEXT),
)
_FAILED = _object("file", "error", file=_TEXT, error=_TEXT)
_MODEL = _object("name", "medium", name=_TEXT, medium=_TEXT, words=_WHOLE)
CAPTIONS = _object("captions", captions=_array({"anyOf": [_CAPTION, _FAILED]}))
"""The answer of /v1/caption."""
MODELS = _object("models", models=_array(_MODEL))
"""The answer of /v1/models."""
STATUS = _object("status", status=_TEXT)
"""The answers of /healthz and /readyz."""


def answers(
    *statuses: int, good: Mapping[str, Mapping[str, Any]], headers: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Return the description of a route's responses.

    Args:
        *statuses: statuses of its errors.
        good: schemas of its answers with status 200, by media type.
        headers: whether such an answer is a file, with a Content-Disposition header.
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
    """Return the description of a form.

    Args:
        extra: fields beside the decoding options; see `options_of`.
        choices: the allowed values of fields that have only a few.
        many: whether the form takes several files.
    """
    picture = {"type": "string", "format": "binary"}
    files = {"files": _array(picture) | {"minItems": 1}} if many else {"file": picture}
    properties: dict[str, Any] = dict(files)
    for name, default in (dict(extra) | DEFAULTS).items():
        kind = {bool: "boolean", int: "integer", float: "number"}.get(type(default), "string")
        properties[name] = {"type": kind} | ({} if name in OWN else {"default": default})
        properties[name] |= FIELDS.get(name, {})
        if name in choices:
            properties[name]["enum"] = list(choices[name])
    schema = _object(*files, **properties) | {"additionalProperties": False}
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def with_keys(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the API key scheme, and the routes that need a key, to a description."""
    schema.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, routes in schema["paths"].items():
        if path not in OPEN:
            for route in routes.values():
                route["security"] = [{"bearer": []}, {"key": []}]
    return schema
