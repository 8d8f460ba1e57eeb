"""The record of a search, from which the traces of its captions are read.

Every step is recorded once for all rows, with the row that each row continues; a caption is
read backwards at the end. So beams never copy their histories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from regard.backends import Backend
from regard.decoding.filters import Filter, Ids
from regard.decoding.search_options import DecodingOptions
from regard.decoding.topk import Candidates, to_numpy
from regard.types import Annotations, Array, Hypothesis, Step


@dataclass(frozen=True)
class _Recorded:
    """One step: the first three per row after the choice, the others per row before it."""

    parent: np.ndarray
    token: np.ndarray
    logprob: np.ndarray
    alternatives: Candidates | None
    alpha: np.ndarray
    beta: np.ndarray | None
    location: np.ndarray | None


class Record:
    """What happened at each step, for all rows."""

    def __init__(self) -> None:
        self._steps: list[_Recorded] = []

    def __len__(self) -> int:
        """Return the number of steps, which is the number of words that a row has said."""
        return len(self._steps)

    def add(
        self,
        step: Step,
        alternatives: Candidates | None,
        parent: np.ndarray,
        token: np.ndarray,
        logprob: np.ndarray,
    ) -> None:
        """Add one step.

        Args:
            step: what the decoder said, one row per row before the choice.
            alternatives: the strongest words of those rows; None where none are kept.
            parent: (B,) the row that each new row continues.
            token: (B,) the word that it adds.
            logprob: (B,) that word's log-probability.
        """
        beta = None if step.beta is None else to_numpy(step.beta).mean(-1)
        location = None if step.location is None else to_numpy(step.location)
        alpha = to_numpy(step.alpha)
        self._steps.append(_Recorded(parent, token, logprob, alternatives, alpha, beta, location))

    def hypothesis(self, row: int, length: int, *, score: float, finished: bool) -> Hypothesis:
        """Read the caption of the first `length` words that ends in `row`.

        Args:
            row: a row as it stood after step `length`.
            length: T.
            score: passed on.
            finished: passed on.
        """
        path = self._path(row, length)
        cells = self._steps[0].alpha.shape[1]
        return Hypothesis(
            tokens=tuple(int(s.token[after]) for s, after, _ in path),
            logprobs=np.array([s.logprob[after] for s, after, _ in path], np.float64),
            score=score,
            finished=finished,
            alpha=np.array([s.alpha[b] for s, _, b in path], np.float32).reshape(-1, cells),
            beta=self._per_word([(s.beta, b) for s, _, b in path], self._steps[0].beta),
            location=self._per_word([(s.location, b) for s, _, b in path], self._steps[0].location),
            alternatives=tuple(_pairs(s.alternatives, before) for s, _, before in path),
        )

    def _path(self, row: int, length: int) -> list[tuple[_Recorded, int, int]]:
        """Return each step of a caption with its row after the choice and before it."""
        path: list[tuple[_Recorded, int, int]] = []
        for step in reversed(self._steps[:length]):
            before = int(step.parent[row])
            path.append((step, row, before))
            row = before
        return path[::-1]

    @staticmethod
    def _per_word(
        values: list[tuple[np.ndarray | None, int]], first: np.ndarray | None
    ) -> np.ndarray | None:
        """Return (T,) values, also for a caption of no words; None where there are none."""
        if first is None:
            return None
        return np.array([array[row] for array, row in values if array is not None], first.dtype)


def _pairs(candidates: Candidates | None, row: int) -> tuple[tuple[int, float], ...]:
    if candidates is None:
        return ()
    pairs = zip(candidates.ids[row].tolist(), candidates.logprobs[row].tolist(), strict=True)
    # A small vocabulary has fewer than were asked for.
    return tuple((word, logprob) for word, logprob in pairs if logprob > -math.inf)


@dataclass(frozen=True)
class Reading:
    """What the decoder said after a word.

    Attributes:
        step: the decoder's step.
        normaliser: (B,) log sum exp of the step's logits.
        best: (B, M) the strongest words that may be said.
        alternatives: the model's strongest words, the end among them, whether or not they
            may be said; None where none are kept.
    """

    step: Step
    normaliser: np.ndarray
    best: Candidates
    alternatives: Candidates | None


class Stepper:
    """Reads words, moves the state along, and records what happened.

    Rows n·G to (n + 1)·G - 1 are the captions of the n-th item that is still in the batch.
    """

    def __init__(
        self,
        backend: Backend,
        annotations: Annotations,
        options: DecodingOptions,
        ids: Ids,
        captions_per_item: int,
    ) -> None:
        """Start B = N·captions_per_item captions, those of an item in consecutive rows."""
        self._backend, self._options, self._ids = backend, options, ids
        self._projected, self._state = backend.init_state(annotations, captions_per_item)
        self._generator = backend.generator(options.seed)
        self._filter: Filter | None = None  # made when the first step shows the vocabulary's size
        self.rows = self._state.hidden.shape[0]
        self.record = Record()
        self._said: list[tuple[int, ...]] = [()] * self.rows  # kept where n-grams are blocked

    def read(self, token: np.ndarray, count: int) -> Reading:
        """Read the words (B,) that were said last; find the `count` strongest next ones."""
        step = self._backend.step(
            self._backend.asarray(token),
            self._state,
            self._projected,
            context=self._options.context,
            generator=self._generator,
        )
        if self._options.method == "sample":
            _ = step.logits  # all of them will be read: the ranking may as well come of them
        best, alternatives, normaliser = self._filtering(step).choose(
            step, count, len(self.record), self._histories()
        )
        return Reading(step, normaliser, best, alternatives)

    def allowed(self, step: Step) -> Array:
        """Return the step's logits (B, V), -inf for what may not be said."""
        return self._filtering(step).apply(step.logits, len(self.record), self._histories())

    def leaves(self, done: np.ndarray) -> bool:
        """Whether items that are done (N,) should leave the batch.

        To leave costs a copy of the others' annotations; to stay costs their share of a step.
        Sampled locations are drawn for the whole batch, which then stays as it is.
        """
        share = _WORTH_A_COPY if self._projected.copies else 0.0
        return self._options.context != "sample" and bool(done.any() and done.mean() >= share)

    def move(
        self,
        reading: Reading,
        parent: np.ndarray,
        token: np.ndarray,
        logprob: np.ndarray,
        items: np.ndarray | None = None,
    ) -> None:
        """Let every row continue the row `parent` with a word.

        Args:
            reading: what was read last.
            parent: (B',) rows as they were read.
            token: (B',) the words.
            logprob: (B',) the words' log-probabilities.
            items: the items, as they were read, whose rows these are; None: all of them.
        """
        self.record.add(reading.step, reading.alternatives, parent, token, logprob)
        unmoved = len(parent) == self.rows and bool((parent == np.arange(self.rows)).all())
        state = reading.step.state
        self._state = state if unmoved else state.select(self._backend.asarray(parent))
        if items is not None:
            self._projected = self._projected.select(self._backend.asarray(items))
        self.rows = len(parent)
        if self._options.block_ngram:
            words = zip(parent.tolist(), token.tolist(), strict=True)
            self._said = [(*self._said[before], word) for before, word in words]

    def _filtering(self, step: Step) -> Filter:
        if self._filter is None:
            self._filter = Filter(self._backend, self._options, self._ids, step.words)
        return self._filter

    def _histories(self) -> list[tuple[int, ...]] | None:
        return self._said if self._options.block_ngram else None


_WORTH_A_COPY = 0.2
"""Share of items that are done from which the others are copied together."""
