"""The service behind the routes: reads requests, captions or explains files, counts results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from regard.errors import ConfigError, MediaError, RegardError, UnknownName
from regard.explain.html import caption_html
from regard.explain.page import Explanation, explanation_page
from regard.faithfulness.occlusion import occlude
from regard.media import medium_of_bytes
from regard.model_pool import NamedModels, WrongMedium
from regard.serve.admission import Add, Admission
from regard.serve.auth import ApiKeys, RateLimiter
from regard.serve.batching import Batcher
from regard.serve.decoders import Decoders
from regard.serve.prometheus import ServiceMetrics
from regard.serve.requests import (
    CaptionRequest,
    RequestError,
    Upload,
    one_line,
    read_request,
    status_of,
)
from regard.serve.settings import Settings
from regard.types import Caption, Media

if TYPE_CHECKING:
    from starlette.requests import Request

    from regard.captioner import Captioner

CAPTION_FIELDS = {"model": "", "alpha": True}
"""Form fields of /v1/caption beside the decoding options; "" is the default model."""
EXPLAIN_FIELDS = {"model": "", "format": "html", "occlusion": True}
"""Form fields of /v1/explain, likewise."""
PAGE_FIELDS = {"model": "", "occlusion": False}
"""Form fields of the web page's requests, likewise."""
FORMATS = ("html", "json")
_BYTES_OF_A_PIXEL = 3


@dataclass(frozen=True)
class Answer:
    """The answer of a route.

    Attributes:
        status: status of HTTP.
        content: JSON values, or HTML.
        name: name of the file that it is saved as; "" if it is not a file.
    """

    status: int
    content: dict[str, Any] | str
    name: str = ""


class Service:
    """Captioners with limits, a queue and metrics.

    Attributes:
        draining: whether it is shutting down and should get no new requests.
    """

    def __init__(
        self,
        captioners: Mapping[str, Captioner],
        settings: Settings,
        decoders: Decoders | None = None,
    ) -> None:
        """Start the models' thread; decoding processes start with the first file.

        Args:
            captioners: by name; the first is the default.
            settings: limits.
            decoders: processes closed by their owner; None: start its own.

        Raises:
            ConfigError: no captioner is given, or the keys cannot be read.
            MissingExtra: prometheus_client is not installed.
        """
        self.models = NamedModels(captioners)
        self.settings = settings
        self.keys = ApiKeys.read(settings.api_keys, settings.api_key_file)
        self.limiter = RateLimiter(settings.rate, settings.burst)
        self.admission = Admission(settings, lambda: self.batcher.pace)
        self.metrics = ServiceMetrics(lambda: self.admission.files)
        self.batcher = Batcher(self.models.by_key, settings, self.metrics.count_batch)
        self._owns_decoders = decoders is None
        self.decoders = decoders or Decoders(
            settings.decoders, settings.decoder_memory, self.metrics.count_decoder_exit
        )
        self.draining = False

    def unready(self) -> str:
        """Return why the service is not ready, or ""."""
        if self.draining:
            return "it is draining"
        since = self.batcher.since
        if since is not None and time.monotonic() - since > self.settings.request_seconds:
            return "the model is stuck"
        return ""

    def warm(self) -> None:
        """Start a decoding process, so that the first request does not wait for it."""
        if self._owns_decoders:
            self.decoders.warm()

    def close(self) -> None:
        """End threads and processes after their current work."""
        self.batcher.close()
        if self._owns_decoders:
            self.decoders.close()

    async def caption(self, request: Request) -> Answer:
        """Answer /v1/caption; a file that fails becomes an entry, and the others are captioned."""
        async with self._read(request, CAPTION_FIELDS) as asked:
            with self.admission.admit_files(len(asked.files)) as add_pixels:
                results = await self._captions(asked, add_pixels)
            alpha = asked.extra["alpha"]
            records: list[dict[str, Any]] = [
                one.to_json(alpha=alpha)
                if isinstance(one, Caption)
                else {"file": upload.name, "error": one_line(one)}
                for upload, one in zip(asked.files, results, strict=True)
            ]
        failures = [one for one in results if not isinstance(one, Caption)]
        if len(failures) < len(results):
            return Answer(200, {"captions": records})
        error = one_line(failures[0])
        return Answer(status_of(failures[0]), {"error": error, "captions": records})

    async def explain(self, request: Request) -> Answer:
        """Answer /v1/explain: the report of one file, or its numbers."""
        async with self._read(request, EXPLAIN_FIELDS) as asked:
            form = asked.extra["format"]
            if form not in FORMATS:
                raise ConfigError(f"format is {form!r}; it must be one of {', '.join(FORMATS)}.")

            def work(explained: Explanation) -> str | dict[str, Any]:
                return explained.to_json() if form == "json" else explanation_page([explained])

            content = await self._explained(asked, work)
        return Answer(200, content, "regard-report.html" if form == "html" else "")

    async def page(self, request: Request) -> Answer:
        """Answer the web page: a picture's caption and runners-up, each with its views.

        The page sends requests while its user types. Incomplete options are answered with 200 and
        `error`, so that browsers do not log them as failures.
        """

        def work(explained: Explanation) -> dict[str, Any]:
            best, occlusion = explained.caption, explained.occlusion
            views = [caption_html(best, occlusion, assets=False)]
            views += [caption_html(other, assets=False) for other in best.n_best]
            captions = [one.to_json(alpha=False) for one in (best, *best.n_best)]
            return {"captions": captions, "views": views}

        try:
            async with self._read(request, PAGE_FIELDS) as asked:
                kinds = {medium_of_bytes(one.name, one.content) for one in asked.files}
                if kinds != {"image"}:
                    raise RequestError(
                        415, "the page takes pictures; send other media to /v1/explain."
                    )
                return Answer(200, await self._explained(asked, work))
        except WrongMedium:  # a ConfigError, too, but not one of half a word
            raise
        except (ConfigError, UnknownName) as error:
            return Answer(200, {"error": one_line(error)})

    @asynccontextmanager
    async def _read(
        self, request: Request, extra: Mapping[str, Any]
    ) -> AsyncGenerator[CaptionRequest]:
        """Read a request; its bytes count towards the limits until it is answered."""
        with self.admission.admit_body() as add_bytes:
            asked = await read_request(request, self.settings, extra, add_bytes)
            model = asked.extra["model"]
            self.models.check(model)
            keys = [self._key(upload, model) for upload in asked.files]
            for key in {one for one in keys if isinstance(one, str)} or {self.models.default}:
                # This call only checks the options.
                self.models.by_key[key].caption_many((), **asked.options)
            yield replace(asked, keys=tuple(keys))

    def _key(self, upload: Upload, model: str) -> str | MediaError:
        try:
            return self.models.pick(model, medium_of_bytes(upload.name, upload.content))
        except MediaError as error:
            return error

    async def _captions(
        self, asked: CaptionRequest, add_pixels: Add
    ) -> list[Caption | RegardError]:
        """Return the caption of each file, or its error."""
        media = [
            await self._decoded(upload, key, add_pixels)
            for upload, key in zip(asked.files, asked.keys, strict=True)
        ]

        async def captioned(key: Any, one: Media | MediaError) -> Caption | RegardError:
            if isinstance(one, MediaError):
                return one
            return await self.batcher.caption(key, one, asked.options)

        found = await asyncio.gather(*map(captioned, asked.keys, media))
        for one in found:
            self.metrics.count_file("captioned" if isinstance(one, Caption) else "failed")
        return found

    async def _decoded(
        self, upload: Upload, key: str | MediaError, add_pixels: Add
    ) -> Media | MediaError:
        if isinstance(key, MediaError):
            return key
        spec = self.models.by_key[key].reader.spec
        try:
            media = await self.decoders.read(upload, spec, self.settings)
        except MediaError as error:
            return error
        add_pixels(-(-media.pixels.nbytes // _BYTES_OF_A_PIXEL))
        return media

    async def _explained(self, asked: CaptionRequest, work: Callable[[Explanation], Any]) -> Any:
        """Caption the file, measure occlusion if requested, and return the work on the result."""
        if len(asked.files) != 1:
            raise RequestError(422, f"{len(asked.files)} pictures were sent; send one at a time.")
        with self.admission.admit_files(1) as add_pixels:
            (caption,) = await self._captions(asked, add_pixels)
            if not isinstance(caption, Caption):
                raise caption
            captioner = self.models.by_key[str(asked.keys[0])]

            def measure() -> Any:
                covered = asked.extra["occlusion"] and caption.words
                return work(Explanation(caption, occlude(captioner, caption) if covered else None))

            return await self.batcher.run(measure)
