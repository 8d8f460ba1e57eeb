"""Pictures of many requests through the network together, on one thread.

Requests that arrive within a few milliseconds and ask for the same go in one batch; while it is
worked on, the next collects. The event loop never computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from regard.captioner import Failure
from regard.media import read_image
from regard.serve.schema import Refused, Settings, Upload
from regard.types import Caption, Media

if TYPE_CHECKING:
    from regard.captioner import Captioner

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

_READERS = 2  # threads that decode pictures


class Room:
    """Counts the pictures and pixels in the house, and refuses what there is no room for."""

    def __init__(self, settings: Settings) -> None:
        """Begin with nobody."""
        self._settings = settings
        self.pictures = 0
        self.pixels = 0

    @contextmanager
    def claim(self, pictures: int) -> Generator[Callable[[int], None], None, None]:
        """Take room for some pictures; call what is given with each one's pixels.

        Raises:
            Refused: there is none, or a request alone would need more than there is.
        """
        if self.pictures and self.pictures + pictures > self._settings.waiting:
            raise _busy()
        self.pictures += pictures
        mine = 0

        def add(pixels: int) -> None:
            nonlocal mine
            most = self._settings.waiting_pixels
            if mine + pixels > most:
                raise Refused(413, f"the pictures have more than {most} pixels; send fewer.")
            if self.pixels + pixels > most:
                raise _busy()
            mine += pixels
            self.pixels += pixels

        try:
            yield add
        finally:
            self.pictures -= pictures
            self.pixels -= mine


def _busy() -> Refused:
    return Refused(503, "too many pictures are waiting; try again in a moment.")


@dataclass(frozen=True, eq=False)
class _Job:
    kind: tuple[Any, ...]
    media: Media
    result: asyncio.Future[Caption]


class Batcher:
    """Runs captioners on one thread, in batches."""

    def __init__(
        self,
        captioners: Mapping[str, Captioner],
        settings: Settings,
        watch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Start the threads.

        Args:
            captioners: by name.
            settings: limits.
            watch: is told the size of every batch.
        """
        self._captioners = captioners
        self._settings = settings
        self._watch = watch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regard-model")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="regard-reader")
        self._jobs: list[_Job] = []
        self._task: asyncio.Task[None] | None = None

    async def read(self, upload: Upload) -> Media:
        """Decode one upload.

        Raises:
            MediaError: it is none, or too large.
        """

        def work() -> Media:
            limit = self._settings.max_pixels
            return read_image(upload.content, name=upload.name, max_pixels=limit)

        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def caption(self, model: str, media: Media, options: Mapping[str, Any]) -> Caption:
        """Caption one picture together with whatever else asks for the same.

        Args:
            model: name of a captioner.
            media: the picture.
            options: of `Captioner.caption_many`, checked already.
        """
        result: asyncio.Future[Caption] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job((model, tuple(sorted(options.items()))), media, result))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await result

    async def caption_all(
        self, model: str, media: Sequence[Media | E], options: Mapping[str, Any]
    ) -> list[Caption | E]:
        """Caption what could be read, all at once; what could not stays where it is."""
        waits = [self.caption(model, one, options) for one in media if isinstance(one, Media)]
        captions = iter(await asyncio.gather(*waits))
        return [next(captions) if isinstance(one, Media) else one for one in media]

    async def run(self, work: Callable[[], T]) -> T:
        """Run other work of a model on the models' thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._thread.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

    async def _drain(self) -> None:
        await asyncio.sleep(self._settings.wait)
        while batch := self._take():
            self._watch(len(batch))
            try:
                captions = await self.run(lambda batch=batch: self._work(batch))
            except Exception as error:  # belongs to those who asked; the next batch goes on
                for job in batch:
                    if not job.result.done():
                        job.result.set_exception(error)
                continue
            for job, caption in zip(batch, captions, strict=True):
                if not job.result.done():
                    job.result.set_result(caption)

    def _take(self) -> list[_Job]:
        """Take the longest waiting job and those like it."""
        self._jobs = [job for job in self._jobs if not job.result.done()]  # nobody waits for those
        if not self._jobs:
            return []
        kind = self._jobs[0].kind
        # One generator serves a batch: sampled in company, a picture would get other words.
        sampled = "sample" in (dict(kind[1]).get(name) for name in ("method", "context"))
        like = [job for job in self._jobs if job.kind == kind]
        batch = like[: 1 if sampled else self._settings.batch_size]
        self._jobs = [job for job in self._jobs if job not in batch]
        return batch

    def _work(self, batch: list[_Job]) -> list[Caption]:
        model, options = batch[0].kind
        found = self._captioners[model].caption_many(
            [job.media for job in batch], batch_size=len(batch), **dict(options)
        )
        captions: list[Caption] = []
        for result in found:
            if isinstance(result, Failure):
                raise result.error
            captions.append(result)
        return captions
