"""The application: routes over a `Service`.

Annotations are evaluated here, unlike elsewhere: FastAPI reads those of the routes, which name
classes that are imported where the extra is there.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from regard.errors import MissingExtra, RegardError
from regard.serve import openapi
from regard.serve.decoders import Decoders
from regard.serve.middleware import Guard
from regard.serve.request_context import headers_of
from regard.serve.requests import Refused, one_line, status_of
from regard.serve.service import CAPTION_FIELDS, EXPLAIN_FIELDS, FORMATS, Answer, Service
from regard.serve.settings import Settings
from regard.serve.web_page import PAGE_POLICY, REPORT_POLICY, asset, page_html, sample
from regard.version import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI

    from regard.captioner import Captioner

_SHUT = (400, 401, 403, 500, 503)
_WORK = (*_SHUT, 408, 413, 415, 422, 429, 504)
_REPORT = {"text/html": {"type": "string"}, "application/json": {"type": "object"}}


def create_app(
    captioners: "Mapping[str, Captioner]",
    settings: Settings | None = None,
    *,
    decoders: Decoders | None = None,
) -> "FastAPI":
    """Return the application that serves captioners: the page, the API, health and counts.

    Args:
        captioners: by the name that requests call them; the first is the default.
        settings: limits, keys and times; None: the defaults. Where it listens is the server's.
        decoders: processes that several applications share, and that their owner ends; None: its
            own.

    Raises:
        ConfigError: there is no captioner, or the keys cannot be read.
        MissingExtra: fastapi or prometheus_client is not installed.
    """
    try:
        from fastapi import FastAPI
    except ImportError as error:
        raise MissingExtra("fastapi", "serve", "serving") from error
    service = Service(captioners, settings or Settings(), decoders)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        service.warm()
        yield
        service.close()

    # FastAPI's own pages of documentation load scripts from elsewhere; the schema is served.
    app = FastAPI(
        title="regard", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Captions for pictures, clips and scans, and where the model looked.",
    )  # fmt: skip
    app.state.service = service
    _add_api(app, service)
    _add_page(app, service)
    _add_errors(app)
    app.add_middleware(Guard, service=service)
    _add_cors(app, service.settings)
    if service.keys:
        plain = app.openapi
        app.openapi = lambda: openapi.with_keys(plain())
    return app


def _add_cors(app: "FastAPI", settings: Settings) -> None:
    """Let the named origins in; without any no other site's page learns an answer."""
    if not settings.cors_origins:
        return
    from fastapi.middleware.cors import CORSMiddleware

    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "X-API-Key"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )


def _add_api(app: "FastAPI", service: Service) -> None:
    from fastapi import Request, Response
    from fastapi.responses import JSONResponse

    async def caption(request: Request) -> Response:
        """Caption one file or many. A file that fails is an entry `{file, error}`; where all
        fail, the status is the first one's."""
        return _respond(await service.caption(request))

    async def explain(request: Request) -> Response:
        """Explain one file's caption: the HTML report, or JSON with what mattered."""
        return _respond(await service.explain(request))

    async def models() -> Response:
        """List the models; the first is the default."""
        return JSONResponse({"models": service.models.describe()})

    async def healthz() -> Response:
        """Say that the service lives."""
        return JSONResponse({"status": "ok", "version": __version__})

    async def readyz() -> Response:
        """Say whether it wants requests: not while it ends, nor where its model hangs."""
        if why := service.unready():
            raise Refused(503, f"not ready: {why}.")
        return JSONResponse({"status": "ready"})

    async def metrics() -> Response:
        """Return counts in Prometheus' text format."""
        return Response(service.meters.text(), media_type="text/plain; version=0.0.4")

    json = "application/json"

    def add(path: str, work: Any, *errors: int, good: Any, **more: Any) -> None:
        found = openapi.answers(*errors, good=good, headers="text/html" in good)
        app.add_api_route(path, work, response_model=None, responses=found, **more)

    names = [one["name"] for one in service.models.describe()]
    few = {"model": ("", *names), "format": FORMATS}
    post: dict[str, Any] = {"methods": ["POST"]}
    add("/v1/caption", caption, *_WORK, good={json: openapi.CAPTIONS},
        openapi_extra=openapi.body_schema(CAPTION_FIELDS, few, many=True), **post)  # fmt: skip
    add("/v1/explain", explain, *_WORK, good=_REPORT,
        openapi_extra=openapi.body_schema(EXPLAIN_FIELDS, few, many=False), **post)  # fmt: skip
    add("/v1/models", models, *_SHUT, good={json: openapi.MODELS})
    add("/healthz", healthz, 400, 500, 503, good={json: openapi.STATUS})
    add("/readyz", readyz, 400, 500, 503, good={json: openapi.STATUS})
    add("/metrics", metrics, *_SHUT, good={"text/plain": {"type": "string"}})


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
        return JSONResponse({"error": one_line(error)}, error.status, headers_of(error))

    def wrong(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RegardError)
        return JSONResponse({"error": one_line(error)}, status_of(error))

    def none(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnyHTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RegardError, wrong)
    app.add_exception_handler(AnyHTTPException, none)
    app.add_exception_handler(HTTPException, none)


def _respond(answer: Answer) -> Any:
    from fastapi.responses import JSONResponse, Response

    if isinstance(answer.content, dict):
        return JSONResponse(answer.content, answer.status)
    headers = {"Content-Security-Policy": REPORT_POLICY}
    if answer.name:
        headers["Content-Disposition"] = f'attachment; filename="{answer.name}"'
    return Response(answer.content, answer.status, headers, media_type="text/html")
