"""The application: routes over a `Service`.

Annotations are evaluated here, unlike elsewhere: FastAPI reads those of the routes, which name
classes that are imported where the extra is there.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from regard.errors import MissingExtra, RegardError
from regard.serve.page import PAGE_POLICY, REPORT_POLICY, asset, page_html, sample
from regard.serve.schema import Refused, Settings, body_schema, one_line, status_of
from regard.serve.service import CAPTION_FIELDS, EXPLAIN_FIELDS, Answer, Service
from regard.version import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI

    from regard.captioner import Captioner

_COUNTED = ("/", "/v1/caption", "/v1/explain", "/v1/models", "/page/caption", "/healthz")
_ERROR = {
    "description": "what came, what was wanted",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}},
            }
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {s: _ERROR for s in (400, 413, 415, 422, 503)}


def create_app(
    captioners: "Mapping[str, Captioner]", settings: Settings | None = None
) -> "FastAPI":
    """Return the application that serves captioners: the page, the API, health and counts.

    Args:
        captioners: by the name that requests call them; the first is the default.
        settings: limits; None: the defaults.

    Raises:
        ConfigError: there is no captioner.
        MissingExtra: fastapi or prometheus_client is not installed.
    """
    try:
        from fastapi import FastAPI
    except ImportError as error:
        raise MissingExtra("fastapi", "serve", "serving") from error
    service = Service(captioners, settings or Settings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        service.batcher.close()

    # FastAPI's own pages of documentation load scripts from elsewhere; the schema is served.
    app = FastAPI(
        title="regard", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Captions for pictures, and where the model looked for every word.",
    )  # fmt: skip
    app.state.service = service
    _add_api(app, service)
    _add_page(app, service)
    _add_errors(app)
    app.add_middleware(_Watched, service=service)
    return app


def _add_api(app: "FastAPI", service: Service) -> None:
    from fastapi import Request, Response

    async def caption(request: Request) -> Response:
        """Caption one picture or many. A picture that fails is an entry `{file, error}`; where
        all fail, the status is the first one's."""
        return _respond(await service.caption(request))

    async def explain(request: Request) -> Response:
        """Explain one picture's caption: the HTML report, or JSON with what mattered."""
        return _respond(await service.explain(request))

    async def models() -> dict[str, Any]:
        """List the models; the first is the default."""
        return service.models()

    async def healthz() -> dict[str, str]:
        """Say that the service lives."""
        return {"status": "ok", "version": __version__}

    async def metrics() -> Response:
        """Return counts in Prometheus' text format."""
        return Response(service.meters.text(), media_type="text/plain; version=0.0.4")

    posts: dict[str, Any] = {"methods": ["POST"], "response_model": None, "responses": _ERRORS}
    app.add_api_route(
        "/v1/caption", caption, openapi_extra=body_schema(CAPTION_FIELDS, many=True), **posts
    )
    app.add_api_route(
        "/v1/explain", explain, openapi_extra=body_schema(EXPLAIN_FIELDS, many=False), **posts
    )
    app.add_api_route("/v1/models", models)
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/metrics", metrics, response_model=None)


def _add_page(app: "FastAPI", service: Service) -> None:
    from fastapi import HTTPException, Request, Response

    async def page() -> Response:
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return Response(page_html(), media_type="text/html", headers=headers)

    async def page_caption(request: Request) -> Response:
        return _respond(await service.page(request))

    async def assets(name: str) -> Response:
        if (found := asset(name)) is None:
            raise HTTPException(404)
        return Response(found[0], media_type=found[1], headers={"Cache-Control": "no-cache"})

    async def samples(name: str) -> Response:
        if (found := sample(name)) is None:
            raise HTTPException(404)
        return Response(found, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})

    hidden: dict[str, Any] = {"response_model": None, "include_in_schema": False}
    app.add_api_route("/", page, **hidden)
    app.add_api_route("/page/caption", page_caption, methods=["POST"], **hidden)
    app.add_api_route("/assets/{name}", assets, **hidden)
    app.add_api_route("/samples/{name}", samples, **hidden)


def _add_errors(app: "FastAPI") -> None:
    """Answer every error with `{"error": one line}`."""
    from fastapi import HTTPException, Request
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException as AnyHTTPException

    def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse({"error": one_line(error)}, error.status, headers)

    def wrong(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RegardError)
        return JSONResponse({"error": one_line(error)}, status_of(error))

    def none(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnyHTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    def failed(_: Request, error: Exception) -> JSONResponse:
        # The server writes the trace to its log; a stranger need not read it.
        return JSONResponse({"error": f"the service failed ({type(error).__name__})."}, 500)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RegardError, wrong)
    app.add_exception_handler(AnyHTTPException, none)
    app.add_exception_handler(HTTPException, none)
    app.add_exception_handler(Exception, failed)


def _respond(answer: Answer) -> Any:
    from fastapi.responses import JSONResponse, Response

    if isinstance(answer.content, dict):
        return JSONResponse(answer.content, answer.status)
    headers = {"Content-Security-Policy": REPORT_POLICY}
    if answer.name:
        headers["Content-Disposition"] = f'attachment; filename="{answer.name}"'
    return Response(answer.content, answer.status, headers, media_type="text/html")


class _Watched:
    """Counts requests, and tells browsers not to guess what an answer is."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.meters = app, service.meters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            path = scope["path"] if scope["path"] in _COUNTED else "other"
            self.meters.request(path, status, time.perf_counter() - began)
