"""Batching: pictures of many requests go through the network together, on one thread.

Requests that arrive within a few milliseconds with the same options share a batch; while it runs,
the next one fills. The event loop itself never computes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from regard.captioner import Failure
from regard.serve.settings import Settings
from regard.types import Caption, Media
from regard.util.parallel import Stopped, check_stopped, stop_when

if TYPE_CHECKING:
    from regard.captioner import Captioner

T = TypeVar("T")

_MEMORY = 0.8  # weight of the past in the moving average of the pace


@dataclass(frozen=True, eq=False)
class _BatchItem:
    """A queued picture. Items of equal `kind`, (captioner, options), may share a batch."""

    kind: tuple[Any, ...]
    media: Media
    result: asyncio.Future[Caption]


class Batcher:
    """Runs captioners on one thread, in batches.

    Attributes:
        pace: moving average of the seconds that a picture takes; 0 at first.
        since: `time.monotonic()` at the start of the current work; None: idle.
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
            watch: called with the size of every batch.
        """
        self._captioners = captioners
        self._settings = settings
        self._watch = watch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regard-model")
        self._waiting: list[_BatchItem] = []
        self._task: asyncio.Task[None] | None = None
        self.pace = 0.0
        self.since: float | None = None

    async def caption(self, model: str, media: Media, options: Mapping[str, Any]) -> Caption:
        """Caption one picture, together with others that have the same options.

        Args:
            model: name of a captioner.
            media: the picture.
            options: options of `Captioner.caption_many`, already checked.
        """
        result: asyncio.Future[Caption] = asyncio.get_running_loop().create_future()
        self._waiting.append(_BatchItem((model, tuple(sorted(options.items()))), media, result))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await result

    async def run(self, work: Callable[[], T], unwanted: Callable[[], bool] = lambda: False) -> T:
        """Run work of a model on the models' thread; it ends early if this call is cancelled.

        Args:
            work: calls `check_stopped` at every step, as decoding and occlusion do.
            unwanted: returns whether nobody waits for the result any more.

        Raises:
            Stopped: nobody did.
        """
        left = threading.Event()

        def timed() -> T:
            self.since = time.monotonic()
            try:
                with stop_when(lambda: left.is_set() or unwanted()):
                    check_stopped()
                    return work()
            finally:
                self.since = None

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, timed)
        finally:
            left.set()

    def close(self) -> None:
        """End the thread after its current work."""
        self._thread.shutdown(cancel_futures=True)

    async def _drain(self) -> None:
        await asyncio.sleep(self._settings.wait)
        while batch := self._take():
            await self._answer(batch)

    async def _answer(self, batch: list[_BatchItem]) -> None:
        self._watch(len(batch))
        began = time.monotonic()
        try:
            batch, captions = await self.run(
                lambda: self._work(batch), lambda: all(item.result.done() for item in batch)
            )
        except Stopped:  # everybody has left
            return
        except Exception as error:
            if len(batch) > 1:  # running each alone shows which one fails
                for item in batch:
                    await self._answer([item])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        pace = (time.monotonic() - began) / len(batch)
        self.pace = _MEMORY * self.pace + (1 - _MEMORY) * pace if self.pace else pace
        for item, caption in zip(batch, captions, strict=True):
            if not item.result.done():
                item.result.set_result(caption)

    def _take(self) -> list[_BatchItem]:
        """Take the item that has waited longest, and others of its kind."""
        self._waiting = [item for item in self._waiting if not item.result.done()]  # cancelled
        if not self._waiting:
            return []
        kind = self._waiting[0].kind
        # Locations are drawn for a whole batch at once, so they would depend on the others in it.
        # Sampled words do not: every item gets the same random numbers (`decode_sample`).
        sampled = dict(kind[1]).get("context") == "sample"
        alike = [item for item in self._waiting if item.kind == kind]
        batch = alike[: 1 if sampled else self._settings.batch_size]
        self._waiting = [item for item in self._waiting if item not in batch]
        return batch

    def _work(self, batch: list[_BatchItem]) -> tuple[list[_BatchItem], list[Caption]]:
        """Caption the items of a batch that somebody still waits for."""
        model, options = batch[0].kind
        batch = [item for item in batch if not item.result.done()]
        if not batch:
            raise Stopped
        captions: list[Caption] = []
        for result in self._captioners[model].caption_many(
            [item.media for item in batch], batch_size=len(batch), **dict(options)
        ):
            if isinstance(result, Failure):
                raise result.error
            captions.append(result)
        return batch, captions
