"""The strongest words of logits that are all there.

One pass over the logits adds the bias, sums for the softmax and notes the largest of every 64
words; then only the few blocks that may hold one of the strongest are read again. Numpy and the
array standard's operations (`regard.decoding.topk`) go over them three times.
"""

from __future__ import annotations

import numpy as np

from regard.native.cpp_library import Library
from regard.native.packed_product import steps

BLOCK = 64
"""Words that share one maximum: RANKED in cpp/words.cpp."""


class Ranking:
    """Implements `regard.types.Ranking` for the logits of one step.

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
        """See `regard.types.Ranking.strongest`."""
        rows, words = self.logits.shape
        count = min(count, words)
        ids = np.empty((rows, count), np.int64)
        values = np.empty((rows, count), self.logits.dtype)
        given = rows, words, steps(self.logits)[0], count
        self._loops.call("strongest", *given, self.logits, self._maxima, ids, values)
        return ids, values.astype(np.float64)
