"""Log-probabilities and their strongest entries, on the array API standard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.arrays import array_namespace, device, to_device
from regard.types import Array

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


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities over the last axis (the standard has no log_softmax)."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def strongest(logprobs: Array, count: int) -> Candidates:
    """Return the `count` largest entries of each row, best first; ties go to the smaller id.

    The standard has neither top-k nor a partial sort. The `count` largest entries lie in the
    `count` blocks of words with the largest maxima, so one pass over the vocabulary finds the
    blocks, and only those reach numpy.

    Args:
        logprobs: (B, V).
        count: M; at most V are returned.
    """
    xp = array_namespace(logprobs)
    rows, words = logprobs.shape
    count = min(count, words)
    if words > count * _BLOCK:
        fill = xp.full(
            (rows, -words % _BLOCK), -xp.inf, dtype=logprobs.dtype, device=device(logprobs)
        )
        padded = xp.concat([logprobs, fill], axis=-1)
        maxima = to_numpy(xp.max(xp.reshape(padded, (rows, -1, _BLOCK)), axis=-1))
        # In the order of their ids, so that ties below still go to the smaller one.
        blocks = np.sort(_largest(maxima, count)[0], axis=-1)
        ids = (blocks[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(rows, -1)
        near = xp.take_along_axis(padded, xp.asarray(ids, device=device(logprobs)), axis=-1)
        column, values = _largest(to_numpy(near), count)
        return Candidates(np.take_along_axis(ids, column, axis=-1), values)
    return Candidates(*_largest(to_numpy(logprobs), count))


def _largest(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns and values of each row's largest entries by repeated arg-max."""
    # What is taken becomes -inf, below anything that is left: no column is taken twice.
    left = np.maximum(x.astype(np.float64), np.finfo(np.float64).min)
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
    return np.asarray(to_device(x, "cpu"))
