"""A service in process: no port, no network, requests go straight to the application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from regard.captioner import Captioner
from regard.serve import Settings, create_app
from regard.serve.decoders import Decoders
from tests.helpers import toys
from tests.helpers.toy_models import captioner


class Service:
    """An application and a client of it."""

    def __init__(
        self, captioners: dict[str, Captioner], settings: Settings | None, decoders: Decoders
    ) -> None:
        self.app = create_app(captioners, settings, decoders=decoders)

    def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self.together((method, path, request))[0]

    def together(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Answer requests that are sent at once."""

        async def ask() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                asked: list[Awaitable[httpx.Response]] = [
                    client.request(method, path, **request) for method, path, request in requests
                ]
                return list(await asyncio.gather(*asked))

        return asyncio.run(ask())

    def close(self) -> None:
        self.app.state.service.close()


@pytest.fixture(scope="session")
def models() -> dict[str, Captioner]:
    """A soft and a hard captioner of random weights."""
    return {"soft": toys.captioner(), "hard": captioner(attention="hard")}


@pytest.fixture(scope="session")
def decoders() -> Iterator[Decoders]:
    """Processes that decode for all services of a session."""
    made = Decoders(2, 4 * 2**30)
    yield made
    made.close()


@pytest.fixture
def serving(models: dict[str, Captioner], decoders: Decoders) -> Iterator[Callable[..., Service]]:
    """Make services with settings, or captioners, of one's own."""
    made: list[Service] = []

    def serve(*, captioners: dict[str, Captioner] | None = None, **settings: Any) -> Service:
        made.append(Service(captioners or models, Settings(**settings), decoders))
        return made[-1]

    yield serve
    for service in made:
        service.close()


@pytest.fixture
def ask(serving: Callable[..., Service]) -> Service:
    """A service with the usual limits."""
    return serving()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to, empty at first."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder
