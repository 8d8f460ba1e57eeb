"""The application: the routes of the API and of the web page, over a `Service`.

Annotations are evaluated here, unlike elsewhere: FastAPI reads those of the routes, which name
classes that are imported inside functions, because FastAPI is an extra.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from regard.errors import RegardError, needs_extra
from regard.explain.html import escaped
from regard.serve import openapi
from regard.serve.decoders import Decoders
from regard.serve.middleware import RequestMiddleware
from regard.serve.requests import RequestError, one_line, status_of
from regard.serve.service import CAPTION_FIELDS, EXPLAIN_FIELDS, FORMATS, Answer, Service
from regard.serve.settings import Settings
from regard.version import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI

    from regard.captioner import Captioner

_ACCESS = (400, 401, 403, 500, 503)
_WORK = (*_ACCESS, 408, 413, 415, 422, 429, 504)
_PROBE = (400, 500, 503)
_JSON = "application/json"
_REPORT = {"text/html": {"type": "string"}, _JSON: {"type": "object"}}

_ASSETS = {
    "page.css": ("regard.serve", "text/css"),
    "page.js": ("regard.serve", "text/javascript"),
    "paint.js": ("regard.serve", "text/javascript"),
    "viewer.css": ("regard.explain", "text/css"),
    "viewer.js": ("regard.explain", "text/javascript"),
}
"""The package and the media type of each part of the page."""
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The page loads from its own server only."""
_REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report contains its style and script, and loads no files."""
_SAMPLES = {
    "dog.jpg": "a golden retriever",
    "friends.jpg": "two dogs at a window",
    "moonwalk.jpg": "an astronaut on the Moon",
    "cat.jpg": "a cat",
    "china.jpg": "a temple",
    "astronaut.jpg": "an astronaut, portrait",
    "buses.jpg": "a bus station",
    "car.jpg": "a parked car",
    "chairlift.jpg": "people on a chairlift",
    "city.jpg": "a city from above",
    "colosseum.jpg": "the Colosseum",
    "cook.jpg": "a cook in the street",
    "desk.jpg": "computers on a desk",
    "jacket.jpg": "a jacket and a hat",
    "phone.jpg": "hands with a phone",
    "workers.jpg": "workers planting a tree",
}
"""Sample pictures in the order of the page, with the titles of their buttons."""


def create_app(
    captioners: "Mapping[str, Captioner]",
    settings: Settings | None = None,
    *,
    decoders: Decoders | None = None,
) -> "FastAPI":
    """Return an application that serves captioners: web page, API, probes and metrics.

    Args:
        captioners: by the name that requests use; the first is the default.
        settings: limits, keys and timeouts; None: the defaults. The address is the server's.
        decoders: processes that several applications share, closed by their owner; None: start
            its own.

    Raises:
        ConfigError: no captioner is given, or the keys cannot be read.
        MissingExtra: fastapi or prometheus_client is not installed.
    """
    with needs_extra("fastapi", "serve", "serving"):
        from fastapi import FastAPI
    service = Service(captioners, settings or Settings(), decoders)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        service.warm()
        yield
        service.close()

    # FastAPI's own pages of documentation load scripts from other sites; the schema is served.
    app = FastAPI(
        title="regard", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Captions for pictures, clips and scans, and where the model looked.",
    )  # fmt: skip
    app.state.service = service
    _add_api(app, service)
    _add_probes(app, service)
    _add_page(app, service)
    _add_errors(app)
    app.add_middleware(RequestMiddleware, service=service)
    _add_cors(app, service.settings)
    if service.keys:
        plain = app.openapi
        app.openapi = lambda: openapi.with_keys(plain())
    return app


def _add_cors(app: "FastAPI", settings: Settings) -> None:
    """Allow CORS requests from the named origins; without any, only same-origin pages."""
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

    async def caption(request: Request) -> Response:
        """Caption one file or many. A file that fails is an entry `{file, error}`; if all fail,
        the status is that of the first one."""
        return _respond(await service.caption(request))

    async def explain(request: Request) -> Response:
        """Explain one file's caption: the HTML report, or JSON with what mattered."""
        return _respond(await service.explain(request))

    async def models() -> Response:
        """List the models; the first is the default."""
        return _respond(Answer(200, {"models": service.models.describe()}))

    few = {"model": ("", *(one["name"] for one in service.models.describe())), "format": FORMATS}
    for path, work, good, fields, many in (
        ("/v1/caption", caption, {_JSON: openapi.CAPTIONS}, CAPTION_FIELDS, True),
        ("/v1/explain", explain, _REPORT, EXPLAIN_FIELDS, False),
    ):
        form = openapi.body_schema(fields, few, many=many)
        _add_route(app, path, work, _WORK, good, methods=["POST"], openapi_extra=form)
    _add_route(app, "/v1/models", models, _ACCESS, {_JSON: openapi.MODELS})


def _add_probes(app: "FastAPI", service: Service) -> None:
    from fastapi import Response

    async def healthz() -> Response:
        """Liveness probe: 200 while the service runs."""
        return _respond(Answer(200, {"status": "ok", "version": __version__}))

    async def readyz() -> Response:
        """Readiness probe: 503 while draining or when a model is stuck."""
        if why := service.unready():
            raise RequestError(503, f"not ready: {why}.")
        return _respond(Answer(200, {"status": "ready"}))

    async def metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4")

    _add_route(app, "/healthz", healthz, _PROBE, {_JSON: openapi.STATUS})
    _add_route(app, "/readyz", readyz, _PROBE, {_JSON: openapi.STATUS})
    _add_route(app, "/metrics", metrics, _ACCESS, {"text/plain": {"type": "string"}})


def _add_route(
    app: "FastAPI", path: str, work: Any, errors: tuple[int, ...], good: Any, **more: Any
) -> None:
    found = openapi.answers(*errors, good=good, headers="text/html" in good)
    app.add_api_route(path, work, response_model=None, responses=found, **more)


def _add_page(app: "FastAPI", service: Service) -> None:
    from fastapi import HTTPException, Request, Response

    async def page() -> Response:
        headers = {"Content-Security-Policy": _PAGE_POLICY}
        return Response(_page_html(), media_type="text/html", headers=headers)

    async def page_caption(request: Request) -> Response:
        return _respond(await service.page(request))

    async def assets(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404)
        package, kind = _ASSETS[name]
        content = (files(package) / name).read_bytes()
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    async def samples(name: str) -> Response:
        if name not in _SAMPLES:
            raise HTTPException(404)
        content = (files("regard") / "samples" / name).read_bytes()
        headers = {"Cache-Control": "max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=headers)

    hidden: dict[str, Any] = {"response_model": None, "include_in_schema": False}
    app.add_api_route("/", page, **hidden)
    app.add_api_route("/page/caption", page_caption, methods=["POST"], **hidden)
    app.add_api_route("/assets/{name}", assets, **hidden)
    app.add_api_route("/samples/{name}", samples, **hidden)


def _page_html() -> str:
    buttons = "".join(
        f"<button type='button' data-sample='{escaped(name)}' title='{escaped(what)}'>"
        f"<img src='samples/{escaped(name)}' alt='{escaped(what)}' width='64' height='64'></button>"
        for name, what in _SAMPLES.items()
    )
    text = (files("regard.serve") / "page.html").read_text("utf-8")
    return text.replace("<!--samples-->", buttons).replace("<!--version-->", escaped(__version__))


def _add_errors(app: "FastAPI") -> None:
    """Answer every error with `{"error": one line}`."""
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    def answer(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        if isinstance(error, RequestError):
            return JSONResponse({"error": one_line(error)}, error.status, error.headers)
        assert isinstance(error, RegardError)
        return JSONResponse({"error": one_line(error)}, status_of(error))

    for kind in (RequestError, RegardError, HTTPException):
        app.add_exception_handler(kind, answer)


def _respond(answer: Answer) -> Any:
    from fastapi.responses import JSONResponse, Response

    if isinstance(answer.content, dict):
        return JSONResponse(answer.content, answer.status)
    headers = {"Content-Security-Policy": _REPORT_POLICY}
    if answer.name:
        headers["Content-Disposition"] = f'attachment; filename="{answer.name}"'
    return Response(answer.content, answer.status, headers, media_type="text/html")
