"""Shared by all ways of decoding: candidates of a step, and the record that traces come from.

Every step is recorded once, with the row that each row came from; a caption's trace is read
backwards at the end. So beams never copy their histories.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace, to_device

from regard.backends.base import Backend
from regard.decoding.options import DecodingOptions
from regard.types import Array, Hypothesis, Step


@dataclass(frozen=True)
class Ids:
    """The special ids of a search.

    Attributes:
        start: read first.
        end: ends a caption.
        forbidden: never said (padding, start, unknown).
    """

    start: int
    end: int
    forbidden: tuple[int, ...] = ()


@dataclass(frozen=True)
class Candidates:
    """The strongest next words of each row, best first: ids and log-probabilities (B, M)."""

    ids: np.ndarray
    logprobs: np.ndarray


@dataclass
class _Recorded:
    parent: np.ndarray
    token: np.ndarray
    logprob: np.ndarray
    alternatives: Candidates
    alpha: np.ndarray
    beta: np.ndarray | None
    location: np.ndarray | None


@dataclass
class Record:
    """What happened at each step, for all rows."""

    steps: list[_Recorded] = field(default_factory=list)

    def add(
        self,
        step: Step,
        candidates: Candidates,
        parent: np.ndarray,
        token: np.ndarray,
        logprob: np.ndarray,
    ) -> None:
        """Add one step.

        Args:
            step: what the decoder said, one row per row before the choice.
            candidates: of those rows.
            parent: (B,) the row that each new row continues.
            token: (B,) the word it adds.
            logprob: (B,) that word's log-probability.
        """
        beta = None if step.beta is None else to_numpy(step.beta).mean(-1)
        location = None if step.location is None else to_numpy(step.location)
        self.steps.append(
            _Recorded(parent, token, logprob, candidates, to_numpy(step.alpha), beta, location)
        )

    def tokens(self, row: int) -> tuple[int, ...]:
        """Return the words of a row after the last step."""
        said: list[int] = []
        for step in reversed(self.steps):
            said.append(int(step.token[row]))
            row = int(step.parent[row])
        return tuple(reversed(said))

    def hypothesis(
        self, row: int, length: int, *, score: float, finished: bool, alternatives: int
    ) -> Hypothesis:
        """Read back the caption that ends in `row` of step `length`, that word included."""
        tokens: list[int] = []
        rows: list[tuple[_Recorded, int]] = []
        logprobs: list[float] = []
        for step in reversed(self.steps[:length]):
            tokens.append(int(step.token[row]))
            logprobs.append(float(step.logprob[row]))
            row = int(step.parent[row])
            rows.append((step, row))
        rows.reverse()
        cells = self.steps[0].alpha.shape[1]
        return Hypothesis(
            tokens=tuple(reversed(tokens)),
            logprobs=np.array(logprobs[::-1]),
            score=score,
            finished=finished,
            alpha=_stacked([s.alpha[r] for s, r in rows], (0, cells)),
            beta=_optional([(s.beta, r) for s, r in rows]),
            location=_optional([(s.location, r) for s, r in rows]),
            alternatives=tuple(_strongest(s.alternatives, r, alternatives) for s, r in rows),
        )


def _stacked(rows: list[np.ndarray], empty: tuple[int, int]) -> np.ndarray:
    return np.stack(rows).astype(np.float32) if rows else np.zeros(empty, np.float32)


def _optional(values: list[tuple[np.ndarray | None, int]]) -> np.ndarray | None:
    present = [array[row] for array, row in values if array is not None]
    return np.array(present) if present else None


def _strongest(candidates: Candidates, row: int, count: int) -> tuple[tuple[int, float], ...]:
    pairs = zip(candidates.ids[row], candidates.logprobs[row], strict=True)
    finite = [(int(i), float(p)) for i, p in pairs if np.isfinite(p)]
    return tuple(finite[:count])


class Chooser:
    """Turns logits into the candidates that the options allow."""

    def __init__(self, backend: Backend, options: DecodingOptions, ids: Ids, words: int) -> None:
        """Prepare the vocabulary's mask.

        Args:
            backend: whose arrays are used.
            options: banned words, prefix, lengths, n-gram blocking.
            ids: special ids.
            words: V.
        """
        self.options = options
        self.ids = ids
        allowed = np.ones(words, bool)
        allowed[[i for i in (*ids.forbidden, *options.banned) if i < words]] = False
        self._allowed = backend.asarray(allowed)
        without_end = allowed.copy()
        without_end[ids.end] = False
        self._without_end = backend.asarray(without_end)
        self._backend = backend

    def logprobs(self, logits: Array, t: int, histories: list[tuple[int, ...]] | None) -> Array:
        """Return log-probabilities (B, V), -inf for what may not be said at step t.

        Args:
            logits: (B, V).
            t: words said so far.
            histories: the words of each row; needed where n-grams are blocked.
        """
        xp = array_namespace(logits)
        logprobs = log_softmax(logits)
        if t < len(self.options.prefix):
            only = np.zeros(logits.shape[-1], bool)
            only[self.options.prefix[t]] = True
            return xp.where(self._backend.asarray(only), logprobs, -xp.inf)
        allowed = self._without_end if t < self.options.min_length else self._allowed
        logprobs = xp.where(allowed, logprobs, -xp.inf)
        if self.options.block_ngram and histories is not None:
            blocked = _blocked(histories, self.options.block_ngram, logits.shape[-1])
            logprobs = xp.where(self._backend.asarray(blocked), -xp.inf, logprobs)
        return logprobs


def _blocked(histories: list[tuple[int, ...]], size: int, words: int) -> np.ndarray:
    """Return (B, V), True for a word that would say an n-gram a second time."""
    blocked = np.zeros((len(histories), words), bool)
    for row, said in enumerate(histories):
        tail = said[len(said) - size + 1 :] if size > 1 else ()
        for at in range(len(said) - size + 1):
            if said[at : at + size - 1] == tail:
                blocked[row, said[at + size - 1]] = True
    return blocked


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities over the last axis (the standard has no log_softmax)."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def strongest(logprobs: Array, count: int) -> Candidates:
    """Return the `count` largest entries of each row, best first.

    Repeated arg-max: the standard has no partial sort, and a full one costs more for the few
    entries that a beam needs. Ties go to the smaller id.
    """
    xp = array_namespace(logprobs)
    left = xp.asarray(logprobs, copy=True)
    every = xp.arange(left.shape[-1], device=left.device)
    ids: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for _ in range(min(count, left.shape[-1])):
        best = xp.argmax(left, axis=-1, keepdims=True)
        values.append(to_numpy(xp.max(left, axis=-1)))
        ids.append(to_numpy(best)[:, 0])
        left = xp.where(every == best, -xp.inf, left)
    return Candidates(np.stack(ids, 1), np.stack(values, 1).astype(np.float64))


def to_numpy(x: Array) -> np.ndarray:
    """Return any backend's array as numpy."""
    return np.asarray(to_device(x, "cpu"))
