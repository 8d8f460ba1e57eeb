"""What all searches share: the backend's state, the filter and the record, moved together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.backends.base import Backend
from regard.decoding.filters import Filter, Ids
from regard.decoding.search_options import DecodingOptions
from regard.decoding.topk import Candidates
from regard.decoding.trace import Record
from regard.types import Annotations, Array, Step


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
