"""The vocabulary layer of a compiled step, and its strongest words.

If all logits are computed, one pass over them adds the bias, sums for the softmax and notes the
largest of every 64 words; then only the few blocks that may hold one of the strongest are read
again. Numpy and the array standard's operations (`regard.decoding.topk`) go over them three times.
Of a large vocabulary, products in 16-bit integers find the words that may be the strongest, and
only these are computed in full.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from regard.native import dispatch
from regard.native.cpp_library import (
    ALIGNED,
    Library,
    PackedProduct,
    aligned_empty,
    element_strides,
)

BLOCK = 64
"""Words that share one maximum: RANKED in cpp/words.cpp."""


class LogitRanking:
    """Implements `regard.types.WordRanking` for computed logits of one step.

    Attributes:
        logits: (B, V), all computed.
        normaliser: (B,) float64, log sum exp of each row.
    """

    def __init__(self, logits: np.ndarray, bias: np.ndarray, library: Library) -> None:
        """Finish the logits.

        Args:
            logits: (B, V) less the bias, which is added in place; its columns lie side by side.
            bias: (V,).
            library: the compiled loops for their type.
        """
        rows, words = logits.shape
        self.logits, self._library = logits, library
        self._maxima = np.empty((rows, -(-words // BLOCK)), logits.dtype)
        normaliser = np.empty(rows, logits.dtype)
        library.call(
            "rank", rows=rows, words=words, stride=element_strides(logits)[0], bias=bias,
            logits=logits, maxima=self._maxima, normaliser=normaliser,
        )  # fmt: skip
        self.normaliser = normaliser.astype(np.float64)

    def strongest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `regard.types.WordRanking.strongest`."""
        rows, words = self.logits.shape
        count = min(count, words)
        ids = np.empty((rows, count), np.int64)
        values = np.empty((rows, count), self.logits.dtype)
        self._library.call(
            "strongest", rows=rows, words=words, stride=element_strides(self.logits)[0],
            count=count, logits=self.logits, maxima=self._maxima, ids=ids, values=values,
        )  # fmt: skip
        return ids, values.astype(np.float64)


_MARGIN = 64  # words that panels may be longer by; no processor's vectors hold more


class StrongestWords(NamedTuple):
    """The strongest words of some rows, best first; ties go to the smaller id.

    Attributes:
        ids: (B, M).
        logits: (B, M).
        normaliser: (B,), log sum exp of all V logits.
    """

    ids: np.ndarray
    logits: np.ndarray
    normaliser: np.ndarray


class VocabularyLayer:
    """deep output (B, E) -> logits (B, V), by a constant weight."""

    def __init__(
        self, weight: np.ndarray, bias: np.ndarray, library: Library, *, int16: bool | None = None
    ) -> None:
        """Pack the weight.

        Args:
            weight: (V, E).
            bias: (V,).
            library: the compiled loops for their type.
            int16: whether to use 16-bit integers; None: as `dispatch.STRONGEST_WORDS` says.
        """
        self.words = len(weight)
        self._weight, self._bias = (np.ascontiguousarray(x) for x in (weight, bias))
        self._library = library
        if int16 is None:
            case = dispatch.Case(dtypes=(library.dtype,), words=self.words)
            int16 = dispatch.STRONGEST_WORDS.choose(case) == dispatch.INT16
        self._int16 = _Int16Weight(self._weight, self._bias, library) if int16 else None
        self._product = None if int16 else self._packed()

    def full(self, deep: np.ndarray) -> LogitRanking:
        """Compute all logits (B, V) of deep outputs (B, E)."""
        if self._product is None:  # rarely needed with integers
            self._product = self._packed()
        logits = aligned_empty(deep, len(deep), self.words + -self.words % ALIGNED)[:, : self.words]
        self._product.into(logits, deep)
        return LogitRanking(logits, self._bias, self._library)

    def strongest(self, deep: np.ndarray, count: int) -> StrongestWords | None:
        """Find the strongest words without all logits.

        Args:
            deep: (B, E).
            count: M.

        Returns:
            M words of each row; None if integers are not used, or M is more than a 64th of V.
        """
        if self._int16 is None or not 0 < count <= self.words // BLOCK:
            return None
        return self._int16.strongest(np.ascontiguousarray(deep), count)

    def _packed(self) -> PackedProduct:
        return PackedProduct(self._weight.T, self._library)


class LazyRanking:
    """Implements `regard.types.WordRanking` for one step; computed on demand.

    Attributes:
        words: V.
    """

    def __init__(
        self,
        layer: VocabularyLayer,
        deep: np.ndarray,
        threads: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Keep what the ranking is computed from.

        Args:
            layer: computes it.
            deep: (B, E).
            threads: holds the number of threads that the library uses.
        """
        self.words = layer.words
        self._layer, self._deep, self._threads = layer, deep, threads
        self._full: LogitRanking | None = None
        self._strong: StrongestWords | None = None

    def logits(self) -> np.ndarray:
        """Return (B, V)."""
        return self._all_logits().logits

    @property
    def normaliser(self) -> np.ndarray:
        """See `regard.types.WordRanking`; after `strongest` it costs nothing."""
        strong = self._found(1)
        return (
            self._all_logits().normaliser
            if strong is None
            else strong.normaliser.astype(np.float64)
        )

    def strongest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `regard.types.WordRanking.strongest`."""
        strong = self._found(count)
        if strong is not None:
            return strong.ids[:, :count], strong.logits[:, :count].astype(np.float64)
        ranking = self._all_logits()
        with self._threads():
            return ranking.strongest(count)

    def _found(self, count: int) -> StrongestWords | None:
        """Return `count` strongest words or more; None: all logits are computed, or needed."""
        if self._full is None and (self._strong is None or self._strong.ids.shape[1] < count):
            with self._threads():
                self._strong = self._layer.strongest(self._deep, count)
        return self._strong if self._full is None else None

    def _all_logits(self) -> LogitRanking:
        if self._full is None:
            with self._threads():
                self._full = self._layer.full(self._deep)
        return self._full


class _Int16Weight:
    """The weight in 16-bit integers, with a scale for each word."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, library: Library) -> None:
        words, inner = weight.shape
        self._weight, self._bias, self._library = weight, bias, library
        self._pairs = aligned_empty(np.empty(0, np.int32), (words + _MARGIN) * -(-inner // 2))
        self._pairs.fill(0)
        self._step, self._length, rounded = (np.empty(words, weight.dtype) for _ in range(3))
        library.call(
            "shorten_words", words=words, inner=inner, weight=weight, panels=self._pairs,
            step=self._step, length=self._length, rounded=rounded,
        )  # fmt: skip
        self._rounded = float(rounded.max())

    def strongest(self, deep: np.ndarray, count: int) -> StrongestWords:
        """See `VocabularyLayer.strongest`; there are `count` blocks of words."""
        (rows, inner), words = deep.shape, len(self._weight)
        ids, values = np.empty((rows, count), np.int64), np.empty((rows, count), deep.dtype)
        normaliser = np.empty(rows, deep.dtype)
        self._library.call(
            "strong_words", rows=rows, inner=inner, words=words, count=count, x=deep,
            weight=self._weight, bias=self._bias, panels=self._pairs, word_step=self._step,
            length=self._length, rounded=self._rounded, ids=ids, values=values,
            normaliser=normaliser,
        )  # fmt: skip
        return StrongestWords(ids, values, normaliser)
