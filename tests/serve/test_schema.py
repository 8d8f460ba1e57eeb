"""The API keeps to what its description says, whatever is sent (schemathesis makes it up)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from regard.captioner import Captioner
from regard.decoding import CONTEXTS, METHODS, MOST_PENALTY, DecodingOptions
from regard.serve import Settings, create_app
from regard.serve.decoders import Decoders
from regard.serve.requests import FIELDS, SCHEMAS
from regard.types import MEDIA, SCHEMA_VERSION
from tests.helpers import toys

KEY = "a key"
EXAMPLES = 12
FILES = (toys.jpeg(0), toys.jpeg(1, (9, 7)), toys.jpeg(2)[:200], b"", b"GIF89a")


@pytest.fixture(scope="module")
def described(models: dict[str, Captioner], decoders: Decoders) -> Iterator[Any]:
    """The description that a service with keys gives of itself."""
    keys = (f"ann:{hashlib.sha256(KEY.encode()).hexdigest()}",)
    app = create_app(models, Settings(api_keys=keys), decoders=decoders)

    async def lasting(scope: Any, receive: Any, send: Any) -> None:
        """The application, which does not end with every request's client."""
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})

    schemathesis.openapi.format("binary", st.sampled_from(FILES) | st.binary(max_size=64))
    yield schemathesis.openapi.from_asgi("/openapi.json", lasting)
    app.state.service.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    "route",
    [
        ("POST", "/v1/caption"),
        ("POST", "/v1/explain"),
        ("GET", "/v1/models"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    ],
    ids=lambda route: route[1],
)
def test_answers_are_those_described(
    described: Any, route: tuple[str, str], mode: GenerationMode
) -> None:
    method, path = route
    operation = described[path][method]
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        # A form has no null: it arrives as an empty field, which is right.
        assume(None not in (case.body.values() if isinstance(case.body, dict) else ()))
        # Files of noise are no pictures: that they are refused is right.
        left_out = [positive_data_acceptance]
        key = {"X-API-Key": KEY, "Authorization": f"Bearer {KEY}"}
        answer = case.call(headers=key)
        if (
            answer.status_code == 413
        ):  # a refusal, too, though schemathesis does not take it for one
            left_out.append(negative_data_rejection)
        case.validate_response(answer, excluded_checks=left_out)
        statuses.add(answer.status_code)

    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("there is nothing to send wrongly")
    holds()
    assert 401 not in statuses
    if mode is GenerationMode.POSITIVE and path != "/v1/explain":  # few examples, many options
        assert 200 in statuses


def test_every_status_is_described(described: Any) -> None:
    wanted = {"200", "400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504"}
    raw = described.raw_schema["paths"]
    assert set(raw["/v1/caption"]["post"]["responses"]) == wanted
    assert set(raw["/v1/explain"]["post"]["responses"]) == wanted
    assert raw["/v1/caption"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in raw["/healthz"]["get"]


def test_the_file_of_schemas_agrees_with_the_code() -> None:
    assert list(FIELDS) == [field.name for field in fields(DecodingOptions)]
    assert tuple(FIELDS["method"]["enum"]) == METHODS
    assert tuple(FIELDS["context"]["enum"]) == CONTEXTS
    assert FIELDS["length_penalty"]["maximum"] == MOST_PENALTY
    captions = SCHEMAS["captions"]["properties"]["captions"]["items"]["anyOf"]
    assert captions[0]["properties"]["schema_version"]["minimum"] == SCHEMA_VERSION
    assert captions[0]["properties"]["medium"]["enum"] == list(MEDIA)
