"""From sources to captions: source -> media -> annotations -> hypotheses -> `Caption`.

    decoding options   the caller's options, with words as ids
    read               source -> media -> the network's input, on threads of their own
    encode             inputs -> annotations
    decode             annotations -> hypotheses (`regard.decoding`)
    write              hypotheses -> captions, with notices and confidence

While one batch is captioned the next is read; or, with several threads, every core processes its
own batches. Either way memory does not grow with the stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from regard.backends import Backend
from regard.checkpoint.components import Components
from regard.config import DataConfig, Recipe
from regard.config.io import to_dict
from regard.decoding import DecodingOptions, decode
from regard.decoding.topk import to_numpy
from regard.errors import ConfigError, MediaError, MissingExtra, RegardError, UnknownName
from regard.media import Input
from regard.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from regard.types import Annotations, AttentionTrace, Caption, Grid, Hypothesis, Media, Word
from regard.types.decoding import array_namespace
from regard.util.parallel import check_stopped

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from regard.util.torch_device import Halving


@dataclass(frozen=True)
class Deferred:
    """A source that the reading thread fetches when it is needed.

    Attributes:
        name: its name in messages and results.
        fetch: returns the source; raises `MediaError` if it cannot be fetched.
    """

    name: str
    fetch: Callable[[], Source]


Source: TypeAlias = (
    "str | Path | bytes | Image.Image | np.ndarray | torch.Tensor | Media | Deferred"
)
"""A source for `regard.media.read_media`, a read medium, or a function that returns one."""

Report: TypeAlias = Callable[[str, int, int], None]
"""Receives progress on a source that is being read: its name, frames decoded, of how many."""

NOT_CLINICAL = "Not for clinical use."
"""A notice of every caption of a scan."""

_READERS = 2, 8  # threads that read pictures while a CPU, or a GPU, captions the batch before


@dataclass(frozen=True)
class Failure:
    """An item that could not be captioned.

    Attributes:
        file: the requested file.
        error: the reason.
    """

    file: str
    error: RegardError


@dataclass(frozen=True)
class _Prepared:
    """An item, its preprocessed form, and the seconds that preprocessing took."""

    media: Media
    input: Input
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Turns batches of sources into captions.

    Attributes:
        components: components of the captioner.
        options: options of the decoding.
        report: receives, from the threads that read, how many frames of a clip are decoded.
        keep_pixels: whether captions keep their pictures, for drawing. A photograph of 12
            megapixels is 36 MB, and some batches of them are under way.
    """

    components: Components
    options: DecodingOptions
    report: Report | None = None
    keep_pixels: bool = True

    def run(self, batches: Iterator[list[Source]]) -> Iterator[Caption | Failure]:
        """Yield the caption, or the failure, of every source in order.

        Args:
            batches: sources that go through the network together; consumed lazily, one batch
                ahead.
        """
        if self.components.threads > 1:
            from regard.util.parallel import ordered_map

            results = ordered_map(
                lambda batch: self._caption([self._read(source) for source in batch]),
                batches,
                threads=self.components.threads,
                start=self.components.backend.use_one_core,
            )
            for captions in results:
                yield from captions
            return
        pool = ThreadPoolExecutor(_READERS[self.components.device != "cpu"])

        def read_ahead() -> list[Future[_Prepared | Failure]]:
            return [pool.submit(self._read, source) for source in next(batches, [])]

        try:
            ahead = read_ahead()
            while ahead:
                batch, ahead = ahead, read_ahead()
                yield from self._caption([item.result() for item in batch])
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, source: Source) -> _Prepared | Failure:
        reader = self.components.reader
        deferred = source if isinstance(source, Deferred) else None
        name = deferred.name if deferred else None
        report = partial(self.report, name or str(source)) if self.report else None
        try:
            given = deferred.fetch() if deferred else source
            media = reader.read(given, name=name, report=report, shown=self.keep_pixels)
            began = time.perf_counter()
            prepared = reader.prepare(media)
            seconds = time.perf_counter() - began
            media = media if self.keep_pixels else media.without_pixels()
            return _Prepared(media, prepared, seconds)
        except (MediaError, MissingExtra) as error:  # pictures go on where clips cannot be read
            if isinstance(source, Media | Deferred):
                return Failure(source.name, error)
            is_path = isinstance(source, str | Path)
            return Failure(str(source) if is_path else f"<{type(source).__name__}>", error)

    def _caption(self, items: list[_Prepared | Failure]) -> list[Caption | Failure]:
        """Caption the items of a batch that could be read."""
        ready = [item for item in items if isinstance(item, _Prepared)]
        captions = iter(self._captions(ready) if ready else ())
        return [item if isinstance(item, Failure) else next(captions) for item in items]

    @cached_property
    def _in_memory(self) -> Halving | None:
        """Splits batches that a GPU has no room for; None on the CPU."""
        if self.components.device == "cpu":
            return None
        from regard.util.torch_device import Halving

        return Halving(self.components.device)

    def _captions(self, ready: list[_Prepared]) -> list[Caption]:
        if self._in_memory is None:
            return self._captions_together(ready)
        return self._in_memory(self._captions_together, ready)

    def _captions_together(self, ready: list[_Prepared]) -> list[Caption]:
        began = time.perf_counter()
        inputs = [item.input for item in ready]
        annotations = encode(self.components.backend, inputs)
        found = decode(
            self.components.backend,
            annotations,
            self.options,
            start=START,
            end=END,
            forbidden=(PAD, START, UNKNOWN),
            unlisted=(PAD, START),
        )
        spent = time.perf_counter() - began + sum(item.seconds for item in ready)
        seconds = spent / len(ready)
        notices = self._notices(ready, annotations)
        return [
            self._write(item.media, grid, hypotheses, seconds, said)
            for item, grid, hypotheses, said in zip(
                ready, annotations.grids, found, notices, strict=True
            )
        ]

    def _notices(self, ready: list[_Prepared], annotations: Annotations) -> list[tuple[str, ...]]:
        """Return for each item the notices that a reader of its caption needs."""
        clinical = (NOT_CLINICAL,) if self.components.reader.medium == "volume" else ()
        detector = self.components.familiarity
        if detector is None:
            return [clinical] * len(ready)
        vectors = to_numpy(annotations.vectors)
        return [
            clinical + detector.notices(item.media, item.input, array)
            for item, array in zip(ready, vectors, strict=True)
        ]

    def _write(
        self,
        media: Media,
        grid: Grid,
        hypotheses: tuple[Hypothesis, ...],
        seconds: float,
        notices: tuple[str, ...],
    ) -> Caption:
        """Return the best caption of an item, the others in its `n_best`."""
        parts, confidence = self.components, self.components.confidence
        captions = [
            Caption(
                text=parts.vocabulary.decode(one.tokens),
                words=_words(one, parts.vocabulary, grid),
                score=one.score,
                finished=one.finished,
                trace=AttentionTrace(
                    one.alpha,
                    one.beta,
                    one.location,
                    parts.config.decoder.attention,
                    self.options.context,
                    grid,
                ),
                file=media.name,
                medium=media.medium,
                model=parts.name,
                seconds=seconds,
                notices=notices,
                media=media,
            )
            for one in hypotheses
        ]
        best, *others = captions if confidence is None else map(confidence.rate, captions)
        return replace(best, n_best=tuple(others))


def _words(found: Hypothesis, vocabulary: Vocabulary, grid: Grid) -> tuple[Word, ...]:
    printed = vocabulary.spoken(found.tokens)
    return tuple(
        Word(
            text=printed[t],
            logprob=float(found.logprobs[t]),
            alpha=found.alpha[t].reshape(grid.shape),
            beta=None if found.beta is None else float(found.beta[t]),
            location=None if found.location is None else int(found.location[t]),
            alternatives=tuple((vocabulary.word(i), p) for i, p in found.alternatives[t]),
            token=token,
            **_naming_of(found, t, grid),
        )
        for t, token in enumerate(found.tokens)
    )


def _naming_of(found: Hypothesis, t: int, grid: Grid) -> dict[str, Any]:
    """Return how much the pointer said of a word, and from which cell; {} without a pointer."""
    if found.copy is None or found.copied is None or found.cell is None:
        return {}
    cell = None
    if found.cell[t] >= 0:
        cell = tuple(int(i) for i in np.unravel_index(found.cell[t], grid.shape))
    return {"copy": float(found.copy[t]), "copied": float(found.copied[t]), "cell": cell}


def encode(backend: Backend, inputs: Sequence[Input]) -> Annotations:
    """Encode N prepared items to their annotations (N, L, D)."""
    check_stopped()
    size = backend.encode_batch_size or len(inputs)
    parts = [
        backend.encode(
            np.stack([item.pixels for item in some]),
            tuple(item.grid for item in some),
            np.stack([item.mask for item in some]),
        )
        for some in (inputs[i : i + size] for i in range(0, len(inputs), size))
    ]
    if len(parts) == 1:
        return parts[0]
    vectors, masks = [p.vectors for p in parts], [p.mask for p in parts]
    xp = array_namespace(*vectors)
    grids = tuple(grid for part in parts for grid in part.grids)
    return Annotations(xp.concat(vectors), xp.concat(masks), grids)


Words = str | Iterable[str | int]
"""A text, or words and ids."""

_OPTIONS = {f.name for f in fields(DecodingOptions)}


def decoding_options(
    given: dict[str, Any], vocabulary: Vocabulary, config: Recipe, name: str
) -> DecodingOptions:
    """Return the decoding options for a caller's keyword arguments.

    Args:
        given: fields of `DecodingOptions`; `prefix` and `banned` as words or ids.
        vocabulary: vocabulary of the model.
        config: its recipe, with the defaults of length and decoding.
        name: name of the model, for messages.

    Raises:
        UnknownName: an option is unknown.
        ConfigError: an option is wrong, or the model does not support it.
    """
    unknown = [key for key in given if key not in _OPTIONS]
    if unknown:
        raise UnknownName("captioning option", unknown[0], _OPTIONS)
    options = to_dict(config.decoding) | given
    longest = config.data.max_length
    # 20 characters are too short for a caption, and 20 words where captions are long.
    if vocabulary.tokens != "word" or longest > DataConfig().max_length:
        options.setdefault("max_length", longest)
    for key, ids in (("prefix", prefix_ids), ("banned", banned_ids)):
        if key in options:
            options[key] = ids(vocabulary, options[key])
    made = DecodingOptions(**options)
    if made.context != "expected" and config.decoder.attention != "hard":
        raise ConfigError(
            f"context={made.context!r} chooses one location, and the model {name!r} has "
            "soft attention, which looks at all. Leave context out, or use a hard model."
        )
    return made


def prefix_ids(vocabulary: Vocabulary, words: Words) -> tuple[int, ...]:
    """Return the ids of a prefix.

    Raises:
        ConfigError: a word is not in the vocabulary, or an id is out of range.
    """
    ids: list[int] = []
    given = [words] if isinstance(words, str) else words
    for is_id, run in groupby(given, lambda word: isinstance(word, int)):
        # Adjacent words are joined to one text: where letters are tokens, so are spaces.
        if is_id:
            ids += [_checked(vocabulary, word) for word in run if isinstance(word, int)]
        else:
            ids += vocabulary.encode(" ".join(map(str, run)))
    if UNKNOWN in ids:
        text = words if isinstance(words, str) else " ".join(map(str, words))
        unknown = [t for t in vocabulary.split(text) if vocabulary.encode([t]) == [UNKNOWN]]
        raise ConfigError(
            f"prefix holds {', '.join(map(repr, unknown)) or UNKNOWN}, which the model lacks: "
            f"it is not among its {len(vocabulary)} words. Use another word."
        )
    return tuple(ids)


def banned_ids(vocabulary: Vocabulary, words: Words) -> tuple[int, ...]:
    """Return the ids of banned words; unknown words need no ban.

    Raises:
        ConfigError: a word is several pieces of the vocabulary, so that banning them would
            ban other words too, or an id is out of range.
    """
    banned: list[int] = []
    if isinstance(words, str):  # a word may hold spaces
        words = vocabulary.split(words) if vocabulary.tokens == "word" else words.split()
    for word in words:
        ids = [_checked(vocabulary, word)] if isinstance(word, int) else vocabulary.encode(word)
        if len(ids) > 1:
            raise ConfigError(
                f"banned holds {word!r}, which is {len(ids)} tokens to this model; banning each "
                "would ban other words too. Ban single words, or tokens by their ids."
            )
        banned += [i for i in ids if i != UNKNOWN]
    return tuple(banned)


def _checked(vocabulary: Vocabulary, token: int) -> int:
    if not 0 <= token < len(vocabulary):
        raise ConfigError(
            f"unknown word id {token}: the vocabulary has the ids 0 to {len(vocabulary) - 1}."
        )
    return token
