"""Next words: the strongest logits of each row, without the words that the options rule out.

Works on the arrays of any backend. The array API standard has neither top-k nor log_softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regard.backends import Backend
from regard.errors import ConfigError
from regard.types import Array, Step
from regard.types.decoding import array_namespace

if TYPE_CHECKING:
    from regard.decoding import DecodingOptions


_BLOCK = 64
"""Size of the blocks of words whose maxima are compared first."""
_SPARE = 64
"""Largest number of ruled-out words for which top-k with spares is cheaper than masking (B, V)."""


@dataclass(frozen=True)
class Ids:
    """The special ids of a search.

    Attributes:
        start: id that the decoder reads first.
        end: id that ends a caption.
        forbidden: ids that never occur in a caption (padding, start, unknown).
        unlisted: ids that are never listed as an alternative (padding, start).
    """

    start: int
    end: int
    forbidden: tuple[int, ...] = ()
    unlisted: tuple[int, ...] = ()


@dataclass(frozen=True)
class Candidates:
    """The strongest next words of each row, best first.

    Attributes:
        ids: (B, M).
        logprobs: (B, M) float64; -inf where a row has fewer than M allowed words.
    """

    ids: np.ndarray
    logprobs: np.ndarray

    def without(self, ids: np.ndarray, blocked: np.ndarray | None, count: int) -> Candidates:
        """Return the first `count` of each row that are neither in `ids` nor blocked.

        Args:
            ids: words that are ruled out in every row.
            blocked: (B, M) bool, True for entries ruled out in their row only; None: no others.
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


class Filter:
    """Rules out the words that the options do not allow."""

    def __init__(
        self,
        backend: Backend,
        options: DecodingOptions,
        ids: Ids,
        words: int,
        forms: np.ndarray | None = None,
    ) -> None:
        """Collect the words that are ruled out.

        Args:
            backend: whose arrays are filtered.
            options: prefix, banned words, min_length, block_ngram, name_once.
            ids: the special ids.
            words: V.
            forms: (C, 2) ids of the concepts' forms, for `name_once`.

        Raises:
            ConfigError: an id is outside the vocabulary, or the prefix holds a special id.
        """
        _check_ids(options, ids, words)
        self._never = np.unique([*ids.forbidden, *options.banned]).astype(np.int64)
        self._never_or_end = np.union1d(self._never, [ids.end])
        self._unlisted = np.unique(ids.unlisted).astype(np.int64)
        self._words = words
        self._backend = backend
        self._options = options
        self._forms: dict[int, set[int]] = {}
        if options.name_once and forms is not None:
            for pair in forms.tolist():
                for form in pair:
                    self._forms.setdefault(form, set()).update(pair)

    def _repeats(self, histories: list[tuple[int, ...]]) -> np.ndarray:
        """Return (B, V) bool, True for words that would repeat an n-gram or name a thing again."""
        size = self._options.block_ngram
        repeats = (
            repeated_ngrams(histories, size, self._words)
            if size
            else np.zeros((len(histories), self._words), bool)
        )
        for row, history in enumerate(histories if self._forms else ()):
            for word in history:
                repeats[row, list(self._forms.get(word, ()))] = True
        return repeats

    def choose(
        self, step: Step, count: int, t: int, histories: list[tuple[int, ...]] | None
    ) -> tuple[Candidates, Candidates | None, np.ndarray]:
        """Return the strongest allowed words, and the model's strongest words of all.

        Only a handful of words is ruled out. So that many extra logits are taken and the ruled-out
        ones are dropped, instead of masking all of (B, V).

        Args:
            step: the model's.
            count: M, allowed words to return.
            t: number of words so far.
            histories: those words, per row; None where none is blocked.

        Returns:
            (B, M) allowed words; (B, alternatives) words of the model itself without the
            unlisted ones, or None where the options keep none; and (B,) log sum exp of the
            logits.
        """
        never = self._never_or_end if t < self._options.min_length else self._never
        kept, forced = self._options.alternatives, t < len(self._options.prefix)
        repeats = None
        spare = len(never)
        if histories is not None and not forced:
            repeats = self._repeats(histories)
            spare += int(repeats.sum(1).max(initial=0))
        wanted = 0 if forced or spare > _SPARE else count + spare
        wanted = max(wanted, kept + len(self._unlisted) if kept else 0)
        top = _strongest_of(step, wanted) if wanted else None
        normaliser = _normaliser_of(step)  # after the strongest: a ranking computes both at once
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
        """Return (B, V) with -inf for words that are not allowed; other values are unchanged.

        Args:
            logprobs: (B, V), the model's, or logits.
            t: number of words so far.
            histories: those words, per row; None where none is blocked.
        """
        xp = array_namespace(logprobs)
        allowed = np.ones((1, self._words), bool)
        if t < len(self._options.prefix):
            allowed[:] = False
            allowed[:, self._options.prefix[t]] = True
        else:
            allowed[:, self._never_or_end if t < self._options.min_length else self._never] = False
            if histories is not None:
                allowed = allowed & ~self._repeats(histories)
        return xp.where(self._backend.asarray(allowed), logprobs, -xp.inf)


def _check_ids(options: DecodingOptions, ids: Ids, words: int) -> None:
    for name, values in (("prefix", options.prefix), ("banned", options.banned)):
        outside = [value for value in values if not 0 <= value < words]
        if outside:
            raise ConfigError(
                f"{name} holds the id {outside[0]}; the vocabulary has the ids 0 to {words - 1}."
            )
    special = {ids.end, *ids.forbidden}.intersection(options.prefix)
    if special:
        raise ConfigError(
            f"prefix holds the special id {min(special)}, which is not a word of a caption. "
            "Give only words."
        )


def repeated_ngrams(histories: list[tuple[int, ...]], size: int, words: int) -> np.ndarray:
    """Return (B, V) bool, True for a word that would repeat an n-gram.

    Args:
        histories: the words so far, per row.
        size: n, at least 1.
        words: V.
    """
    repeats = np.zeros((len(histories), words), bool)
    for row, history in enumerate(histories):
        tail = history[len(history) - size + 1 :]
        for i in range(len(history) - size + 1):
            if history[i : i + size - 1] == tail:
                repeats[row, history[i + size - 1]] = True
    return repeats


def keep_likely(logits: np.ndarray, options: DecodingOptions) -> np.ndarray:
    """Return (B, V) with -inf for the words that top_k and top_p leave out.

    Nucleus sampling (Holtzman et al. 2020) keeps the smallest set of most likely words whose
    probability reaches p, chosen among top_k's words where both are given. The most likely word
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
    # Where no word is allowed the maximum is -inf, and -inf - -inf is NaN.
    p = np.exp(ordered - np.maximum(ordered[:, :1], np.finfo(ordered.dtype).min))
    before = np.cumsum(p, axis=-1) - p
    if options.top_p < 1:
        ordered[before >= options.top_p * p.sum(-1, keepdims=True)] = -np.inf
    kept = np.full_like(logits, -np.inf)
    np.put_along_axis(kept, order, ordered, axis=-1)
    return kept


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities over the last axis."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def log_normaliser(logits: Array) -> np.ndarray:
    """Return log sum exp over the last axis, (B,) float64: logits less this are log p."""
    xp = array_namespace(logits)
    if hasattr(xp, "logsumexp"):  # torch's allocates no second (B, V)
        return to_numpy(xp.logsumexp(logits, -1)).astype(np.float64)
    top = xp.max(logits, axis=-1, keepdims=True)
    total = xp.sum(xp.exp(logits - top), axis=-1)
    return (to_numpy(top)[..., 0] + np.log(to_numpy(total))).astype(np.float64)


def _normaliser_of(step: Step) -> np.ndarray:
    """Return log sum exp of a step's logits, (B,) float64."""
    return log_normaliser(step.logits) if step.ranking is None else step.ranking.normaliser


def _strongest_of(step: Step, count: int) -> Candidates:
    """Return the `count` largest logits of each row of a step, best first."""
    if step.ranking is None:
        return strongest(step.logits, count)
    return Candidates(*step.ranking.strongest(count))


def strongest(logprobs: Array, count: int) -> Candidates:
    """Return the `count` largest entries of each row, best first; ties go to the smaller id.

    The `count` largest entries lie in the `count` blocks of words with the largest maxima. One
    pass over the vocabulary finds those blocks, and only they are copied to numpy.

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
    # (B, M) blocks, then (B, M·64) ids of their words. Sorted, so that ties go to the smaller id.
    blocks = np.sort(_largest(maxima, count)[0], axis=-1)
    ids = (blocks[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(rows, -1)
    beyond = ids >= words  # in the last block, which may be shorter
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
        absent: (B, K) bool, entries to skip.
    """
    # A chosen entry becomes -inf, below all the others: no column is chosen twice.
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
