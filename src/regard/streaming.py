"""A stream of sources becomes a stream of captions: read, encode, decode, write.

While one batch is captioned the next is read; or, with several lanes, every core does batches of
its own. Either way memory does not grow with the stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from regard.backends import Backend
from regard.decoding import DecodingOptions, decode
from regard.decoding.topk import to_numpy
from regard.errors import MediaError, MissingExtra, RegardError
from regard.media import Input
from regard.media.reader import Reader
from regard.pipeline import CaptionWriter
from regard.reliability.confidence import Confidence
from regard.reliability.out_of_distribution import Familiarity, Sighting
from regard.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from regard.types import Annotations, Caption, Media
from regard.util.arrays import array_namespace
from regard.util.parallel import in_lanes

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class Deferred:
    """A source that is fetched when its turn comes, by the thread that reads it.

    Attributes:
        name: what messages and results call it.
        fetch: gives the source; what cannot be had is a `MediaError`.
    """

    name: str
    fetch: Callable[[], Source]


Source: TypeAlias = (
    "str | Path | bytes | Image.Image | np.ndarray | torch.Tensor | Media | Deferred"
)
"""Whatever `regard.media.read_media` reads, what it has read, or what gives one of them."""

Report: TypeAlias = Callable[[str, int, int], None]
"""Is told of a source that is being read: its name, frames that are decoded, of how many."""

_READERS = 2  # threads that read pictures while the batch before is captioned


@dataclass(frozen=True)
class Failure:
    """An item that could not be captioned.

    Attributes:
        file: what was asked for.
        error: what is wrong with it.
    """

    file: str
    error: RegardError


@dataclass(frozen=True)
class _Ready:
    """An item as it was read, as the encoder reads it, and the seconds from one to the other."""

    media: Media
    input: Input
    seconds: float


@dataclass(frozen=True)
class CaptionStream:
    """What turns sources into captions.

    Attributes:
        reader: sources to pixels.
        backend: pixels to words.
        vocabulary: ids to words.
        name: of the model, written into every caption.
        attention: "soft" or "hard", likewise.
        familiarity: what training items were like; None: captions say nothing of it.
        confidence: says how sure to be of words; None: captions do not.
        lanes: batches at a time; more than 1 only where a call of the backend takes one core.
        keep_pixels: whether captions keep their pictures, for drawing. A photograph of 12
            megapixels is 36 MB, and some batches of them are under way.
    """

    reader: Reader
    backend: Backend
    vocabulary: Vocabulary
    name: str
    attention: str
    familiarity: Familiarity | None
    confidence: Confidence | None = None
    lanes: int = 1
    keep_pixels: bool = True

    def run(
        self,
        batches: Iterator[list[Source]],
        options: DecodingOptions,
        report: Report | None,
    ) -> Iterator[Caption | Failure]:
        """Yield the caption, or the failure, of every source in order.

        Args:
            batches: sources that go through the network together; taken as they are needed, one
                ahead.
            options: of the decoding.
            report: is told, from the threads that read, how many frames of a clip are decoded.
        """
        if self.lanes > 1:

            def lane(given: list[list[Source]]) -> list[Caption | Failure]:
                (batch,) = given
                return list(self._caption_batch([self._read(s, report) for s in batch], options))

            yield from in_lanes(
                lane, batches, batch_size=1, lanes=self.lanes, alone=self.backend.use_one_core
            )
            return
        pool = ThreadPoolExecutor(_READERS)

        def read_ahead() -> list[Future[_Ready | Failure]]:
            ahead = next(batches, [])
            return [pool.submit(self._read, source, report) for source in ahead]

        try:
            ahead = read_ahead()
            while ahead:
                batch, ahead = ahead, read_ahead()
                yield from self._caption_batch([item.result() for item in batch], options)
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, source: Source, report: Report | None) -> _Ready | Failure:
        deferred = source if isinstance(source, Deferred) else None
        name = deferred.name if deferred else None
        told = partial(report, name or str(source)) if report else None
        try:
            given = deferred.fetch() if deferred else source
            media = self.reader.read(given, name=name, report=told, shown=self.keep_pixels)
            began = time.perf_counter()
            made = self.reader.prepare(media)
            seconds = time.perf_counter() - began
            return _Ready(media if self.keep_pixels else media.without_pixels(), made, seconds)
        except (MediaError, MissingExtra) as error:  # pictures go on where clips cannot be read
            if isinstance(source, Media | Deferred):
                return Failure(source.name, error)
            is_path = isinstance(source, str | Path)
            return Failure(str(source) if is_path else f"<{type(source).__name__}>", error)

    def _caption_batch(
        self, items: list[_Ready | Failure], options: DecodingOptions
    ) -> Iterator[Caption | Failure]:
        ready = [item for item in items if isinstance(item, _Ready)]
        captions = iter(self._captions(ready, options) if ready else ())
        for item in items:
            yield item if isinstance(item, Failure) else next(captions)

    def _captions(self, ready: list[_Ready], options: DecodingOptions) -> list[Caption]:
        began = time.perf_counter()
        media, inputs = [one.media for one in ready], [one.input for one in ready]
        annotations = encode(self.backend, inputs)
        found = decode(
            self.backend,
            annotations,
            options,
            start=START,
            end=END,
            forbidden=(PAD, START, UNKNOWN),
            unlisted=(PAD, START),
        )
        spent = time.perf_counter() - began + sum(one.seconds for one in ready)
        seconds = spent / len(ready)
        writer = CaptionWriter(
            self.vocabulary, self.name, self.attention, options.context, self.confidence
        )
        notices = self._unfamiliar(media, inputs, annotations)
        return [
            writer.write(item, grid, best, seconds, more)
            for item, grid, best, more in zip(media, annotations.grids, found, notices, strict=True)
        ]

    def _unfamiliar(
        self, media: list[Media], inputs: list[Input], annotations: Annotations
    ) -> list[tuple[str, ...]]:
        """Return for each item what its reader must know of how it differs from training."""
        if self.familiarity is None:
            return [()] * len(media)
        arrays = to_numpy(annotations.vectors)
        return [
            self.familiarity.notices(Sighting.of(item, prepared, array))
            for item, prepared, array in zip(media, inputs, arrays, strict=True)
        ]


def encode(backend: Backend, inputs: Sequence[Input]) -> Annotations:
    """Encode N prepared items to their annotations (N, L, D)."""
    size = backend.encode_batch_size or len(inputs)
    parts = [_encode(backend, inputs[i : i + size]) for i in range(0, len(inputs), size)]
    if len(parts) == 1:
        return parts[0]
    vectors, masks = [p.vectors for p in parts], [p.mask for p in parts]
    xp = array_namespace(*vectors)
    grids = tuple(grid for part in parts for grid in part.grids)
    return Annotations(xp.concat(vectors), xp.concat(masks), grids)


def _encode(backend: Backend, inputs: Sequence[Input]) -> Annotations:
    return backend.encode(
        np.stack([i.pixels for i in inputs]),
        tuple(i.grid for i in inputs),
        np.stack([i.mask for i in inputs]),
    )
