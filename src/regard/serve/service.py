"""What the routes do: read a request, caption or explain its pictures, count what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regard.errors import ConfigError, MediaError, RegardError, UnknownName
from regard.explain.html import caption_html
from regard.explain.page import Explained, explanation_page
from regard.explain.probe import occlude
from regard.serve.batching import Batcher, Room
from regard.serve.meters import Meters
from regard.serve.schema import Asked, Refused, Settings, one_line, read_request, status_of
from regard.types import Caption

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
    """Captioners behind limits, a queue and meters."""

    def __init__(self, captioners: Mapping[str, Captioner], settings: Settings) -> None:
        """Start the threads that work.

        Args:
            captioners: by name; the first is the default.
            settings: limits.

        Raises:
            ConfigError: there is no captioner, or one that reads no pictures.
            MissingExtra: prometheus_client is not installed.
        """
        if not captioners:
            raise ConfigError("there is no model to serve; name one.")
        for name, captioner in captioners.items():
            if captioner.medium != "image":
                raise ConfigError(
                    f"{name!r} captions {captioner.medium}s, and the service takes pictures. Use "
                    "`regard caption` or `regard explain`."
                )
        self.captioners = dict(captioners)
        self.settings = settings
        self.room = Room(settings)
        self.meters = Meters(lambda: self.room.pictures)
        self.batcher = Batcher(self.captioners, settings, self.meters.batch)

    def models(self) -> dict[str, Any]:
        """Return what models there are, the default first."""
        return {"models": [_model(name, one) for name, one in self.captioners.items()]}

    async def caption(self, request: Request) -> Answer:
        """Answer /v1/caption: a picture that fails is one entry, and the others go on."""
        asked = await self._read(request, CAPTION_FIELDS)
        alpha = asked.extra["alpha"]
        with self.room.claim(len(asked.files)) as claim:
            results = await self._captions(asked, claim)
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
        """Answer /v1/explain: one picture's report, or its numbers."""
        asked = await self._read(request, EXPLAIN_FIELDS)
        form = asked.extra["format"]
        if form not in FORMATS:
            raise ConfigError(f"format is {form!r}; it must be one of {', '.join(FORMATS)}.")

        def work(explained: Explained) -> str | dict[str, Any]:
            return explained.to_json() if form == "json" else explanation_page([explained])

        content = await self._explained(asked, work)
        return Answer(200, content, "regard-report.html" if form == "html" else "")

    async def page(self, request: Request) -> Answer:
        """Answer the web page: a caption's JSON, and it and its runners-up as HTML fragments.

        Half a word while its reader types is no failure that a browser should log: options that
        make no sense are answered with 200 and `error`.
        """
        try:
            asked = await self._read(request, PAGE_FIELDS)
        except (ConfigError, UnknownName) as error:
            return Answer(200, {"error": one_line(error)})

        def work(explained: Explained) -> dict[str, Any]:
            best, occlusion = explained.caption, explained.occlusion
            views = [caption_html(best, occlusion, assets=False)]
            views += [caption_html(other, assets=False) for other in best.n_best]
            others = [other.to_json(alpha=False) for other in best.n_best]
            return {"captions": [best.to_json(alpha=False), *others], "views": views}

        return Answer(200, await self._explained(asked, work))

    async def _read(self, request: Request, extra: Mapping[str, Any]) -> Asked:
        if self.room.pictures >= self.settings.waiting:  # before its body costs anything
            raise Refused(503, "too many pictures are waiting; try again in a moment.")
        asked = await read_request(request, self.settings, extra)
        model = asked.extra["model"] or next(iter(self.captioners))
        if model not in self.captioners:
            raise UnknownName("model", model, self.captioners)
        asked.extra["model"] = model
        # Options are checked when the call is made; nothing is captioned by it.
        self.captioners[model].caption_many((), **asked.options)
        return asked

    async def _captions(self, asked: Asked, claim: Any) -> list[Caption | RegardError]:
        media: list[Any] = []
        for upload in asked.files:
            try:
                media.append(await self.batcher.read(upload))
                claim(media[-1].pixels.shape[0] * media[-1].pixels.shape[1])
            except MediaError as error:
                media.append(error)
        results = await self.batcher.caption_all(asked.extra["model"], media, asked.options)
        for result in results:
            self.meters.picture("captioned" if isinstance(result, Caption) else "failed")
        return results

    async def _explained(self, asked: Asked, work: Any) -> Any:
        """Caption the one picture, cover its cells where wanted, and do the work on the result."""
        if len(asked.files) != 1:
            raise Refused(422, f"{len(asked.files)} pictures came; one at a time is explained.")
        with self.room.claim(1) as claim:
            (caption,) = await self._captions(asked, claim)
            if not isinstance(caption, Caption):
                raise caption
            captioner = self.captioners[asked.extra["model"]]

            def measure() -> Any:
                covered = asked.extra["occlusion"] and caption.words
                return work(Explained(caption, occlude(captioner, caption) if covered else None))

            return await self.batcher.run(measure)


def _model(name: str, captioner: Captioner) -> dict[str, Any]:
    config = captioner.config
    return {
        "name": name,
        "medium": captioner.medium,
        "attention": config.decoder.attention,
        "encoder": config.encoder.name,
        "grid": list(captioner.reader.grid_shape),
        "words": len(captioner.vocabulary),
        "tokens": captioner.vocabulary.tokens,
        "scores": captioner.metrics.get("scores", {}),
    }
