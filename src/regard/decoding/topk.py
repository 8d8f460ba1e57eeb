"""Log-probabilities and their strongest entries, on the array API standard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.types import Array, Step
from regard.types.decoding import array_namespace

_BLOCK = 64
"""Words that share one maximum on the way to the strongest."""


@dataclass(frozen=True)
class Candidates:
    """The strongest next words of each row, best first.

    Attributes:
        ids: (B, M).
        logprobs: (B, M) float64; -inf where a row has fewer than M words that may be said.
    """

    ids: np.ndarray
    logprobs: np.ndarray

    def without(self, ids: np.ndarray, blocked: np.ndarray | None, count: int) -> Candidates:
        """Return the first `count` of each row that are neither in `ids` nor blocked.

        Args:
            ids: words that no row may say.
            blocked: (B, M) bool, more that its row may not say; None: no more.
            count: M of the result, or fewer where there are fewer.
        """
        out = np.isin(self.ids, ids)
        if blocked is not None:
            out |= blocked
        first = np.argsort(out, axis=-1, kind="stable")[:, :count]
        logprobs = np.where(out, -np.inf, self.logprobs)
        return Candidates(
            np.take_along_axis(self.ids, first, axis=-1),
            np.take_along_axis(logprobs, first, axis=-1),
        )


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities over the last axis (the standard has no log_softmax)."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def log_normaliser(logits: Array) -> np.ndarray:
    """Return log sum exp over the last axis, (B,) float64: logits less this are log p."""
    xp = array_namespace(logits)
    if hasattr(xp, "logsumexp"):  # torch's takes no array of its own, (B, V)
        return to_numpy(xp.logsumexp(logits, -1)).astype(np.float64)
    top = xp.max(logits, axis=-1, keepdims=True)
    total = xp.sum(xp.exp(logits - top), axis=-1)
    return (to_numpy(top)[..., 0] + np.log(to_numpy(total))).astype(np.float64)


def normaliser_of(step: Step) -> np.ndarray:
    """Return log sum exp of a step's logits, (B,) float64."""
    return log_normaliser(step.logits) if step.ranking is None else step.ranking.normaliser


def strongest_of(step: Step, count: int) -> Candidates:
    """Return the `count` largest logits of each row of a step, best first."""
    if step.ranking is None:
        return strongest(step.logits, count)
    return Candidates(*step.ranking.strongest(count))


def strongest(logprobs: Array, count: int) -> Candidates:
    """Return the `count` largest entries of each row, best first; ties go to the smaller id.

    The standard has neither top-k nor a partial sort. The `count` largest entries lie in the
    `count` blocks of words with the largest maxima, so one pass over the vocabulary finds the
    blocks, and only those reach numpy.

    Args:
        logprobs: (B, V), or logits.
        count: M; at most V are returned.
    """
    xp = array_namespace(logprobs)
    rows, words = logprobs.shape
    count = min(count, words)
    if words <= count * _BLOCK:
        return Candidates(*_largest(to_numpy(logprobs), count))
    whole = words // _BLOCK
    grouped = xp.reshape(logprobs[:, : whole * _BLOCK], (rows, whole, _BLOCK))
    maxima = to_numpy(xp.max(grouped, axis=-1))
    if words % _BLOCK:
        last = to_numpy(xp.max(logprobs[:, whole * _BLOCK :], axis=-1))
        maxima = np.concatenate([maxima, last[:, None]], axis=-1)
    # In the order of their ids, so that ties below still go to the smaller one.
    blocks = np.sort(_largest(maxima, count)[0], axis=-1)
    ids = (blocks[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(rows, -1)
    beyond = ids >= words  # of the last block
    index = np.minimum(ids, words - 1)
    if not isinstance(logprobs, np.ndarray):
        index = xp.asarray(index, device=logprobs.device)
    near = to_numpy(xp.take_along_axis(logprobs, index, axis=-1))
    column, values = _largest(near, count, beyond if beyond.any() else None)
    return Candidates(np.take_along_axis(ids, column, axis=-1), values)


def _largest(
    x: np.ndarray, count: int, absent: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns and values of each row's largest entries by repeated arg-max.

    Args:
        x: (B, K).
        count: how many of each row.
        absent: (B, K) bool, entries that are not there.
    """
    # What is taken becomes -inf, below anything that is left: no column is taken twice.
    left = np.maximum(x, np.finfo(x.dtype).min)
    if absent is not None:
        left[absent] = -np.inf
    rows = np.arange(len(left))
    columns = np.zeros((len(left), count), np.int64)
    values = np.empty((len(left), count))
    for i in range(count):
        columns[:, i] = left.argmax(-1)
        values[:, i] = x[rows, columns[:, i]]
        left[rows, columns[:, i]] = -np.inf
    return columns, values


def to_numpy(x: Array) -> np.ndarray:
    """Return any backend's array as numpy."""
    if isinstance(x, np.ndarray):
        return x
    import array_api_compat

    return np.asarray(array_api_compat.to_device(x, "cpu"))
