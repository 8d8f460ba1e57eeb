"""Pictures of many requests through the network together, on one thread.

Requests that arrive within a few milliseconds and ask for the same go in one batch; while it is
worked on, the next collects. The event loop never computes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from regard.captioner import Failure
from regard.serve.settings import Settings
from regard.types import Caption, Media

if TYPE_CHECKING:
    from regard.captioner import Captioner

T = TypeVar("T")

_MEMORY = 0.8  # of the pace so far, when a batch is done


@dataclass(frozen=True, eq=False)
class _Job:
    kind: tuple[Any, ...]
    media: Media
    result: asyncio.Future[Caption]


class Batcher:
    """Runs captioners on one thread, in batches.

    Attributes:
        pace: seconds that a picture took of late; 0 at first.
        since: when what is worked on was begun, on the clock of `time.monotonic`; None: idle.
    """

    def __init__(
        self,
        captioners: Mapping[str, Captioner],
        settings: Settings,
        watch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Start the thread.

        Args:
            captioners: by name; more may be added.
            settings: limits.
            watch: is told the size of every batch.
        """
        self._captioners = captioners
        self._settings = settings
        self._watch = watch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regard-model")
        self._jobs: list[_Job] = []
        self._task: asyncio.Task[None] | None = None
        self.pace = 0.0
        self.since: float | None = None

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

    async def run(self, work: Callable[[], T]) -> T:
        """Run other work of a model on the models' thread."""

        def timed() -> T:
            self.since = time.monotonic()
            try:
                return work()
            finally:
                self.since = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    def close(self) -> None:
        """End the thread once what it does is done."""
        self._thread.shutdown(cancel_futures=True)

    async def _drain(self) -> None:
        await asyncio.sleep(self._settings.wait)
        while batch := self._take():
            await self._answer(batch)

    async def _answer(self, batch: list[_Job]) -> None:
        self._watch(len(batch))
        began = time.monotonic()
        try:
            captions = await self.run(lambda: self._work(batch))
        except Exception as error:
            if len(batch) > 1:  # whose fault it is shows when each goes alone
                for job in batch:
                    await self._answer([job])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        pace = (time.monotonic() - began) / len(batch)
        self.pace = _MEMORY * self.pace + (1 - _MEMORY) * pace if self.pace else pace
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
