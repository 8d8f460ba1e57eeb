"""What the routes do: read a request, caption or explain its pictures, count what happened."""

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
from regard.serve.admission import Add, Room
from regard.serve.auth import Buckets, Keys
from regard.serve.batching import Batcher
from regard.serve.decoders import Decoders
from regard.serve.models import Models
from regard.serve.prometheus import Meters
from regard.serve.requests import Asked, Refused, Upload, one_line, read_request, status_of
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
"""Form fields of what the web page asks for, likewise."""
FORMATS = ("html", "json")
_BYTES_OF_A_PIXEL = 3


@dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Attributes:
        status: of HTTP.
        content: JSON values, or HTML.
        name: that a file of it should bear; "" where it is no file.
    """

    status: int
    content: dict[str, Any] | str
    name: str = ""


class Service:
    """Captioners behind limits, a queue and meters.

    Attributes:
        draining: whether it is about to end, and wants no new requests.
    """

    def __init__(
        self,
        captioners: Mapping[str, Captioner],
        settings: Settings,
        decoders: Decoders | None = None,
    ) -> None:
        """Start the thread that works; processes start with the first file.

        Args:
            captioners: by name; the first is the default.
            settings: limits.
            decoders: processes that somebody else ends; None: its own.

        Raises:
            ConfigError: there is no captioner, or the keys cannot be read.
            MissingExtra: prometheus_client is not installed.
        """
        self.models = Models(captioners)
        self.settings = settings
        self.keys = Keys.read(settings.api_keys, settings.api_key_file)
        self.buckets = Buckets(settings.rate, settings.burst)
        self.room = Room(settings, lambda: self.batcher.pace)
        self.meters = Meters(lambda: self.room.pictures)
        self.batcher = Batcher(self.models.by_key, settings, self.meters.batch)
        self._owns_decoders = decoders is None
        self.decoders = decoders or Decoders(
            settings.decoders, settings.decoder_memory, self.meters.decoder
        )
        self.draining = False

    def unready(self) -> str:
        """Return why it should get no requests at the moment; "" where it should."""
        if self.draining:
            return "it is ending"
        since = self.batcher.since
        if since is not None and time.monotonic() - since > self.settings.request_seconds:
            return "the model does not come back from its work"
        return ""

    def warm(self) -> None:
        """Start what would make the first request wait."""
        if self._owns_decoders:
            self.decoders.warm()

    def close(self) -> None:
        """End threads and processes once what they do is done."""
        self.batcher.close()
        if self._owns_decoders:
            self.decoders.close()

    async def caption(self, request: Request) -> Answer:
        """Answer /v1/caption: a file that fails is one entry, and the others go on."""
        async with self._asked(request, CAPTION_FIELDS) as asked:
            with self.room.claim(len(asked.files)) as claim:
                results = await self._captions(asked, claim)
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
        """Answer /v1/explain: one file's report, or its numbers."""
        async with self._asked(request, EXPLAIN_FIELDS) as asked:
            form = asked.extra["format"]
            if form not in FORMATS:
                raise ConfigError(f"format is {form!r}; it must be one of {', '.join(FORMATS)}.")

            def work(explained: Explanation) -> str | dict[str, Any]:
                return explained.to_json() if form == "json" else explanation_page([explained])

            content = await self._explained(asked, work)
        return Answer(200, content, "regard-report.html" if form == "html" else "")

    async def page(self, request: Request) -> Answer:
        """Answer the web page: a picture's caption, and it and its runners-up as HTML fragments.

        Half a word while its reader types is no failure that a browser should log: options that
        make no sense are answered with 200 and `error`.
        """

        def work(explained: Explanation) -> dict[str, Any]:
            best, occlusion = explained.caption, explained.occlusion
            views = [caption_html(best, occlusion, assets=False)]
            views += [caption_html(other, assets=False) for other in best.n_best]
            others = [other.to_json(alpha=False) for other in best.n_best]
            return {"captions": [best.to_json(alpha=False), *others], "views": views}

        try:
            async with self._asked(request, PAGE_FIELDS) as asked:
                kinds = {medium_of_bytes(one.name, one.content) for one in asked.files}
                if kinds != {"image"}:
                    raise Refused(415, "the page takes pictures; send others to /v1/explain.")
                return Answer(200, await self._explained(asked, work))
        except (ConfigError, UnknownName) as error:
            return Answer(200, {"error": one_line(error)})

    @asynccontextmanager
    async def _asked(self, request: Request, extra: Mapping[str, Any]) -> AsyncGenerator[Asked]:
        """Read a request, and keep its bytes counted as long as it is worked on."""
        with self.room.body() as took:
            asked = await read_request(request, self.settings, extra, took)
            model = asked.extra["model"]
            self.models.check(model)
            keys = [self._key(upload, model) for upload in asked.files]
            for key in {one for one in keys if isinstance(one, str)} or {self.models.default}:
                # Options are checked when the call is made; nothing is captioned by it.
                self.models.by_key[key].caption_many((), **asked.options)
            yield replace(asked, keys=tuple(keys))

    def _key(self, upload: Upload, model: str) -> str | MediaError:
        try:
            return self.models.pick(model, medium_of_bytes(upload.name, upload.content))
        except MediaError as error:
            return error

    async def _captions(self, asked: Asked, claim: Add) -> list[Caption | RegardError]:
        media = [
            await self._decoded(upload, key, claim)
            for upload, key in zip(asked.files, asked.keys, strict=True)
        ]
        results = await asyncio.gather(
            *(
                self.batcher.caption(str(key), one, asked.options)
                for key, one in zip(asked.keys, media, strict=True)
                if isinstance(one, Media)
            )
        )
        captions = iter(results)
        found: list[Caption | RegardError] = [
            next(captions) if isinstance(one, Media) else one for one in media
        ]
        for one in found:
            self.meters.picture("captioned" if isinstance(one, Caption) else "failed")
        return found

    async def _decoded(
        self, upload: Upload, key: str | MediaError, claim: Add
    ) -> Media | MediaError:
        if isinstance(key, MediaError):
            return key
        spec = self.models.by_key[key].reader.spec
        try:
            media = await self.decoders.read(upload, spec, self.settings)
        except MediaError as error:
            return error
        claim(-(-media.pixels.nbytes // _BYTES_OF_A_PIXEL))
        return media

    async def _explained(self, asked: Asked, work: Callable[[Explanation], Any]) -> Any:
        """Caption the one file, cover its parts where wanted, and do the work on the result."""
        if len(asked.files) != 1:
            raise Refused(422, f"{len(asked.files)} pictures came; one at a time is explained.")
        with self.room.claim(1) as claim:
            (caption,) = await self._captions(asked, claim)
            if not isinstance(caption, Caption):
                raise caption
            captioner = self.models.by_key[str(asked.keys[0])]

            def measure() -> Any:
                covered = asked.extra["occlusion"] and caption.words
                return work(Explanation(caption, occlude(captioner, caption) if covered else None))

            return await self.batcher.run(measure)
