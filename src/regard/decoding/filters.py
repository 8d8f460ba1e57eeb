"""What may be said: forced, forbidden and banned words, shortest length, repeated n-grams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.backends import Backend
from regard.decoding.search_options import DecodingOptions
from regard.decoding.topk import Candidates, normaliser_of, strongest, strongest_of
from regard.errors import ConfigError
from regard.types import Array, Step
from regard.util.arrays import array_namespace

_SPARE = 64
"""Words ruled out up to which it is cheaper to take that many more and drop them."""


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
    """Rules out words that the options do not allow."""

    def __init__(self, backend: Backend, options: DecodingOptions, ids: Ids, words: int) -> None:
        """Note which words are ruled out.

        Args:
            backend: whose arrays are filtered.
            options: prefix, banned words, min_length, block_ngram.
            ids: the special ids.
            words: V.

        Raises:
            ConfigError: an id is outside the vocabulary, or the prefix cannot be said.
        """
        _check_ids(options, ids, words)
        self._never = np.unique([*ids.forbidden, *options.banned]).astype(np.int64)
        self._never_or_end = np.union1d(self._never, [ids.end])
        self._unlisted = np.unique(ids.unlisted).astype(np.int64)
        self._words = words
        self._backend = backend
        self._options = options

    def choose(
        self,
        step: Step,
        count: int,
        t: int,
        histories: list[tuple[int, ...]] | None,
    ) -> tuple[Candidates, Candidates | None, np.ndarray]:
        """Return the strongest words that may be said, and the model's strongest of all.

        What is ruled out is a handful of words: the strongest logits are taken with as many to
        spare, and what is ruled out is dropped from those, instead of masking all of (B, V).

        Args:
            step: the model's.
            count: M, words that may be said.
            t: words said so far.
            histories: those words, per row; None where no n-gram is blocked.

        Returns:
            (B, M) words that may be said; (B, alternatives) words of the model itself, the
            unlisted ones left out, or None where none are kept; and (B,) log sum exp of the
            logits.
        """
        never = self._never_or_end if t < self._options.min_length else self._never
        kept, forced = self._options.alternatives, t < len(self._options.prefix)
        repeats = None
        spare = len(never)
        if histories is not None and not forced:
            repeats = repeated_ngrams(histories, self._options.block_ngram, self._words)
            spare += int(repeats.sum(1).max(initial=0))
        wanted = 0 if forced or spare > _SPARE else count + spare
        wanted = max(wanted, kept + len(self._unlisted) if kept else 0)
        top = strongest_of(step, wanted) if wanted else None
        normaliser = normaliser_of(step)  # after the strongest: it comes with them
        if top is not None:
            top = Candidates(top.ids, top.logprobs - normaliser[:, None])
        listed = None if top is None or not kept else top.without(self._unlisted, None, kept)
        if forced or spare > _SPARE or top is None:
            masked = strongest(self.apply(step.logits, t, histories), count)
            masked = Candidates(masked.ids, masked.logprobs - normaliser[:, None])
            return masked, listed, normaliser
        blocked = None if repeats is None else np.take_along_axis(repeats, top.ids, axis=-1)
        return top.without(never, blocked, count), listed, normaliser

    def apply(self, logprobs: Array, t: int, histories: list[tuple[int, ...]] | None) -> Array:
        """Return (B, V) with -inf for what may not be said; the rest keeps its value.

        Args:
            logprobs: (B, V), the model's, or logits.
            t: words said so far.
            histories: those words, per row; None where no n-gram is blocked.
        """
        xp = array_namespace(logprobs)
        allowed = np.ones((1, self._words), bool)
        if t < len(self._options.prefix):
            allowed[:] = False
            allowed[:, self._options.prefix[t]] = True
        else:
            allowed[:, self._never] = False
            if t < self._options.min_length:
                allowed[:, self._never_or_end] = False
            if histories is not None:
                size = self._options.block_ngram
                allowed = allowed & ~repeated_ngrams(histories, size, self._words)
        return xp.where(self._backend.asarray(allowed), logprobs, -xp.inf)


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
