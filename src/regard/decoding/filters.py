"""What may be said: forced, forbidden and banned words, shortest length, repeated n-grams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.arrays import array_namespace
from regard.backends.base import Backend
from regard.decoding.options import DecodingOptions
from regard.errors import ConfigError
from regard.types import Array


@dataclass(frozen=True)
class Ids:
    """The special ids of a search.

    Attributes:
        start: read first.
        end: ends a caption.
        forbidden: never said (padding, start, unknown).
        unlisted: never named as an alternative (padding, start).
    """

    start: int
    end: int
    forbidden: tuple[int, ...] = ()
    unlisted: tuple[int, ...] = ()


class Filter:
    """Sets to -inf the log-probabilities of the words that the options rule out."""

    def __init__(self, backend: Backend, options: DecodingOptions, ids: Ids, words: int) -> None:
        """Prepare the masks over the vocabulary.

        Args:
            backend: whose arrays are filtered.
            options: prefix, banned words, min_length, block_ngram.
            ids: the special ids.
            words: V.

        Raises:
            ConfigError: an id is outside the vocabulary, or the prefix cannot be said.
        """
        _check_ids(options, ids, words)
        allowed = np.ones(words, bool)
        allowed[[*ids.forbidden, *options.banned]] = False
        without_end = allowed.copy()
        without_end[ids.end] = False
        listed = np.ones(words, bool)
        listed[list(ids.unlisted)] = False
        self._listed = backend.asarray(listed)
        self._allowed = backend.asarray(allowed)
        self._without_end = backend.asarray(without_end)
        self._forced = [backend.asarray(np.arange(words) == word) for word in options.prefix]
        self._backend = backend
        self._options = options

    def apply(self, logprobs: Array, t: int, histories: list[tuple[int, ...]] | None) -> Array:
        """Return (B, V) with -inf for what may not be said; the rest keeps its value.

        Args:
            logprobs: (B, V), the model's.
            t: words said so far.
            histories: those words, per row; None where no n-gram is blocked.
        """
        xp = array_namespace(logprobs)
        if t < len(self._forced):
            return xp.where(self._forced[t], logprobs, -xp.inf)
        mask = self._without_end if t < self._options.min_length else self._allowed
        logprobs = xp.where(mask, logprobs, -xp.inf)
        if histories is None:
            return logprobs
        repeats = repeated_ngrams(histories, self._options.block_ngram, logprobs.shape[-1])
        return xp.where(self._backend.asarray(repeats), -xp.inf, logprobs)

    def listed(self, logprobs: Array) -> Array:
        """Return (B, V) with -inf for what is no alternative; the rest keeps its value."""
        xp = array_namespace(logprobs)
        return xp.where(self._listed, logprobs, -xp.inf)


def _check_ids(options: DecodingOptions, ids: Ids, words: int) -> None:
    for name, values in (("prefix", options.prefix), ("banned", options.banned)):
        outside = [value for value in values if not 0 <= value < words]
        if outside:
            raise ConfigError(
                f"{name} holds the id {outside[0]}; the vocabulary has the ids 0 to {words - 1}."
            )
    unsaid = {ids.end, *ids.forbidden}.intersection(options.prefix)
    if unsaid:
        raise ConfigError(
            f"prefix holds the special id {min(unsaid)}, which is no word of a caption. "
            "Give only words."
        )


def repeated_ngrams(histories: list[tuple[int, ...]], size: int, words: int) -> np.ndarray:
    """Return (B, V) bool, True for a word that would say an n-gram a second time.

    Args:
        histories: the words said so far, per row.
        size: n, at least 1.
        words: V.
    """
    repeats = np.zeros((len(histories), words), bool)
    for row, said in enumerate(histories):
        tail = said[len(said) - size + 1 :]
        for i in range(len(said) - size + 1):
            if said[i : i + size - 1] == tail:
                repeats[row, said[i + size - 1]] = True
    return repeats


def keep_likely(logits: np.ndarray, options: DecodingOptions) -> np.ndarray:
    """Return (B, V) with -inf for what top_k and top_p leave out.

    Nucleus sampling (Holtzman et al. 2020) keeps the fewest words, the likeliest first, whose
    probability reaches p; of top_k's survivors where both are given. The likeliest word
    always stays. Ties go to the smaller id.

    Args:
        logits: (B, V), unnormalised log-probabilities, temperature applied.
        options: top_k and top_p.
    """
    if not options.top_k and options.top_p == 1:
        return logits
    order = np.argsort(-logits, axis=-1, kind="stable")
    if options.top_k:
        order = order[:, : options.top_k]
    ordered = np.take_along_axis(logits, order, axis=-1)
    # Where nothing may be said the maximum is -inf, and -inf - -inf is no number.
    p = np.exp(ordered - np.maximum(ordered[:, :1], np.finfo(ordered.dtype).min))
    before = np.cumsum(p, axis=-1) - p
    if options.top_p < 1:
        ordered[before >= options.top_p * p.sum(-1, keepdims=True)] = -np.inf
    kept = np.full_like(logits, -np.inf)
    np.put_along_axis(kept, order, ordered, axis=-1)
    return kept
