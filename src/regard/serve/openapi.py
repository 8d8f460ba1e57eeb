"""The OpenAPI description: forms, responses and status codes."""

from collections.abc import Mapping, Sequence
from typing import Any

from regard.serve.middleware import OPEN
from regard.serve.requests import DEFAULTS, FIELDS, OWN, SCHEMAS

_TEXT, _WHOLE = {"type": "string"}, {"type": "integer"}
CAPTIONS, MODELS, STATUS = (SCHEMAS[name] for name in ("captions", "models", "status"))
"""The answers of /v1/caption, of /v1/models, and of /healthz and /readyz."""


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
        content = {"application/json": {"schema": SCHEMAS["error"]}}
        found[status] = {"description": SCHEMAS["statuses"][str(status)], "content": content}
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
    several = {"type": "array", "items": picture, "minItems": 1}
    files: dict[str, Any] = {"files": several} if many else {"file": picture}
    properties = dict(files)
    for name, default in (dict(extra) | DEFAULTS).items():
        kind = {bool: "boolean", int: "integer", float: "number"}.get(type(default), "string")
        properties[name] = {"type": kind} | ({} if name in OWN else {"default": default})
        properties[name] |= FIELDS.get(name, {})
        if name in choices:
            properties[name]["enum"] = list(choices[name])
    schema: dict[str, Any] = {"type": "object", "required": list(files)}
    schema |= {"properties": properties, "additionalProperties": False}
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
