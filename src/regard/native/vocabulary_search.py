"""The strongest words of logits that are all there.

One pass over the logits adds the bias, sums for the softmax and notes the largest of every 64
words; then only the few blocks that may hold one of the strongest are read again. Numpy and the
array standard's operations (`regard.decoding.topk`) go over them three times.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from regard.native.cpp_library import Library
from regard.native.packed_product import ALIGNED, Product, new, steps

BLOCK = 64
"""Words that share one maximum: RANKED in cpp/words.cpp."""


class Ranking:
    """Implements `regard.types.WordRanking` for the logits of one step.

    Attributes:
        logits: (B, V), finished.
        normaliser: (B,) float64, log sum exp of each row.
    """

    def __init__(self, logits: np.ndarray, bias: np.ndarray, loops: Library) -> None:
        """Finish the logits.

        Args:
            logits: (B, V) less the bias, which is added in place; its columns lie side by side.
            bias: (V,).
            loops: compiled for their type.
        """
        rows, words = logits.shape
        self.logits, self._loops = logits, loops
        self._maxima = np.empty((rows, -(-words // BLOCK)), logits.dtype)
        normaliser = np.empty(rows, logits.dtype)
        given = rows, words, steps(logits)[0], bias
        loops.call("rank", *given, logits, self._maxima, normaliser)
        self.normaliser = normaliser.astype(np.float64)

    def strongest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `regard.types.WordRanking.strongest`."""
        rows, words = self.logits.shape
        count = min(count, words)
        ids = np.empty((rows, count), np.int64)
        values = np.empty((rows, count), self.logits.dtype)
        given = rows, words, steps(self.logits)[0], count
        self._loops.call("strongest", *given, self.logits, self._maxima, ids, values)
        return ids, values.astype(np.float64)


_MANY = 2048
"""Words from which on integers are used."""
_ROOM = 64  # words that panels may be longer by; no processor's vectors hold more


class Strong(NamedTuple):
    """The strongest words of some rows, best first; ties go to the smaller id.

    Attributes:
        ids: (B, M).
        logits: (B, M).
        normaliser: (B,), log sum exp of all V logits.
    """

    ids: np.ndarray
    logits: np.ndarray
    normaliser: np.ndarray


class WordLayer:
    """deep output (B, E) -> logits (B, V), by a weight that stays as it is."""

    def __init__(
        self, weight: np.ndarray, bias: np.ndarray, loops: Library, *, short: bool | None = None
    ) -> None:
        """Bring the weight into the form that products read.

        Args:
            weight: (V, E).
            bias: (V,).
            loops: compiled for their type.
            short: whether to use 16-bit integers; None: where the processor gains by them, and
                there are words enough.
        """
        self.words = len(weight)
        self._weight, self._bias = (np.ascontiguousarray(x) for x in (weight, bias))
        self._loops = loops
        if short is None:
            short = self.words >= _MANY and _pay(loops)
        self._short = _ShortWeight(self._weight, self._bias, loops) if short else None
        self._product = None if short else self._packed()

    def full(self, deep: np.ndarray) -> Ranking:
        """Compute all logits (B, V) of deep outputs (B, E)."""
        if self._product is None:  # few ever ask
            self._product = self._packed()
        logits = new(deep, len(deep), self.words + -self.words % ALIGNED)[:, : self.words]
        self._product.into(logits, deep)
        return Ranking(logits, self._bias, self._loops)

    def strongest(self, deep: np.ndarray, count: int) -> Strong | None:
        """Find the strongest words without all logits.

        Args:
            deep: (B, E).
            count: M.

        Returns:
            M words of each row; None where integers are not used, or M is more than a 64th of V.
        """
        if self._short is None or not 0 < count <= self.words // BLOCK:
            return None
        return self._short.strongest(np.ascontiguousarray(deep), count)

    def _packed(self) -> Product:
        return Product(self._weight.T, self._loops)


class WordRanking:
    """Implements `regard.types.WordRanking` for one step; computed when it is asked for.

    Attributes:
        words: V.
    """

    def __init__(
        self, layer: WordLayer, deep: np.ndarray, team: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Note what is to be read.

        Args:
            layer: that reads it.
            deep: (B, E).
            team: holds the number of threads that loops take.
        """
        self.words = layer.words
        self._layer, self._deep, self._team = layer, deep, team
        self._full: Ranking | None = None
        self._strong: Strong | None = None

    def logits(self) -> np.ndarray:
        """Return (B, V)."""
        return self._all().logits

    @property
    def normaliser(self) -> np.ndarray:
        """See `regard.types.WordRanking`; after `strongest` it costs nothing."""
        strong = self._found(1)
        return self._all().normaliser if strong is None else strong.normaliser.astype(np.float64)

    def strongest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `regard.types.WordRanking.strongest`."""
        strong = self._found(count)
        if strong is not None:
            return strong.ids[:, :count], strong.logits[:, :count].astype(np.float64)
        ranking = self._all()
        with self._team():
            return ranking.strongest(count)

    def _found(self, count: int) -> Strong | None:
        """Return `count` strongest words or more; None: all logits are there, or are needed."""
        if self._full is None and (self._strong is None or self._strong.ids.shape[1] < count):
            with self._team():
                self._strong = self._layer.strongest(self._deep, count)
        return self._strong if self._full is None else None

    def _all(self) -> Ranking:
        if self._full is None:
            with self._team():
                self._full = self._layer.full(self._deep)
        return self._full


class _ShortWeight:
    """The weight in 16-bit integers, each word's in steps of its own."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, loops: Library) -> None:
        words, inner = weight.shape
        self._weight, self._bias, self._loops = weight, bias, loops
        self._pairs = new(np.empty(0, np.int32), (words + _ROOM) * -(-inner // 2))
        self._pairs.fill(0)
        self._step, self._length, rounded = (np.empty(words, weight.dtype) for _ in range(3))
        given = words, inner, weight, self._pairs, self._step, self._length, rounded
        loops.call("shorten_words", *given)
        self._rounded = float(rounded.max())

    def strongest(self, deep: np.ndarray, count: int) -> Strong:
        """See `WordLayer.strongest`; there are `count` blocks of words."""
        (rows, inner), words = deep.shape, len(self._weight)
        ids, values = np.empty((rows, count), np.int64), np.empty((rows, count), deep.dtype)
        normaliser = np.empty(rows, deep.dtype)
        self._loops.call(
            "strong_words", rows, inner, words, count, deep, self._weight, self._bias,
            self._pairs, self._step, self._length, self._rounded, ids, values, normaliser,
        )  # fmt: skip
        return Strong(ids, values, normaliser)


def _pay(loops: Library) -> bool:
    answer = np.zeros(1, np.int64)
    loops.call("pairs_pay", answer)
    return bool(answer[0])
