"""Values that encoder, decoder and search exchange.

Shape letters: B captions in a batch, N items (pictures, clips or scans), L grid cells, D annotation
features, A attention features, H hidden units, V words in the vocabulary, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from regard.errors import UnknownName
from regard.types.media import Grid

Array = Any
"""A numpy array or a torch tensor: anything that array-api-compat understands."""


def array_namespace(*arrays: Array) -> Any:
    """Return the module whose functions work on these arrays, after the array API standard.

    numpy follows the standard by itself. array-api-compat would import all of numpy for it, which
    takes longer than a caption does.
    """
    if all(isinstance(x, np.ndarray) for x in arrays):
        return np
    import array_api_compat

    return array_api_compat.array_namespace(*arrays)


CONTEXTS = ("expected", "sample", "argmax")
"""Ways in which hard attention forms the context: an expectation, or a cell that it chooses."""

LocationChooser = Callable[[Array], Array]
"""Maps alpha (B, L) to the cells (B,) that hard attention looks at."""


def location_chooser(context: str, noise: Callable[[Array], Array]) -> LocationChooser | None:
    """Return the rule by which hard attention chooses its cells; None: contexts are expectations.

    arg max(alpha / E) with exponential noise E of mean 1 is distributed as alpha.

    Args:
        context: one of `CONTEXTS`.
        noise: draws E for alpha (B, L).

    Raises:
        UnknownName: `context` is not one of them.
    """
    if context not in CONTEXTS:
        raise UnknownName("context", context, CONTEXTS)
    if context == "expected":
        return None
    if context == "argmax":
        return lambda alpha: alpha.argmax(-1)
    return lambda alpha: (alpha / noise(alpha)).argmax(-1)


@dataclass(frozen=True)
class Annotations:
    """An encoder's output for N items.

    Attributes:
        vectors: (N, L, D), one annotation vector a_i per cell.
        mask: (N, L) bool, True = real cell.
        grids: one Grid per item.
    """

    vectors: Array
    mask: Array
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class ProjectedAnnotations:
    """Annotations as the decoder reads them: projected once per item, not once per step.

    Attributes:
        values: (N, L, D); the context vector is their weighted sum.
        keys: (N, L, A); scored against the query.
        mask: (N, L) bool, True = real cell.
        naming: (N, L, C), p(concept | a_i) of a decoder that points; else None.
        forms: (C, 2) ids of each concept's singular and plural; None likewise.
        copies: whether `select` copies what it selects.
    """

    values: Array
    keys: Array
    mask: Array
    naming: Array | None = None
    forms: Array | None = None
    copies: ClassVar[bool] = True

    def select(self, index: Array) -> ProjectedAnnotations:
        """Return the items that `index` names, in that order."""
        naming = None if self.naming is None else self.naming[index]
        values, keys, mask = self.values[index], self.keys[index], self.mask[index]
        return ProjectedAnnotations(values, keys, mask, naming, self.forms)


@dataclass(frozen=True)
class DecoderState:
    """The LSTM's state after some words.

    Attributes:
        hidden: (B, H), h_t.
        memory: (B, H), c_t.
    """

    hidden: Array
    memory: Array

    def select(self, index: Array) -> DecoderState:
        """Return the captions that `index` names, in that order (beams are reordered so)."""
        return DecoderState(self.hidden[index], self.memory[index])


class WordRanking(Protocol):
    """The strongest words of a step, for backends that find them without all logits.

    Attributes:
        words: V.
    """

    words: int

    @property
    def normaliser(self) -> np.ndarray:
        """(B,) float64, log sum exp of each row's logits: logits less this are log p."""
        ...

    def strongest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids (B, M) and logits (B, M) float64 of each row's `count` largest.

        Best first; ties go to the smaller id. M is at most V.
        """
        ...


@dataclass(frozen=True)
class Step:
    """The decoder's output at one step.

    Attributes:
        output: the logits, or a function that computes them when they are needed.
        state: the state after the step.
        alpha: (B, L), attention: sums to 1 over valid cells, 0 elsewhere.
        beta: (B, 1) or (B, D) gate in [0, 1]; None without a gate.
        location: (B,) the one cell that hard attention looked at; None where the context
            is an expectation.
        location_logprob: (B,) log alpha at that cell; None likewise.
        ranking: the strongest of the logits; None: `regard.decoding` searches for them.
        copied: (B, V) the part of p(w) that the pointer named; None without a pointer. Its sum
            over the words is g_t, less the share that named nothing.
    """

    output: Array | Callable[[], Array]
    state: DecoderState
    alpha: Array
    beta: Array | None = None
    location: Array | None = None
    location_logprob: Array | None = None
    ranking: WordRanking | None = None
    copied: Array | None = None

    @property
    def logits(self) -> Array:
        """(B, V), unnormalised log-probabilities of the next word; log p(w) with a pointer."""
        return self.output() if callable(self.output) else self.output

    @property
    def words(self) -> int:
        """Number of words in the vocabulary, V."""
        return self.logits.shape[-1] if self.ranking is None else self.ranking.words


@dataclass(frozen=True)
class Hypothesis:
    """One decoded caption as ids, with its full trace, without the end token.

    Attributes:
        tokens: T word ids.
        logprobs: (T,) natural log-probability of each word, before any length penalty.
        score: the ranking score: the sum of log-probabilities, the end
            token's included, divided by the length penalty.
        finished: whether the end token was reached.
        alpha: (T, L) float32.
        beta: (T,) mean gate per word; None without a gate.
        location: (T,) the cell that hard attention looked at; None otherwise.
        alternatives: for each word the strongest candidates as (id, logprob), best first.
        copy: (T,) how much of all probability was the pointer's; None without one.
        copied: (T,) how much of the word's own probability was the pointer's; None likewise.
        cell: (T,) the cell that contributed most to naming the word, -1 where no concept is
            called so; None likewise.
    """

    tokens: tuple[int, ...]
    logprobs: np.ndarray
    score: float
    finished: bool
    alpha: np.ndarray
    beta: np.ndarray | None
    location: np.ndarray | None
    alternatives: tuple[tuple[tuple[int, float], ...], ...]
    copy: np.ndarray | None = None
    copied: np.ndarray | None = None
    cell: np.ndarray | None = None
